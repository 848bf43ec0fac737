"""Saved activations: a fold over what the operations of a segment keep for backward, under kernels and
savers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from archcalc.calc.sharding import TP_AXES, Shards, local_bytes
from archcalc.tape import Op, Segment, Storage


class Region(NamedTuple):
    """Sites whose operations are recomputed in backward.

    `discards_output`: what it produces is freed after use and made again (Megatron's
    CheckpointWithoutOutput), not only what it would save.
    """

    sites: frozenset[str]
    discards_output: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Savers:
    """How activations are kept.

    Attributes:
        variants: kernel variants in use (`fused` or `eager`, `flash` or `math`, `probs_act` or `probs_out`,
            ...).
        regions: what is recomputed.
        fp8: sites whose first operand is stored in FP8.
        whole: every segment with an entry keeps only that, and recomputes the rest ("full").
    """

    variants: frozenset[str]
    regions: tuple[Region, ...] = ()
    fp8: frozenset[str] = frozenset()
    whole: bool = False


class Saved(NamedTuple):
    """One storage kept for backward: by which operation, at which site, how large on one device [bytes]."""

    path: str
    site: str
    storage: Storage
    fp8: bool
    nbytes: int


def saved_rows(segment: Segment, shards: Shards, savers: Savers) -> list[Saved]:
    """What one copy of a segment keeps for backward, each storage once.

    Kept is what operations outside active regions save, and every outside input of an active region; less
    what was produced inside one (always if it discards its output, else unless an operation outside saves
    it). Context parallelism by all-to-all keeps attention's output twice: by heads for attention, by tokens
    for the projection after it (TransformerEngine).
    """
    if savers.whole and segment.entry is not None and segment.part == "backbone" and segment.indices:
        size = local_bytes(segment.entry, shards)
        return [Saved(segment.path, "entry", segment.entry, False, size)]
    rows = []
    for op, storage, fp8 in kept_storages(segment, savers):
        rows.append(Saved(op.path, op.site, storage, fp8, local_bytes(storage, shards, fp8=fp8)))
        if shards.cp > 1 and shards.ulysses and op.exchange == "context" and storage is op.outputs[0]:
            rows.append(rows[-1]._replace(path=f"{op.path}, by heads", storage=_copy(storage)))
    return rows


@lru_cache(maxsize=512)
def kept_storages(segment: Segment, savers: Savers) -> tuple[tuple[Op, Storage, bool], ...]:
    """What one copy of a segment keeps, whatever the devices: who keeps it, the storage, whether in FP8."""
    kept = _kept(segment.ops, savers)
    dropped, inner = _produced(segment.ops, savers.regions)
    return tuple(
        (op, storage, fp8)
        for storage, (op, outside, fp8) in kept.items()
        if storage not in dropped and (outside or storage not in inner)
    )


def _copy(storage: Storage) -> Storage:
    return Storage(storage.rows, storage.features, storage.dtype)


def saved_bytes(segment: Segment, shards: Shards, savers: Savers) -> int:
    """Sum of the rows of one copy of a segment on one device [bytes]."""
    return sum(row.nbytes for row in saved_rows(segment, shards, savers))


Kept = dict[Storage, tuple[Op, bool, bool]]


def _kept(ops: Sequence[Op], savers: Savers) -> Kept:
    """Storage to (operation, saved outside every region, in FP8). FP8 needs every keeper to agree."""
    kept: Kept = {}

    def keep(storage: Storage, op: Op, outside: bool, fp8: bool) -> None:
        first, was_outside, was_fp8 = kept.get(storage, (op, False, True))
        kept[storage] = (first, outside or was_outside, fp8 and was_fp8)

    for op in ops:
        regions = [region for region in savers.regions if op.site in region.sites]
        operand = op.inputs[0] if op.inputs and op.site in savers.fp8 else None
        if regions:
            for storage in op.inputs:
                keep(storage, op, False, storage is operand)
        else:
            for save in op.saves:
                if savers.variants.issuperset(save.when):
                    keep(save.storage, op, True, save.storage is operand)
    return kept


def _produced(ops: Sequence[Op], regions: Sequence[Region]) -> tuple[set[Storage], set[Storage]]:
    """Storages produced inside discarding regions, and inside any region."""
    dropped: set[Storage] = set()
    inner: set[Storage] = set()
    for region in regions:
        made = {storage for op in ops if op.site in region.sites for storage in op.outputs}
        inner |= made
        if region.discards_output:
            dropped |= made
    return dropped, inner


def backward_peak(segment: Segment, shards: Shards, kept: Mapping[Storage, int]) -> int:
    """The most bytes alive at once while one copy of a segment runs backward [bytes].

    Alive are the `kept` tensors (their sizes), each until the first operation of the forward that keeps it
    has run backward, and gradients: that of a storage lives from the last operation that used it to the one
    that made it, in its storage's dtype. A sum hands one gradient on to both its terms; a second contribution
    is a tensor of its own while it is added.
    """
    first: dict[Storage, int] = {}
    maker: dict[Storage, int] = {}
    for i, op in enumerate(segment.ops):
        for save in op.saves:
            first.setdefault(save.storage, i)
        for storage in op.outputs[:1]:
            maker.setdefault(storage, i)
    freed = [0] * len(segment.ops)
    for storage, size in kept.items():
        freed[first.get(storage, 0)] += size
    grads = _Gradients(shards)
    held = sum(kept.values())
    peak = held
    for i in reversed(range(len(segment.ops))):
        op = segment.ops[i]
        peak = max(peak, held + grads.through(op) + backward_exchange(op, shards))
        if op.outputs and maker[op.outputs[0]] == i:
            grads.drop(op.outputs[0])
        held -= freed[i]
    return peak


class _Gradients:
    """Gradients alive in a backward pass, by the storage they belong to; terms of a sum share one buffer."""

    def __init__(self, shards: Shards) -> None:
        self.shards = shards
        self.buffer: dict[Storage, Storage] = {}
        self.giver: dict[Storage, Storage | None] = {}
        self.sizes: dict[Storage, int] = {}

    def size(self, storage: Storage) -> int:
        """Bytes of a storage on one device."""
        if storage not in self.sizes:
            self.sizes[storage] = local_bytes(storage, self.shards)
        return self.sizes[storage]

    def through(self, op: Op) -> int:
        """Bytes alive while an operation runs backward: gradients so far, its output's, its inputs', and
        those being added."""
        made = op.outputs[0] if op.outputs and op.outputs[0].dtype in FLOATS else None
        if made is not None:
            self.buffer.setdefault(made, made)
        added = 0
        inputs = dict.fromkeys(s for s in op.inputs if s.dtype in FLOATS)
        for storage in inputs:
            if storage not in self.buffer:
                self.buffer[storage] = self.buffer[made] if op.sums and made is not None else storage
            elif made is None or self.giver.get(storage) is not made:
                added += self.size(storage)
            self.giver[storage] = made
        return added + sum(self.size(s) for s in set(self.buffer.values()))

    def drop(self, storage: Storage) -> None:
        """The operation that made this has run: its gradient is used up."""
        self.buffer.pop(storage, None)


FLOATS = frozenset({"bfloat16", "float16", "float32"})


def forward_peak(segment: Segment, shards: Shards, kept: Set[Storage]) -> int:
    """The most bytes of results that nobody keeps alive at once while one copy of a segment runs forward
    [bytes].

    A result lives from the operation that makes it to the last one that uses it.
    """
    last = {storage: i for i, op in enumerate(segment.ops) for storage in op.inputs}
    alive: dict[Storage, int] = {}
    peak = 0
    for i, op in enumerate(segment.ops):
        for storage in op.outputs[:1]:
            if storage in last and storage not in kept and storage not in alive:
                alive[storage] = local_bytes(storage, shards)
        peak = max(peak, sum(alive.values()) + forward_exchange(op, shards))
        for storage in [s for s in alive if last[s] <= i]:
            del alive[storage]
    return peak


def forward_exchange(op: Op, shards: Shards) -> int:
    """What sequence parallelism gathers for a linear's forward, or has yet to scatter after it [bytes]."""
    return _whole(op, shards) if op.exchange == "tensor" else 0


def backward_exchange(op: Op, shards: Shards) -> int:
    """What an operation's backward exchanges beside gradients [bytes].

    Under sequence parallelism a column-parallel linear gathers its input again and has its input's gradient
    whole before it is scattered; a row-parallel one gathers its output's gradient. Routed copies stand in a
    send and a receive buffer.
    """
    if op.exchange == "send":
        return local_bytes(op.outputs[0], shards)
    if op.exchange == "return":
        return local_bytes(op.inputs[0], shards)
    if op.exchange == "tensor":
        return _whole(op, shards) * (2 if column_parallel(op) else 1)
    return 0


def column_parallel(op: Op) -> bool:
    """Whether a linear's output is what tensor parallelism divides."""
    return any(d.axis in TP_AXES for d in op.weights[0].out)


def _whole(op: Op, shards: Shards) -> int:
    """The whole of the operand whose rows sequence parallelism divides, where the weight is divided too; else
    0 [bytes]."""
    if not shards.sp or not any(d.axis in TP_AXES for d in (*op.weights[0].out, *op.weights[0].into)):
        return 0
    return shards.tp * local_bytes(op.inputs[0] if column_parallel(op) else op.outputs[0], shards)
