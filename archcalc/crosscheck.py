"""The cross-check: archcalc's tape against the torch twin, and against Hugging Face transformers.

Only here do the two meet. The twin gets plain mappings; nothing of it knows a tape, and no calculator knows torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.util import find_spec
from typing import Any, NamedTuple

from archcalc.calc.activations import saved_bytes
from archcalc.calc.kv_cache import cache_rows
from archcalc.calc.sharding import Shards
from archcalc.calc.weights import stored_rows
from archcalc.errors import InputError, did_you_mean
from archcalc.plan.savers import savers
from archcalc.plan.schedule import Pipeline, get_schedule, most_live
from archcalc.report.document import Column, Report, Table
from archcalc.report.weights import what_if
from archcalc.spec.model import Spec
from archcalc.tape import Segment, Tape, value
from archcalc.workload import Workload

Plain = Mapping[str, Any]
Progress = Callable[[str], None]

KINDS = ("params", "flops", "kv", "weights", "activations", "schedule")
"""What can be compared with the twin; transformers answers the first two."""

SEQ = 4096
IMAGE = (1024, 768)
CACHE = (2, SEQ)
PATCHES = 1024

COLUMNS = (
    Column("kind", "kind"),
    Column("paths", "paths", "int"),
    Column("parts", "parts", "int"),
    Column("ours", "archcalc", "int"),
    Column("theirs", "torch", "int"),
    Column("result", "result"),
)
DIFFERENT = (
    Column("kind", "kind"),
    Column("path", "path"),
    Column("setting", "setting"),
    Column("count", "x", "int"),
    Column("ours", "archcalc", "int"),
    Column("theirs", "torch", "int"),
    Column("difference", "difference", "int"),
)


class Setting(NamedTuple):
    """One way to keep activations that both sides work out."""

    kernels: str
    router_probs: str
    recompute: tuple[str, ...] = ()
    fp8: tuple[str, ...] = ()

    def __str__(self) -> str:
        pieces = [self.kernels, f"probs@{self.router_probs}"]
        return " ".join([*pieces, *(f"+{name}" for name in (*self.recompute, *self.fp8))])


K2 = ("layernorm", "swiglu", "mla_up_proj", "moe_down_proj")
SETTINGS = (
    Setting("eager", "out"),
    Setting("fused", "out"),
    Setting("fused", "act"),
    *(Setting("fused", "act", (name,)) for name in ("layernorm", "swiglu", "mla_up_proj", "core_attn")),
    *(Setting("fused", "act", (name,)) for name in ("mlp", "moe", "shared_experts", "full")),
    Setting("fused", "out", ("moe_down_proj",)),
    Setting("fused", "out", K2),
    Setting("fused", "out", K2, ("moe_up_proj_input", "swiglu_input")),
)
"""Eager and fused kernels, both places of the router's probabilities, every recompute option, and K2's own mix."""


def crosscheck(
    spec: Spec, *, against: str = "twin", only: Iterable[str] = (), progress: Progress = lambda _: None
) -> Report:
    """Compare every number that torch can give.

    Args:
        against: `twin` or `transformers`.
        only: kinds to compare; all that there are by default.
        progress: told what is being built.

    Raises:
        InputError: unknown kind or opponent, a missing extra, an architecture without a public class.
    """
    kinds = _kinds(against, tuple(only))
    needed = "torch" if against == "twin" else "transformers"
    if find_spec(needed) is None or find_spec("torch") is None:
        extra = "torch" if against == "twin" else "hf"
        raise InputError(f"the cross-check needs {needed}", hint=f"pip install 'archcalc[{extra}]'")
    progress(f"loading {needed}")
    plain = spec.model_dump()
    compare = _against_twin if against == "twin" else _against_transformers
    findings, notes = compare(spec, plain, kinds, progress)
    return _report(spec, against, kinds, findings, notes)


def _kinds(against: str, only: tuple[str, ...]) -> tuple[str, ...]:
    if against not in ("twin", "transformers"):
        raise InputError(f"nothing to compare with is named {against}", value=against, hint="use twin or transformers")
    known = KINDS if against == "twin" else KINDS[:2]
    for name in only:
        if name not in known:
            hint = did_you_mean(name, known) or f"one of {', '.join(known)}"
            raise InputError(f"{against} has no {name} to compare", value=name, hint=hint)
    return tuple(k for k in known if k in only) if only else known


def _report(spec: Spec, against: str, kinds: tuple[str, ...], findings: list[dict[str, Any]], notes: list[str]) -> Report:
    different = [f for f in findings if f["difference"]]
    rows = []
    for kind in dict.fromkeys(f["kind"] for f in findings):
        mine = [f for f in findings if f["kind"] == kind]
        wrong = sum(1 for f in mine if f["difference"])
        rows.append(
            {
                "path": kind,
                "kind": kind,
                "paths": len(mine),
                "parts": sum(f["count"] for f in mine),
                "ours": sum(f["count"] * f["ours"] for f in mine),
                "theirs": sum(f["count"] * f["theirs"] for f in mine),
                "result": "differs" if wrong else "equal",
            }
        )
    tables = [Table("differences", "what differs", DIFFERENT, different)] if different else []
    return Report(
        command="crosscheck",
        title=f"{spec.title}: archcalc against {'the torch twin' if against == 'twin' else 'transformers'}, "
        + (f"{len(different)} of {len(findings)} differ" if different else f"all {len(findings)} equal"),
        inputs={"spec": spec.name, "against": against, "only": list(kinds)},
        quantities={},
        rows=Table("rows", "compared, integer for integer", COLUMNS, rows),
        tables=tables,
        findings=findings,
        conventions=(
            f"FLOPs at {SEQ} tokens with full scores, forward and backward, and one absorbed decode step; FLOPs of torch by"
            " its own counter on the meta device; activations by saved-tensor hooks, in bytes.",
        ),
        notes=notes,
    )


# -- the two sides of a comparison ------------------------------------------------------------------------------------

Side = dict[tuple[str, str], tuple[int, int]]
"""(path, setting) to (how many identical parts, what one of them comes to)."""


def _joined(kind: str, ours: Side, theirs: Side) -> Iterator[dict[str, Any]]:
    """One finding for each path that either side has; what a side lacks counts as 0 and so differs."""
    for key in dict.fromkeys((*ours, *theirs)):
        count, mine = ours.get(key, (theirs.get(key, (1, 0))[0], 0))
        their_count, other = theirs.get(key, (count, 0))
        yield {
            "kind": kind,
            "path": key[0],
            "setting": key[1],
            "count": their_count,
            "ours": mine,
            "theirs": other,
            "difference": count * mine - their_count * other,
        }


def _add(side: Side, path: str, setting: str, n: int, count: int = 1) -> None:
    before = side.get((path, setting), (count, 0))[1]
    side[path, setting] = (count, before + n)


def _unfolded(template: str, segment: Segment) -> list[str]:
    """A path for every index that it stands for; experts stay folded as `*`."""
    star = template.replace("{e}", "*")
    return [star.replace("{i}", str(i)) for i in segment.indices] if segment.indices else [star]


def _our_weights(tape: Tape) -> dict[str, Side]:
    sides: dict[str, Side] = {"params": {}, "buffers": {}, "mtp": {}}
    seen: set[int] = set()
    for segment in tape.segments:
        for op in segment.ops:
            for w in op.weights:
                if id(w) not in seen:
                    seen.add(id(w))
                    kind = "buffers" if not w.trainable else "mtp" if w.part == "mtp" else "params"
                    for path in _unfolded(f"{w.path}.{w.suffix}", segment):
                        sides[kind][path, ""] = (w.copies // segment.count, w.matrix)
    return sides


def _their_weights(rows: Iterable[Mapping[str, Any]]) -> dict[str, Side]:
    sides: dict[str, Side] = {"params": {}, "buffers": {}, "mtp": {}}
    for row in rows:
        kind = "buffers" if row["kind"].endswith("buffers") else row["kind"]
        sides[kind][row["path"], ""] = (row["count"], row["elements"])
    return sides


def _weight_findings(tape: Tape, rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    ours, theirs = _our_weights(tape), _their_weights(rows)
    return [finding for kind in ours for finding in _joined(kind, ours[kind], theirs[kind])]


def _our_flops(tape: Tape, setting: str, *, backward: bool = False) -> Side:
    side: Side = {}
    for segment in tape.segments:
        for op in segment.ops:
            if segment.part != "mtp" and value(op.flops):
                for path in _unfolded(op.path, segment):
                    _add(side, path, f"{setting} forward", value(op.flops))
                    if backward:
                        _add(side, path, f"{setting} backward", value(op.flops) * op.backward_factor)
    return side


# -- opponents --------------------------------------------------------------------------------------------------------

Found = tuple[list[dict[str, Any]], list[str]]


def _against_twin(spec: Spec, plain: Plain, kinds: tuple[str, ...], progress: Progress) -> Found:
    from archcalc.reference.measure import parameters, state_dict_bytes
    from archcalc.reference.model import build

    progress("building the twin on the meta device")
    model = build(plain)
    tape = spec.trace(Workload())
    findings: list[dict[str, Any]] = []
    for kind in kinds:
        progress(f"comparing {kind}")
        if kind == "params":
            findings += _weight_findings(tape, parameters(model))
        elif kind == "weights":
            ours = sum(row.nbytes for row in stored_rows(tape, what_if(spec, "bf16")))
            findings += _joined(
                kind, {("state_dict", "bf16"): (1, ours)}, {("state_dict", "bf16"): (1, state_dict_bytes(model))}
            )
        elif kind == "flops":
            findings += _flops_of_twin(spec, plain, model)
        elif kind == "kv":
            findings += _kv_of_twin(tape, plain, model)
        elif kind == "activations":
            findings += _activations_of_twin(spec, plain)
        else:
            findings += _schedules()
    return findings, []


def _flops_of_twin(spec: Spec, plain: Plain, model: Any) -> Iterator[dict[str, Any]]:
    from archcalc.reference.flops import flops

    images = (IMAGE,) if spec.vision is not None else ()
    tape = spec.trace(Workload(phase="train", seq=SEQ, attention="full", images=images))
    theirs: Side = {}
    for path, (forward, backward) in flops(plain, seq=SEQ, images=images, backward=True, model=model).items():
        theirs[path, "train forward"] = (1, forward)
        theirs[path, "train backward"] = (1, backward)
    yield from _joined("flops", _our_flops(tape, "train", backward=True), theirs)
    step = spec.trace(Workload(phase="decode", context=SEQ - 1, attention="full"))
    counted = flops(plain, seq=1, context=SEQ - 1, mla="absorbed", model=model)
    decode: Side = {(path, "decode forward"): (1, forward) for path, (forward, _) in counted.items()}
    yield from _joined("flops", _our_flops(step, "decode"), decode)


def _kv_of_twin(tape: Tape, plain: Plain, model: Any) -> Iterator[dict[str, Any]]:
    from archcalc.reference.measure import kv_bytes

    batch, context = CACHE
    for dtype in ("bf16", "fp8"):
        ours: Side = {}
        for row in cache_rows(tape, dtype):
            for i in row.indices:
                _add(ours, row.path.replace("{i}", str(i)), dtype, batch * context * row.nbytes)
        measured = kv_bytes(plain, batch=batch, context=context, dtype=dtype, model=model)
        yield from _joined("kv", ours, {(path, dtype): (1, nbytes) for path, nbytes in measured.items()})


def _activations_of_twin(spec: Spec, plain: Plain) -> Iterator[dict[str, Any]]:
    from archcalc.reference.saved.measure import measure

    images = ((PATCHES * 28 // 2, 28),) if spec.vision is not None else ()
    tape = spec.trace(Workload(phase="train", seq=SEQ))
    pictures = spec.trace(Workload(phase="train", seq=SEQ, images=images)) if images else tape
    patches = 2 * (PATCHES // 2) if images else 0
    del pictures, patches
    for setting in SETTINGS:
        how = savers(
            kernels=setting.kernels,
            router_probs=setting.router_probs,
            recompute=setting.recompute,
            fp8=setting.fp8,
            cross_entropy="fused" if setting.kernels == "fused" else "eager",
        )
        ours = {
            (_first(segment), str(setting)): (1, saved_bytes(segment, Shards(), how))
            for segment in tape.segments
            if segment.part == "backbone"
        }
        theirs = measure(
            plain,
            seq=SEQ,
            kernels=setting.kernels,  # type: ignore[arg-type]
            router_probs=setting.router_probs,  # type: ignore[arg-type]
            recompute=frozenset(setting.recompute),
            fp8=frozenset(setting.fp8),
        )
        yield from _joined(
            "activations", ours, {(path, str(setting)): (1, nbytes) for path, nbytes in theirs.items()}
        )


def _first(segment: Segment) -> str:
    return segment.path.replace("{i}", str(segment.indices[0])) if segment.indices else segment.path


def _schedules() -> Iterator[dict[str, Any]]:
    """Most chunks alive on every rank, by our order and by torch's, replayed."""
    from archcalc.reference.orders import KINDS as KNOWN
    from archcalc.reference.orders import torch_order

    for kind, vpp in (("interleaved-1f1b", 2), ("zb-v", 2), ("dualpipe-v", 2)):
        if kind not in KNOWN:
            continue
        pipeline = Pipeline(pp=8, vpp=vpp, micro_batches=32)
        schedule = get_schedule(kind)
        order = torch_order(kind, pipeline.pp, vpp, pipeline.micro_batches)
        name = f"pp {pipeline.pp} vpp {vpp} micro-batches {pipeline.micro_batches}"
        ours = {(f"{kind}.rank.{r}", name): (1, most_live(schedule, pipeline, r)) for r in order}
        theirs = {(f"{kind}.rank.{r}", name): (1, _replayed(actions)) for r, actions in order.items()}
        yield from _joined("schedule", ours, theirs)


def _replayed(actions: Iterable[tuple[str, int, int]]) -> int:
    alive = most = 0
    for kind, _, _ in actions:
        alive += kind == "F"
        most = max(most, alive)
        alive -= kind in ("B", "I")
    return most


def _against_transformers(spec: Spec, plain: Plain, kinds: tuple[str, ...], progress: Progress) -> Found:
    from archcalc.reference import hf

    findings: list[dict[str, Any]] = []
    notes: list[str] = []
    if "params" in kinds:
        progress("building the public class on the meta device")
        findings += _weight_findings(spec.trace(Workload()), hf.parameters(plain))
        ignored = hf.ignored(plain)
        notes.append(f"Not compared, computed from the config and in no checkpoint: {', '.join(ignored) or 'nothing'}.")
    if "flops" in kinds:
        progress("counting FLOPs of the public class")
        tape = spec.trace(Workload(seq=SEQ, attention="full"))
        ours: Side = {}
        for (path, setting), (_, n) in _our_flops(tape, "prefill").items():
            head, star, _ = path.partition(".experts.*")
            _add(ours, head + star, setting, n)
        theirs = {(path, "prefill forward"): (1, n) for path, n in hf.flops(plain, seq=SEQ).items()}
        findings += _joined("flops", ours, theirs)
    return findings, notes
