"""Liveness: the most bytes alive at once while a segment runs, forward or backward, on one device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from operator import attrgetter
from types import MappingProxyType
from typing import NamedTuple

from archcalc.calc.sharding import TP_AXES, Shards, local_bytes
from archcalc.tape import Op, Segment, Storage
from archcalc.tape.op import Variant


class Alive(NamedTuple):
    """What is alive at a moment of a segment's run, by what it is [bytes].

    Attributes:
        kept: of the tensors that were kept for backward, those not used up.
        results: of a forward, results that nobody keeps.
        gradients: of a backward, gradients of its tensors.
        exchanged: on its way between devices, and what a kernel takes.
    """

    kept: int = 0
    results: int = 0
    gradients: int = 0
    exchanged: int = 0

    @property
    def total(self) -> int:
        """All of it [bytes]."""
        return sum(self)


_TOTAL = attrgetter("total")


def backward_alive(
    segment: Segment,
    shards: Shards,
    kept: Mapping[Storage, int],
    variants: Set[Variant] = frozenset(),
    *,
    beside: Mapping[int, int] = MappingProxyType({}),
    after: Mapping[int, tuple[int, int]] = MappingProxyType({}),
    staying: Mapping[int, int] = MappingProxyType({}),
) -> Alive:
    """What is alive at the worst moment of one copy of a segment's backward [bytes].

    Alive are the `kept` tensors (their sizes), each until the first operation of the forward that keeps it
    has run backward, and gradients: that of a storage lives from the last operation that used it to the one
    that made it, in its storage's dtype. A sum hands one gradient on to both its terms, but for one that dropout fell
    on; a second contribution is a tensor of its own while it is added. What nothing trained lies before has no
    gradient. What kernels make beside that, such as the gradient of attention's scores, is gone before the gradients of
    queries and keys are there. `beside` are bytes that an operation takes while its operands are alive, by its place,
    such as a weight's gradient; `after` those that it hands on when what another operation of its GEMM kept is freed:
    bytes, and the place of that one; `staying` those that it makes and that stay to the segment's end.
    """
    first: dict[Storage, int] = {}
    maker: dict[Storage, int] = {}
    for i, op in enumerate(segment.ops):
        for save in op.saves:
            for storage in (save.storage, *(copy for _, copy in save.copies)):
                first.setdefault(storage, i)
        for storage in op.outputs[:1]:
            maker.setdefault(storage, i)
    freed = [0] * len(segment.ops)
    for storage, size in kept.items():
        freed[first.get(storage, 0)] += size
    grads = _Gradients(shards, variants, segment.ungraded)
    held = sum(kept.values())
    peak, stays = Alive(kept=held), 0
    for i in reversed(range(len(segment.ops))):
        op = segment.ops[i]
        stays += staying.get(i, 0)
        if not op.outputs or op.outputs[0] not in segment.ungraded:
            flowing, more = stays + grads.through(op), backward_exchange(op, shards) + beside.get(i, 0)
            empty, first_of_gemm = after.get(i, (0, i))
            ended = Alive(kept=held - freed[first_of_gemm], gradients=flowing, exchanged=empty)
            peak = max(peak, Alive(kept=held, gradients=flowing, exchanged=more), ended, key=_TOTAL)
        if op.outputs and maker[op.outputs[0]] == i:
            grads.drop(op.outputs[0])
        held -= freed[i]
    return peak


class _Gradients:
    """Gradients alive in a backward pass, by the storage they belong to; terms of a sum share one buffer."""

    def __init__(self, shards: Shards, variants: Set[Variant], ungraded: frozenset[Storage]) -> None:
        self.shards, self.variants, self.ungraded = shards, variants, ungraded
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
        inputs = dict.fromkeys(s for s in op.inputs if s.dtype in FLOATS and s not in self.ungraded)
        masked = bool(op.masks) and set(op.masks) <= self.variants
        late = sum(self.size(s) for s in inputs if s in op.inputs[:2] and s not in self.buffer)
        for storage in inputs:
            if storage not in self.buffer:
                shares = op.sums and not (masked and storage is op.inputs[1])
                self.buffer[storage] = self.buffer[made] if shares and made is not None else storage
            elif made is None or self.giver.get(storage) is not made:
                added += self.size(storage)
            self.giver[storage] = made
        beside = working(op, self.shards, self.variants, backward=True)
        return added + max(0, beside - late) + sum(self.size(s) for s in set(self.buffer.values()))

    def drop(self, storage: Storage) -> None:
        """The operation that made this has run: its gradient is used up."""
        self.buffer.pop(storage, None)


FLOATS = frozenset({"bfloat16", "float16", "float32"})


def working(op: Op, shards: Shards, variants: Set[Variant], *, backward: bool, kept: Set[Storage] = frozenset()) -> int:
    """What an operation's kernels make and nobody keeps while it runs [bytes]."""
    used = {w.storage for w in op.works if w.backward == backward and set(w.when) <= variants} if op.works else set()
    return sum(local_bytes(storage, shards) for storage in used - kept)


def forward_alive(
    segment: Segment,
    shards: Shards,
    kept: Set[Storage],
    *,
    variants: Set[Variant] = frozenset(),
    entry: bool = False,
    beside: Callable[[Op], int] = lambda op: 0,
) -> Alive:
    """The most bytes of results that nobody keeps alive at once while one copy of a segment runs forward
    [bytes].

    A result lives from the operation that makes it to the last one that uses it; with `entry` the segment's input
    does so too, from the first on, and what earlier segments left is there all the while. `beside` is what an
    operation's kernel takes while it runs.
    """
    last = {storage: i for i, op in enumerate(segment.ops) for storage in op.inputs}
    alive: dict[Storage, int] = {}
    if entry and segment.entry is not None and segment.entry not in kept:
        alive[segment.entry] = local_bytes(segment.entry, shards)
        last.setdefault(segment.entry, 0)
    left = sum(local_bytes(storage, shards) for storage in segment.beside) if entry else 0
    peak = Alive()
    for i, op in enumerate(segment.ops):
        for storage in op.outputs[:1]:
            if storage in last and storage not in kept and storage not in alive:
                alive[storage] = local_bytes(storage, shards)
        more = forward_exchange(op, shards) + working(op, shards, variants, backward=False, kept=kept) + beside(op)
        peak = max(peak, Alive(results=left + sum(alive.values()), exchanged=more), key=_TOTAL)
        for storage in [s for s in alive if last[s] <= i]:
            del alive[storage]
    return peak


def forward_exchange(op: Op, shards: Shards) -> int:
    """What sequence parallelism gathers for a linear's forward, or has yet to scatter after it [bytes]."""
    return _whole(op, shards) if op.exchange == "tensor" else 0


def backward_exchange(op: Op, shards: Shards) -> int:
    """What an operation's backward exchanges beside gradients [bytes].

    Under sequence parallelism a column-parallel linear gathers its input again, for its weight's gradient, and has
    its input's gradient whole before it is scattered; a row-parallel one gathers its output's gradient. Routed copies
    stand in a send and a receive buffer.
    """
    if op.exchange == "send":
        return local_bytes(op.outputs[0], shards)
    if op.exchange == "return":
        return local_bytes(op.inputs[0], shards)
    if op.exchange == "tensor":
        return _whole(op, shards) * (2 if column_parallel(op) and op.weight_gradient != "none" else 1)
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
