"""Rows and sentences of the `serve` report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from archcalc.documents.conventions import ENGINES_PAD, padding_notes
from archcalc.documents.document import Column, Table
from archcalc.documents.flops import context_notes
from archcalc.documents.said import spare
from archcalc.files.model import Spec
from archcalc.hardware import Hardware
from archcalc.serving.engine import Engine
from archcalc.serving.levers import Lever
from archcalc.serving.memory import Serving
from archcalc.serving.overhead import Load, step_of
from archcalc.serving.search import Question, called
from archcalc.units import format_bytes, format_int

COUNTING = (
    "Usable is the engine's share of the memory; the KV cache gets what weights and overhead leave of it.",
    "Weights: heads, feed-forward width and vocabulary divided by tp; layers by pp; routed experts over tp x dp, as"
    " whole ones with ep; the rest whole on every GPU.",
    "Each assumed term has a range; the verdict is that of the middle, tight where the ends disagree. What an engine"
    " takes on top of its share shrinks no pool; without room for the least of it nothing fits.",
    "Not modelled: KV cache in the host's memory, prefixes that sequences share, and videos in an engine's largest"
    " step.",
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
    Column("layout", "layout"),
    Column("weights_bytes", "weights per GPU", "bytes"),
    Column("overhead_bytes", "overhead per GPU", "bytes"),
    Column("kv_budget_bytes", "room for KV cache", "bytes"),
    Column("max_tokens", "cached tokens", "tokens"),
    Column("max_batch", "sequences", "int"),
    Column("verdict", "verdict", keep=True),
)
ALL_COLUMNS = (Column("path", "GPU"), *COUNTS[:-1], Column("price_per_hour", "an hour", "number"), COUNTS[-1])
LEVERS = (
    Column("path", "change"),
    Column("flags", "flags"),
    Column("verdict", "verdict"),
    Column("margin_bytes", "left per GPU", "bytes"),
    Column("max_tokens", "cached tokens", "tokens"),
    Column("max_batch", "sequences", "int"),
)
OVERHEAD = (
    Column("path", "term"),
    Column("low", "from", "bytes"),
    Column("bytes", "middle", "bytes"),
    Column("high", "to", "bytes"),
    Column("counted", "counted"),
)
OVERHEAD_LABELS = {
    "activation": "activation of one step",
    "cuda_graphs": "CUDA graphs",
    "non_torch": "non-torch (contexts, communication)",
    "absorbed": "second copy of MLA's up-projection",
    "rotary": "rotary tables",
    "draft": "draft model",
    "mtp": "multi-token-prediction module",
    "lora": "LoRA buffers",
    "given": "overhead, as given",
}
ASSUMED = ("activation", "cuda_graphs", "non_torch")
"""Terms that rest on a range."""

OVERHEAD_KEYS = ("activation", "non_torch_bytes", "cuda_graphs", "max_model_len")
"""Profile keys whose assumptions do not matter once the overhead is given."""


def count_row(s: Serving, hardware: Hardware) -> dict[str, Any]:
    """One number of GPUs."""
    where = s.where
    return {
        "gpus": where.devices,
        "nodes": hardware.nodes(where.devices),
        "layout": called(where) + ("" if s.load.kv_dtype == "bf16" else f", {s.load.kv_dtype}"),
        **{name: getattr(where, name) for name in ("tp", "pp", "dp", "ep", "dcp")},
        "weights_bytes": s.weights_bytes,
        "overhead_bytes": s.overhead_bytes,
        "kv_bytes": s.kv_bytes,
        "kv_budget_bytes": s.kv_budget,
        "kv_bytes_low": s.kv_bounds.low,
        "kv_bytes_high": s.kv_bounds.high,
        "margin_bytes": s.margin,
        "max_tokens": s.max_tokens,
        "max_context": s.max_context,
        "max_batch": s.max_batch,
        "visible_bytes": s.visible,
        "fits": s.fits,
        "verdict": verdict(s.word, s.fits),
    }


def verdict(word: str, fits: bool) -> str:
    """In a word, and how a tight one was decided."""
    return word if word != "tight" else f"tight ({'fits' if fits else 'does not fit'})"


def best_of(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The first row whose GPUs hold the model with room for what is assumed, of rows in order; else the first whose
    GPUs just hold it; None where none do."""
    fitting = [row for row in rows if row["fits"]]
    return next((row for row in fitting if row["verdict"] == "fits"), fitting[0] if fitting else None)


def term_rows(s: Serving) -> list[dict[str, Any]]:
    """Everything that a device's visible memory goes to; the rows without indent add up to it."""
    worst = s.worst
    whole: dict[str, int] = {}
    for device in s.devices:
        for w in device.weights:
            whole[w.weight.role] = whole.get(w.weight.role, 0) + w.whole
    rows = [_term("weights", "weights", s.weights_bytes, s, whole=sum(whole.values()))]
    for role in dict.fromkeys(w.weight.role for w in worst.weights):
        held = sum(w.held for w in worst.weights if w.weight.role == role)
        rows.append(_term(f"weights.{role}", role.replace("_", " "), held, s, whole=whole[role], depth=1))
    for term in worst.terms:
        row = _term(term.kind, OVERHEAD_LABELS[term.kind], term.bounds.middle, s)
        ends = {} if term.bounds.low == term.bounds.high else {"low": term.bounds.low, "high": term.bounds.high}
        rows.append({**row, **ends})
    unused = s.visible - s.usable
    free = _term("free", "free for more KV cache" if s.free >= 0 else "missing", s.free, s)
    rows += [
        _term("kv", f"KV cache of {s.load.batch} x {format_int(s.load.context)} tokens", s.kv_bytes, s),
        {**free, "low": worst.room("high") - s.kv_bytes, "high": worst.room("low") - s.kv_bytes},
        _term("kept_back", "not used (utilization)" if unused >= 0 else "beyond what is visible", unused, s),
        _term("visible", "visible memory", s.visible, s),
    ]
    total = sum(row["bytes"] for row in rows[:-1] if not row["depth"])
    if total != s.visible:
        raise AssertionError(f"terms add up to {total}, not to {s.visible}")
    return rows


def _term(
    path: str, label: str, nbytes: int, s: Serving, *, whole: int | None = None, depth: int = 0
) -> dict[str, Any]:
    """A row of what the visible memory goes to; its label says of a negative one what it is."""
    return {
        "path": path,
        "label": label,
        "bytes": nbytes,
        "low": None,
        "high": None,
        "share": nbytes / s.visible,
        "whole": whole,
        "depth": depth,
        **({"below_zero": True} if nbytes < 0 else {}),
    }


def overhead_table(s: Serving, engine: Engine) -> Table:
    """What stands beside weights and cache, with the range of each term."""
    rows = [
        {
            "path": term.kind,
            "label": OVERHEAD_LABELS[term.kind],
            "low": term.bounds.low,
            "bytes": term.bounds.middle,
            "high": term.bounds.high,
            "counted": "on top of the share" if term.outside else "inside the share",
        }
        for term in s.worst.terms
    ]
    return Table("overhead", f"overhead by {engine.title}", OVERHEAD, rows)


def lever_table(changes: Sequence[Lever], s: Serving) -> list[Table]:
    """Each change with what it leads to; none where there is nothing to change."""
    if not changes:
        return []
    rows = []
    for change in changes:
        got = change.serving
        rows.append(
            {
                "path": change.name,
                "flags": change.flags,
                "verdict": "refused" if got is None else verdict(got.word, got.fits),
                "refused": change.refused or None,
                "fits": None if got is None else got.fits,
                "gpus": None if got is None else got.where.devices,
                "gpu": change.hardware.name,
                "margin_bytes": None if got is None else got.margin,
                "max_tokens": None if got is None else got.max_tokens,
                "max_batch": None if got is None else got.max_batch,
            }
        )
    title = "what each change would buy" if s.fits else "what would make it fit"
    refused = [f"{change.flags} is refused: {change.refused}." for change in changes if change.refused]
    return [Table("levers", title, LEVERS, rows, note=" ".join(refused))]


def host_ways(s: Serving, hardware: Hardware) -> dict[str, int]:
    """How experts on the host may be read, and how fast at most, all GPUs and nodes together [bytes/s]: by the GPUs
    (vLLM and SGLang fetch them), or by the host's processors (llama.cpp, KTransformers compute there)."""
    nodes, ways = hardware.nodes(s.where.devices), {}
    if hardware.links is not None:
        ways["over PCIe by the GPUs"] = hardware.links.pcie_bytes_per_s * s.where.devices
    if hardware.host is not None:
        ways["by the host's processors from its memory"] = hardware.host.memory_bandwidth * nodes
    return ways


def host_table(s: Serving, hardware: Hardware) -> list[Table]:
    """Experts in the host's memory: what they take, and the tokens a second that reading them allows."""
    host = s.host
    if host is None:
        return []
    rows: list[dict[str, Any]] = [
        {"path": f"experts of {len(host.layers)} layers in the host's memory", "bytes": host.nbytes},
        {"path": "read for one decoded token", "bytes": host.token_bytes},
        {"path": f"read for a step of the {host.sequences} asked for", "bytes": host.step_bytes},
    ]
    if hardware.host is not None:
        nodes = hardware.nodes(s.where.devices)
        rows.append({"path": "memory of the hosts", "bytes": nodes * hardware.host.memory_bytes})
    for way, bandwidth in host_ways(s, hardware).items():
        speed = float(host.tokens_per_second(bandwidth))
        rows.append({"path": f"at most, read {way}", "bytes": None, "tokens_per_second": speed})
    columns = (
        Column("path", "experts on the host"),
        Column("bytes", "bytes", "bytes"),
        Column("tokens_per_second", "tokens/s", "number"),
    )
    return [Table("host", "experts in the host's memory", columns, rows)]


def assumptions(question: Question, best: Sequence[tuple[Hardware, Serving]]) -> list[str]:
    """The constants that the answers rest on, then what the files say of them."""
    engine, load = question.engine, question.load
    constants: dict[str, list[str]] = {}
    for hardware, s in best:
        for line in _constants(question, hardware, s, alone=len(best) == 1):
            constants.setdefault(line, []).append(hardware.name)
    lines = [
        f"{engine.name}: {line}" + ("" if len(names) == len(best) else f" ({', '.join(names)})")
        for line, names in constants.items()
    ]
    kept = [line for line in engine.assumed if load.overhead is None or not line.startswith(OVERHEAD_KEYS)]
    about = [f"{h.name}: {line}" for h, _ in best for line in h.assumptions if line.startswith("memory_")]
    pairs = [(h, s) for h, s in best if s.where.group > 1 and h.links is None]
    about += [f"{h.name}: links: not given, taken as PCIe" for h, _ in pairs]
    nodes = [
        f"{h.name}: {line}"
        for h, s in best
        for line in h.defaults
        if line.startswith("devices") and s.where.devices > 1
    ]
    return [*lines, *(f"{engine.name}: {line}" for line in kept), *about, *nodes]


def _constants(question: Question, hardware: Hardware, s: Serving, *, alone: bool) -> list[str]:
    engine, load = question.engine, question.load
    lines = []
    if load.utilization is None:
        of = "the visible memory" if engine.share_of == "visible" else "what is free before weights are loaded"
        lines.append(f"utilization {float(s.worst.share):g} of {of}")
    if load.block_size is None:
        lines.append(f"cache pages of {s.block_size} tokens")
    if load.overhead is not None:
        return lines
    step = step_of(engine, hardware, load)
    if load.batched_tokens is None:
        lines.append(f"steps of {format_int(step.tokens)} tokens (max_num_batched_tokens)")
    if load.max_num_seqs is None:
        lines.append(f"at most {format_int(step.sequences)} sequences at once (max_num_seqs)")
    if load.sampler is None:
        lines.append(f"sampler {step.sampler}")
    for term in s.worst.terms if alone else ():
        if term.kind in ASSUMED:
            low, high = (format_bytes(n) for n in term.bounds)
            lines.append(f"{OVERHEAD_LABELS[term.kind]}: {low if low == high else f'{low} to {high}'}")
    return lines


def notes(spec: Spec, question: Question, hardware: Hardware, s: Serving) -> list[str]:
    """Warnings, and what a reader should know of the layout."""
    load, where, limit = s.load, s.where, spec.backbone.max_position_embeddings
    said = context_notes(spec, load.context)
    if not s.fits:
        said.append(f"Each GPU is {format_int(-s.margin)} bytes short.")
    if s.word == "tight":
        margins = s.margins
        said.append(
            f"Tight: {_spare(margins.low)} to {_spare(margins.high)}, by what is assumed"
            f" of {question.engine.name}'s overhead. A log of yours narrows it: --log FILE."
        )
    said += padding_notes(s.padded, ENGINES_PAD)
    said += [*_beyond(s), *_on_the_host(s, hardware)]
    said += _pages(s)
    if s.max_context is None:
        said.append("What a sequence caches has an end, and fits: serve.max_context and max_tokens have no limit.")
    elif s.max_context > limit:
        said.append(f"Memory would hold a longer sequence than the model's limit of {format_int(limit)} tokens.")
    nodes = hardware.nodes(where.devices)
    if nodes > 1:
        said.append(f"{where.devices} GPUs are {nodes} nodes of {hardware.devices_per_node}.")
    most = step_of(question.engine, hardware, load).sequences * where.dp
    if load.batch > most:
        said.append(f"{question.engine.name} runs at most {format_int(most)} sequences at once; others wait.")
    if where.pp > 1:
        said.append(f"Figures are those of the fullest stage, with {len(s.worst.stage)} layers.")
    if 1 < where.ep < where.group:
        said.append("ep below tp x dp: each expert is divided further. vLLM has ep 1 and tp x dp only.")
    if where.ep > 1 and where.tp > 1 and where.dp > 1:
        said.append("Shared experts are divided by tp; with tp, dp and ep together vLLM may keep them whole.")
    if load.lora_rank and question.served.has_experts:
        said.append("Buffers for adapters of routed experts are not counted: vLLM has them from 0.12 on.")
    return [*said, *unloaded(spec, load)]


def _spare(nbytes: int) -> str:
    return f"{format_bytes(abs(nbytes))}{spare(nbytes)[1]}"


def _beyond(s: Serving) -> list[str]:
    """Where what an engine does not count against its share may have no room beside it."""
    over = s.worst.beyond("high")
    if over <= 0:
        return []
    most = f"up to {format_bytes(over)}" if s.worst.beyond("low") <= 0 else format_bytes(s.worst.beyond("low"))
    return [
        f"warning: what the engine takes on top of its share passes the visible memory by {most}: lower --utilization."
    ]


def _on_the_host(s: Serving, hardware: Hardware) -> list[str]:
    """Where experts don't fit in the host's memory, or nobody says how much that is."""
    if s.host is None:
        return []
    if hardware.host is None:
        return [f"Experts on the host: add host.memory_bytes and host.memory_bandwidth to {hardware.name}'s file."]
    has = hardware.nodes(s.where.devices) * hardware.host.memory_bytes
    if s.host.nbytes <= has:
        return []
    return [f"warning: experts take {format_bytes(s.host.nbytes)} of the host's memory, which is {format_bytes(has)}."]


def _pages(s: Serving) -> list[str]:
    """How layers that cache by different spans share pages."""
    pool = s.pool
    if pool.whole:
        more = format_bytes(pool.more)
        return [f"This engine keeps windows as if they were whole sequences: {more} more than a sequence caches."]
    if not pool.hybrid:
        return []
    layers = len(s.worst.stage)
    windows = ", and a window keeps a step's tokens and a page more" if pool.windows else ""
    states = " A page holds the state of a layer, and a state takes one." if pool.states else ""
    return [
        f"Pages of {format_int(s.block_size)} tokens are shared by {pool.groups} groups of {pool.group} layers:"
        f" {pool.padding} of {layers + pool.padding} are padding{windows}.{states} A sequence takes"
        f" {format_bytes(pool.more)} more than it caches."
    ]


def unloaded(spec: Spec, load: Load) -> list[str]:
    """Parts of a model that are not loaded, and whether multi-token prediction is."""
    said = []
    if load.language_only and spec.vision is not None:
        said.append("Vision tower and projector are not loaded.")
    if spec.backbone.mtp_stored is False:
        said.append("The release does not hold the multi-token-prediction module: it can't be loaded.")
    elif spec.backbone.num_nextn_predict_layers and not load.mtp:
        said.append("The multi-token-prediction module is not loaded: --mtp adds it.")
    elif spec.backbone.mtp_stored is None:
        said.append("Whether the release holds the multi-token-prediction module that --mtp loads is not known.")
    if load.mtp:
        said.append("Multi-token prediction is in: its weights in the overhead, its cache with the others.")
    return said
