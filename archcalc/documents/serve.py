"""The `serve` report: what a device's memory goes to, and what is left for requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from archcalc.calc.sharding import check_heads
from archcalc.documents.conventions import ENGINES_PAD, cache_lines, padding_notes
from archcalc.documents.document import Column, Report, Table
from archcalc.documents.flops import context_notes
from archcalc.documents.weights import what_if
from archcalc.errors import InputError
from archcalc.files.model import Spec
from archcalc.hardware import Hardware, hardware_names, load_hardware
from archcalc.serving import memory
from archcalc.serving.deployment import Deployment, Spread, Vision
from archcalc.serving.engine import Engine, load_engine
from archcalc.serving.memory import Load, Serving, Tried, tried
from archcalc.tape import Tape
from archcalc.units import format_int
from archcalc.workload import Workload

COUNTING = (
    "Usable is utilization x visible memory; the KV cache gets what weights and overhead leave of it.",
    "Weights: heads, feed-forward width and vocabulary divided by tp; routed experts over all GPUs, as"
    " whole ones with ep; the rest whole on every GPU.",
)
TERMS = (
    Column("path", "memory of one GPU"),
    Column("bytes", "bytes", "bytes"),
    Column("share", "share", "share"),
    Column("whole", "whole model", "bytes"),
)
COUNTS = (
    Column("gpus", "GPUs", "int"),
    Column("nodes", "nodes", "int"),
    Column("tp", "tp", "int"),
    Column("weights_bytes", "weights per GPU", "bytes"),
    Column("overhead_bytes", "overhead per GPU", "bytes"),
    Column("kv_budget_bytes", "room for KV cache", "bytes"),
    Column("max_tokens", "cached tokens", "tokens"),
    Column("max_batch", "sequences", "int"),
    Column("fits", "fits", "bool"),
)
OVERHEAD_LABELS = {
    "activation": "activation workspace",
    "cuda_graphs": "CUDA graphs",
    "non_torch": "non-torch (contexts, communication)",
    "given": "overhead, as given",
}
OVERHEAD_KEYS = ("activation.bytes_per_token", "non_torch_bytes", "cuda_graph_bytes")
"""Profile keys whose assumptions do not matter once the overhead is given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked of a GPU.

    Attributes:
        spec: the model.
        storage: name of how its weights are stored, as in the `weights` report.
        engine: the serving engine's profile.
        spread: counts, some of them open.
        load: what is to be served.
    """

    spec: Spec
    storage: str = "released"
    engine: Engine
    spread: Spread
    load: Load

    @property
    def tape(self) -> Tape:
        """The model's weights and caches."""
        return self.spec.trace(Workload())

    def on(self, hardware: Hardware) -> Tried:
        """Every count that was tried on this GPU. Raises InputError where the model can't be divided."""
        tape, scheme = self.tape, what_if(self.spec, self.storage)
        if self.spread.tp is not None:
            check_heads(tape, self.spread.tp)
        return tried(
            lambda tp: memory.serve(tape, scheme, hardware, self.engine, self.spread.at(tp), self.load),
            self.spread.sizes(),
        )


def serve(
    spec: Spec,
    *,
    gpu: str | None = None,
    gpus: int | Literal["auto"] | None = None,
    tp: int | None = None,
    dp: int = 1,
    ep: int | Literal["all"] = 1,
    dcp: int = 1,
    context: int | None = None,
    batch: int = 1,
    kv_dtype: str = "bf16",
    as_: str = "released",
    language_only: bool = False,
    vision: Vision | None = None,
    utilization: float | None = None,
    overhead: int | None = None,
    batched_tokens: int | None = None,
    block_size: int | None = None,
    engine: str = "vllm",
) -> Report:
    """The `serve` command. `gpu` and `engine` are files or bundled names. `overhead` in [bytes]. Raises InputError."""
    if gpu is None:
        raise InputError("no GPU is named", hint=f"add --gpu {', '.join(hardware_names())}, a file, or all")
    profile = load_engine(engine)
    load = Load(
        context=spec.backbone.max_position_embeddings if context is None else context,
        batch=batch,
        kv_dtype=kv_dtype,
        utilization=utilization,
        overhead=overhead,
        batched_tokens=batched_tokens,
        block_size=block_size,
        language_only=language_only,
    )
    spread = Spread(
        gpus=None if gpus == "auto" else gpus,
        tp=tp,
        dp=dp,
        ep=None if ep == "all" else ep,
        dcp=dcp,
        vision=vision or profile.tensor_parallel.vision,
    )
    asked = Question(spec=spec, storage=as_, engine=profile, spread=spread, load=load)
    if gpu == "all":
        return serve_all_report(asked, [load_hardware(name) for name in hardware_names()])
    return serve_report(asked, load_hardware(gpu))


def serve_report(asked: Question, hardware: Hardware) -> Report:
    """The answer on one kind of GPU; with counts left open, on the fewest that fit. Raises InputError."""
    tries = asked.on(hardware)
    best, several = tries.found[-1], len(asked.spread.sizes()) > 1
    counts = Table("counts", "GPU counts tried", COUNTS, [_count_row(s, hardware) for s in tries.found])
    verdict = "fits on" if best.fits else "does not fit even on" if several else "does not fit on"
    where, load = best.where, asked.load
    limits = {"serve.max_tokens": best.max_tokens, "serve.max_context": best.max_context}
    return Report(
        command="serve",
        title=f"{asked.spec.title} {verdict} {where.devices} x {hardware.title}: {_sequences(load)}",
        inputs={
            **_inputs(asked),
            "gpu": hardware.name,
            "gpus": where.devices,
            "tp": where.tp,
            "ep": where.ep,
            "block_size": best.block_size,
        },
        quantities={
            "serve.fits": best.fits,
            "serve.gpus": where.devices,
            "serve.weights_bytes": best.weights_bytes,
            "serve.overhead_bytes": best.overhead_bytes,
            "serve.kv_bytes": best.kv_bytes,
            "serve.kv_budget_bytes": best.kv_budget,
            **{name: n for name, n in limits.items() if n is not None},
            "serve.context_limit": asked.spec.backbone.max_position_embeddings,
            **({} if best.max_batch is None else {"serve.max_batch": best.max_batch}),
        },
        rows=Table("rows", f"each of {where.devices}, {_spread(where)}", TERMS, _terms(best, load)),
        tables=[counts] if several else [],
        assumptions=_assumptions(asked, [(hardware, best)]),
        conventions=(*COUNTING, *cache_lines(asked.tape, "Cache", "dp")),
        notes=[*_notes(asked, hardware, best), *_refusals(tries), *_unloaded(asked)],
    )


def serve_all_report(asked: Question, gpus: list[Hardware]) -> Report:
    """The answer on every kind of GPU, the smallest memory first. Raises InputError."""
    ordered = sorted(gpus, key=lambda h: (h.memory_visible_bytes, h.name))
    best = [(hardware, asked.on(hardware).found[-1]) for hardware in ordered]
    rows = [{"path": h.name, "title": h.title, **_count_row(s, h)} for h, s in best]
    count = asked.spread.gpus
    return Report(
        command="serve",
        title=f"{asked.spec.title} on every GPU: {_sequences(asked.load)}",
        inputs={**_inputs(asked), "gpu": "all"},
        quantities={
            "serve.fits": any(s.fits for _, s in best),
            "serve.context_limit": asked.spec.backbone.max_position_embeddings,
        },
        rows=Table(
            "rows",
            "the fewest GPUs that fit" if count is None else f"{count} of each GPU",
            (Column("path", "GPU"), *COUNTS),
            rows,
        ),
        assumptions=_assumptions(asked, best),
        conventions=(*COUNTING, *cache_lines(asked.tape, "Cache", "dp")),
        notes=[
            *context_notes(asked.spec, asked.load.context),
            *padding_notes((each for _, s in best for each in s.padded), ENGINES_PAD),
            *_unloaded(asked),
        ],
    )


def _inputs(asked: Question) -> dict[str, Any]:
    load, spread, engine = asked.load, asked.spread, asked.engine
    return {
        "spec": asked.spec.name,
        "as": asked.storage,
        "engine": engine.name,
        "gpus": "auto" if spread.gpus is None else spread.gpus,
        "tp": spread.tp,
        "dp": spread.dp,
        "ep": "all" if spread.ep is None else spread.ep,
        "dcp": spread.dcp,
        "vision": None if load.language_only or asked.spec.vision is None else spread.vision,
        "language_only": load.language_only,
        "kv_dtype": load.kv_dtype,
        "context": load.context,
        "batch": load.batch,
        "utilization": engine.utilization if load.utilization is None else load.utilization,
        "overhead": load.overhead,
        "batched_tokens": load.batched_tokens,
        "block_size": load.block_size,
    }


def _sequences(load: Load) -> str:
    return f"{load.batch} x {format_int(load.context)} tokens in {load.kv_dtype}"


def _spread(where: Deployment) -> str:
    more = [f"{name} {n}" for name, n in (("dp", where.dp), ("ep", where.ep), ("dcp", where.dcp)) if n > 1]
    return ", ".join([f"tp {where.tp}", *more])


def _count_row(s: Serving, hardware: Hardware) -> dict[str, Any]:
    return {
        "gpus": s.where.devices,
        "nodes": -(-s.where.devices // hardware.devices_per_node),
        "tp": s.where.tp,
        "weights_bytes": s.weights_bytes,
        "overhead_bytes": s.overhead_bytes,
        "kv_bytes": s.kv_bytes,
        "kv_budget_bytes": s.kv_budget,
        "max_tokens": s.max_tokens,
        "max_context": s.max_context,
        "max_batch": s.max_batch,
        "fits": s.fits,
    }


def _terms(s: Serving, load: Load) -> list[dict[str, Any]]:
    """Everything that a device's visible memory goes to; the rows without indent add up to it."""
    rows = [_term("weights", "weights", s.weights_bytes, s, whole=sum(w.whole for w in s.weights))]
    for role in dict.fromkeys(w.weight.role for w in s.weights):
        members = [w for w in s.weights if w.weight.role == role]
        held, whole = sum(w.held for w in members), sum(w.whole for w in members)
        rows.append(_term(f"weights.{role}", role.replace("_", " "), held, s, whole=whole, depth=1))
    rows += [_term(term.kind, OVERHEAD_LABELS[term.kind], term.nbytes, s) for term in s.overhead]
    rows += [
        _term("kv", f"KV cache of {load.batch} x {format_int(load.context)} tokens", s.kv_bytes, s),
        _term("free", "free for more KV cache" if s.fits else "missing", s.free, s),
        _term("kept_back", "not used (utilization)", s.visible - s.usable, s),
        _term("visible", "visible memory", s.visible, s),
    ]
    total = sum(row["bytes"] for row in rows[:-1] if not row["depth"])
    if total != s.visible:
        raise AssertionError(f"terms add up to {total}, not to {s.visible}")
    return rows


def _term(
    path: str, label: str, nbytes: int, s: Serving, *, whole: int | None = None, depth: int = 0
) -> dict[str, Any]:
    return {
        "path": path,
        "label": label,
        "bytes": nbytes,
        "share": nbytes / s.visible,
        "whole": whole,
        "depth": depth,
    }


def _assumptions(asked: Question, best: Sequence[tuple[Hardware, Serving]]) -> list[str]:
    """The constants that the answers rest on, then what the files say of them."""
    engine, load = asked.engine, asked.load
    constants: dict[str, list[str]] = {}
    for hardware, s in best:
        for line in _constants(engine, hardware, s, load):
            constants.setdefault(line, []).append(hardware.name)
    lines = [
        f"{engine.name}: {line}" + ("" if len(names) == len(best) else f" ({', '.join(names)})")
        for line, names in constants.items()
    ]
    kept = [line for line in engine.assumed if load.overhead is None or not line.startswith(OVERHEAD_KEYS)]
    about = [f"{h.name}: {line}" for h, _ in best for line in h.assumptions if line.startswith("memory_")]
    about += [f"{h.name}: {line}" for h, s in best for line in h.defaults if "devices" in line and s.where.devices > 1]
    return [*lines, *(f"{engine.name}: {line}" for line in kept), *about]


def _constants(engine: Engine, hardware: Hardware, s: Serving, load: Load) -> list[str]:
    lines = []
    if load.utilization is None:
        lines.append(f"utilization {engine.utilization} of the visible memory")
    if load.block_size is None:
        lines.append(f"cache pages of {s.block_size} tokens")
    if load.overhead is not None:
        return lines
    per_token = format_int(engine.activation.bytes_per_token)
    tokens = load.batched_tokens or engine.activation.batched_tokens(hardware)
    amounts = {term.kind: format_int(term.nbytes) for term in s.overhead}
    count = "one GPU" if s.where.devices == 1 else "several GPUs"
    return [
        *lines,
        f"activation workspace of {per_token} bytes x {format_int(tokens)} tokens a step",
        f"CUDA graphs of {amounts['cuda_graphs']} bytes",
        f"non-torch memory of {amounts['non_torch']} bytes with {count}",
    ]


def _notes(asked: Question, hardware: Hardware, s: Serving) -> list[str]:
    notes = context_notes(asked.spec, asked.load.context)
    where, limit = s.where, asked.spec.backbone.max_position_embeddings
    if not s.fits:
        notes.append(f"Each GPU is {format_int(-s.free)} bytes short.")
    notes += padding_notes(s.padded, ENGINES_PAD)
    if s.max_context is None:
        notes.append("What a sequence caches has an end, and fits: serve.max_context and max_tokens have no limit.")
    elif s.max_context > limit:
        notes.append(f"Memory would hold a longer sequence than the model's limit of {format_int(limit)} tokens.")
    nodes = -(-where.devices // hardware.devices_per_node)
    if nodes > 1:
        notes.append(f"{where.devices} GPUs are {nodes} nodes of {hardware.devices_per_node}.")
    most = asked.engine.activation.sequences(hardware) * where.dp
    if asked.load.batch > most:
        notes.append(f"{asked.engine.name} runs at most {format_int(most)} sequences at once by default; others wait.")
    if 1 < where.ep < where.devices:
        notes.append("ep below tp x dp: each expert is divided further. vLLM has ep 1 and tp x dp only.")
    if where.ep > 1 and where.tp > 1 and where.dp > 1:
        notes.append("Shared experts are divided by tp; with tp, dp and ep together vLLM may keep them whole.")
    return notes


def _refusals(tries: Tried) -> list[str]:
    """Why sizes were left out, where one of them might have fitted."""
    if tries.found[-1].fits:
        return []
    return [
        f"tp {tp} was left out: {error.message}{f' ({error.hint})' if error.hint else ''}."
        for tp, error in tries.refused.items()
        if tp > tries.found[-1].where.tp
    ]


def _unloaded(asked: Question) -> list[str]:
    notes = []
    if asked.load.language_only and asked.spec.vision is not None:
        notes.append("Vision tower and projector are not loaded.")
    if asked.spec.backbone.num_nextn_predict_layers:
        notes.append("The multi-token-prediction module is not loaded: speculative decoding with it takes more memory.")
    return notes
