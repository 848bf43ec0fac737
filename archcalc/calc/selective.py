"""Checkpointing by operation: of a layer that is recomputed in backward, what some kinds of operations put out is kept.

torch.utils.checkpoint, `create_selective_checkpoint_contexts`: the layer's input stays, and so does every result of a
listed operation, whether a gradient needs it or not; all else is made again before the layer's backward, for which
kept results stand in for the operations that made them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from typing import NamedTuple

from archcalc.calc.sharding import TP_AXES, Shards, local_bytes
from archcalc.tape import Op, Segment, Storage
from archcalc.tape.op import Variant


class KeptOutput(NamedTuple):
    """What one operation put out and keeps [bytes]."""

    op: Op
    storage: Storage
    nbytes: int


def _multiplies(op: Op) -> bool:
    """A product of two matrices and nothing else: torch runs a linear with a bias as another operation (addmm)."""
    return op.weight_gradient == "accumulated" and not op.weights[0].stack and len(op.weights) == 1


def _grouped(op: Op) -> bool:
    return op.weight_gradient == "accumulated" and bool(op.weights[0].stack)


def _scattered(op: Op) -> bool:
    """Whether its result is a sum over tensor-parallel devices."""
    return op.exchange == "tensor" and any(d.axis in TP_AXES for d in op.weights[0].into)


KINDS: dict[str, Callable[[Op], bool]] = {
    "mm": _multiplies,
    "every_other_mm": _multiplies,
    "grouped_mm": _grouped,
    "attention": lambda op: op.counts_as == "attention",
    "reduce_scatter": _scattered,
    "all_to_all": lambda op: op.exchange in ("send", "return"),
}
"""Kinds of operations by the name in a plan, in torch's words: `mm` aten.mm; `every_other_mm` the first of a layer, the
third, ...; `grouped_mm` aten._grouped_mm; `attention` fused kernels, which put out the log-sum-exp too;
`reduce_scatter` of sequence parallelism; `all_to_all` of routed experts."""

TORCHTITAN = ("every_other_mm", "attention", "reduce_scatter")
"""torchtitan's own list (models/llama3/parallelize_llama.py, `_save_list` and `_custom_policy`): its fourth entry,
aten.max, is of scaling factors in 8-bit training."""


def kept_outputs(
    segment: Segment, shards: Shards, kinds: frozenset[str], variants: frozenset[Variant]
) -> list[KeptOutput]:
    """What operations of these kinds keep in one copy of a segment on one device, in forward order [bytes]."""
    found: list[KeptOutput] = []
    mms = 0
    for op in segment.ops:
        mms += _multiplies(op)
        if "mm" in kinds or ("every_other_mm" in kinds and mms % 2):
            found += _product(op, shards) if _multiplies(op) else ()
        if "grouped_mm" in kinds and _grouped(op):
            found += _product(op, shards)
        if "attention" in kinds and KINDS["attention"](op):
            found += _core(op, shards, variants)
        if "reduce_scatter" in kinds and shards.sp and _scattered(op):
            found.append(KeptOutput(op, _copy(op.outputs[0]), local_bytes(op.outputs[0], shards)))
        if "all_to_all" in kinds and shards.ep > 1 and op.exchange == "send":
            found.append(KeptOutput(op, op.outputs[0], local_bytes(op.outputs[0], shards)))
        if "all_to_all" in kinds and shards.ep > 1 and op.exchange == "return":
            here = replace(shards, etp=1, imbalance=Fraction(1))  # as many rows come back as were sent
            found.append(KeptOutput(op, _copy(op.inputs[0]), local_bytes(op.inputs[0], here)))
    return found


def _product(op: Op, shards: Shards) -> Iterator[KeptOutput]:
    """A product's result: of linears that write one tensor each its own part; summed up over tensor-parallel devices
    later, all rows of it."""
    out = op.outputs[0]
    own = Storage(out.rows, op.weights[0].out, out.dtype)
    size = local_bytes(own, shards)
    whole = shards.tp if shards.sp and _scattered(op) else 1
    yield KeptOutput(op, out if own.nbytes == out.nbytes and whole == 1 else own, whole * size)


def _core(op: Op, shards: Shards, variants: frozenset[Variant]) -> Iterator[KeptOutput]:
    """What a fused attention kernel puts out: its result and what it makes for its backward."""
    saved = [save.storage for save in op.saves if variants.issuperset(save.when)]
    if op.outputs[0] in saved:
        yield from (KeptOutput(op, each, local_bytes(each, shards)) for each in op.outputs if each in saved)


def leftover(segment: Segment, shards: Shards, kinds: frozenset[str], variants: frozenset[Variant]) -> int:
    """Kept results that no backward asks for [bytes]: recomputation ends with the last tensor that is saved (early
    stop), before the operation that saves it has run, and what stands behind waits for the layer's end."""
    last = max((i for i, op in enumerate(segment.ops) if any(variants.issuperset(s.when) for s in op.saves)), default=0)
    behind = {id(op) for op in segment.ops[last:]}
    return sum(each.nbytes for each in kept_outputs(segment, shards, kinds, variants) if id(each.op) in behind)


def _copy(storage: Storage) -> Storage:
    return Storage(storage.rows, storage.features, storage.dtype)
