"""transformers' side: the public class of an architecture, and a second opinion that nobody here wrote."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from archcalc.files.model import Spec
from archcalc.proof.ours import SEQ, forward_flops, weights_by_path
from archcalc.proof.sides import Side, Sides, add, single
from archcalc.proof.twin import Plain, Progress, by_kind
from archcalc.reference import hf
from archcalc.reference.threads import one_thread
from archcalc.workload import Workload

SETTING = "prefill forward"


class Opinions(NamedTuple):
    """Both sides, and what was left out of the comparison."""

    ours: Sides
    theirs: Sides
    notes: list[str]


def opinions(spec: Spec, plain: Plain, kinds: Iterable[str], progress: Progress) -> Opinions:
    """Parameters by path, and the backbone's forward FLOPs.

    Raises:
        InputError: no public class has this architecture, or the installed transformers is too old for it.
    """
    with one_thread():
        return _opinions(spec, plain, kinds, progress)


def _opinions(spec: Spec, plain: Plain, kinds: Iterable[str], progress: Progress) -> Opinions:
    found = Opinions({}, {}, [])
    if "params" in kinds:
        progress("building the public class on the meta device")
        found.ours.update(weights_by_path(spec))
        found.theirs.update(by_kind(hf.parameters(plain)))
        left = ", ".join(hf.ignored(plain)) or "nothing"
        found.notes.append(f"Not compared, computed from the config and in no checkpoint: {left}.")
    if "flops" in kinds:
        progress("counting FLOPs of the public class")
        seq = _length(spec)
        found.ours["flops"] = _experts_joined(spec, seq)
        found.theirs["flops"] = single(_flops(plain, seq).items(), SETTING)
        if seq < SEQ:
            found.notes.append(f"FLOPs at {seq} tokens: transformers masks what a window hides, it does not skip it.")
    return found


def _flops(plain: Plain, seq: int) -> Mapping[str, int]:
    counted: Mapping[str, int] = hf.flops(plain, seq=seq)
    return counted


def _length(spec: Spec) -> int:
    """As many tokens as every mixer sees all of, up to SEQ: eager code scores what a limit hides."""
    ops = (op for segment in spec.trace(Workload()).segments for op in segment.ops)
    return min([SEQ, *(op.span.size for op in ops if op.span is not None and op.span.size)])


def _experts_joined(spec: Spec, seq: int) -> Side:
    """Our FLOPs with a layer's expert projections under one path, as transformers runs them."""
    side: Side = {}
    tape = spec.trace(Workload(seq=seq, attention="full"))
    for (path, setting), (_, n) in forward_flops(tape, SETTING).items():
        head, star, _ = path.partition(".experts.*")
        add(side, head + star, setting, n)
    return side
