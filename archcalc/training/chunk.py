"""One chunk of a pipeline rank: what it keeps for backward, and what lives only while it runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

from archcalc.calc.activations import Saved, Savers, bare_rows, kept_among, recomputed, saved_rows
from archcalc.calc.selective import leftover
from archcalc.calc.sharding import Shards, local_bytes
from archcalc.tape import Segment, Tape
from archcalc.tape.op import Variant
from archcalc.tape.values import ITEM_BYTES
from archcalc.training.transient import layer_backward, layer_forward, loss_transient
from archcalc.training.weight_grads import NO_GRADS, WeightGrads, lookup_gradient

MIN_OFFLOADED = 1024 * 1024
"""Elements of the smallest tensor that a named offload group takes (Megatron-LM, core/transformer/
transformer_config.py, min_offloaded_tensor_size)."""


class SegmentMemory(NamedTuple):
    """Bytes of one micro-batch of one copy of a segment; the fields are those of a chunk, of which it is a part, but
    for `layer`: whether it is no end of the model, and `working`: what is gathered for it, where it is for each by
    itself (FSDP2)."""

    path: str
    saved: int
    offloadable: int
    waiting: int
    forward: int
    backward: int
    layer: bool = True
    working: Working | None = None


class Entering(NamedTuple):
    """A backward at one of its chunk's first layers, where what comes back is the next chunk's already: of how many
    layers, and what it takes there, whole and split [bytes]."""

    ahead: int
    backward: int
    input_gradient: int


class Working(NamedTuple):
    """Gathered weights and their gradients that stand beside what a segment itself takes [bytes].

    Attributes:
        forward, backward: while it runs.
        entering: before its forward has made anything.
        starting: before its backward has.
        leaving: after its backward, when what it kept is gone.
        unmade_forward, unmade_backward: gradients at rest that a step's only backward has not made by then.
    """

    forward: int = 0
    entering: int = 0
    backward: int = 0
    starting: int = 0
    leaving: int = 0
    unmade_forward: int = 0
    unmade_backward: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkMemory:
    """Bytes of one micro-batch of a chunk.

    Attributes:
        saved: kept from its forward to its backward.
        offloadable: the part of it that waits in host memory.
        in_hand: the part of that which is on the device when its forward ends and its backward starts: of its last
            layer and of the layers before it whose copies are in flight.
        waiting: the part that a split backward's weight gradient still needs: inputs of linears.
        forward: what its forward takes beside what is kept at its end, in hand and not offloadable.
        backward: what its backward takes beside what was there at its start: recomputed tensors and gradients,
            less what later segments have freed by then.
        input_gradient: the same of a split one, which frees less: what weight gradients need stays.
        forward_at, backward_at, input_gradient_at: the segment where that is most.
        fetched: offloadable bytes of its last layer, its last two, ... as far as copies are in flight.
        entering: its backward at its first layers, as far as copies are in flight.
        pieces, gathered, in_flight: what it was folded from.
        forward_unmade, backward_unmade: gradients at rest that aren't there yet at those segments.
    """

    saved: int
    offloadable: int
    in_hand: int
    waiting: int
    forward: int
    backward: int
    input_gradient: int
    forward_at: str
    backward_at: str
    input_gradient_at: str
    fetched: tuple[int, ...]
    entering: tuple[Entering, ...]
    pieces: tuple[tuple[SegmentMemory, int], ...]
    gathered: int
    in_flight: int
    forward_unmade: int = 0
    backward_unmade: int = 0

    @property
    def resident(self) -> int:
        """What never leaves the device."""
        return self.saved - self.offloadable


class At(NamedTuple):
    """A chunk while one of its layers runs: layers before it that offload something, and what is on the device beside
    all that never leaves [bytes]."""

    segment: SegmentMemory
    before: int
    forward: int
    backward: int
    input_gradient: int

    @property
    def forward_unmade(self) -> int:
        """Gradients at rest that aren't there yet while it runs forward."""
        return 0 if self.segment.working is None else self.segment.working.unmade_forward

    @property
    def backward_unmade(self) -> int:
        """The same while it runs backward."""
        return 0 if self.segment.working is None else self.segment.working.unmade_backward


def chunk_memory(pieces: Iterable[tuple[SegmentMemory, int]], gathered: int = 0, in_flight: int = 1) -> ChunkMemory:
    """Fold a chunk: its segments in forward order, and how many copies of each.

    Args:
        gathered: ZeRO-3's working set.
        in_flight: layers before the running one whose offloadable bytes are on the device too: in forward on their
            way out, in backward on their way back (Megatron-LM, core/pipeline_parallel/
            fine_grained_activation_offload.py: `on_group_commit_forward`, `on_group_start_backward`). Layers that
            offload nothing are passed over, as they have no group there.
    """
    return _folded(tuple(pieces), gathered, in_flight)


@lru_cache(maxsize=4096)
def _folded(held: tuple[tuple[SegmentMemory, int], ...], gathered: int, in_flight: int) -> ChunkMemory:
    """The same, remembered: ranks hold equal chunks."""
    found, window = layers_of(held, gathered, in_flight)
    in_hand = sum(window)
    sharded = any(segment.working is not None for segment, _ in held)
    start = [] if sharded else [(in_hand, "", 0)]  # where gathered weights come and go something stands all the while
    forward = max([*start, *((at.forward, at.segment.path, at.forward_unmade) for at in found)], key=_at_hand)
    backward = max([*start, *((at.backward, at.segment.path, at.backward_unmade) for at in found)], key=_at_hand)
    split = max([*start, *((at.input_gradient, at.segment.path, at.backward_unmade) for at in found)], key=_at_hand)
    return ChunkMemory(
        saved=sum(count * segment.saved for segment, count in held),
        offloadable=sum(count * segment.offloadable for segment, count in held),
        in_hand=in_hand,
        waiting=sum(count * segment.waiting for segment, count in held),
        forward=max(0, forward[0] - in_hand),
        backward=max(0, backward[0] - in_hand),
        input_gradient=max(0, split[0] - in_hand),
        forward_at=forward[1],
        backward_at=backward[1],
        input_gradient_at=split[1],
        fetched=tuple(accumulate(window[: -in_flight - 1 : -1])) if in_flight else (),
        entering=tuple(
            Entering(in_flight - at.before, at.backward - in_hand, at.input_gradient - in_hand)
            for at in found
            if at.before < in_flight
        ),
        pieces=held,
        gathered=gathered,
        in_flight=in_flight,
        forward_unmade=forward[2],
        backward_unmade=backward[2],
    )


def _at_hand(moment: tuple[int, str, int]) -> tuple[int, str]:
    """What is there at a moment: what it takes, less the gradients that are still to come; ties by name."""
    return moment[0] - moment[2], moment[1]


def layers_of(held: Sequence[tuple[SegmentMemory, int]], gathered: int, in_flight: int) -> tuple[list[At], list[int]]:
    """A chunk at each of its layers that may be its worst: of a run of equal ones the first, as long as copies of
    others are in flight, and the last. And the offloadable bytes by layer that are there at its end."""
    kept = sum(count * (segment.saved - segment.offloadable) for segment, count in held)
    waiting = sum(count * segment.waiting for segment, count in held)
    found: list[At] = []
    window: deque[int] = deque()
    before = there = 0
    for segment, count in held:
        own, leaves = segment.saved - segment.offloadable, segment.offloadable > 0
        near = min(count, in_flight + 1) if leaves else min(count, 1)
        for n in (*range(near), *((count - 1,) if count > near else ())):
            if leaves and n < near:
                window.append(segment.offloadable)
                there += segment.offloadable
            while len(window) > in_flight + leaves:
                there -= window.popleft()
            base = there + gathered - (kept - (n + 1) * own)
            ahead, back = running(segment, base)
            split = back + waiting - (n + 1) * segment.waiting
            found.append(At(segment, before + leaves * n, ahead, back, split))
        kept -= count * own
        waiting -= count * segment.waiting
        before += leaves * count
    return found, list(window)


def running(segment: SegmentMemory, base: int) -> tuple[int, int]:
    """The most that is on the device while a segment runs forward, and backward [bytes]: `base` is what all layers up
    to and with it keep there. Gathered weights may take most before it has run, or when what it kept is gone."""
    w = segment.working
    if w is None:
        return base + segment.forward, base + segment.backward
    without = base - segment.saved
    return (
        max(base + segment.forward + w.forward, without + w.entering),
        max(base + segment.backward + w.backward, base + w.starting, without + w.leaving),
    )


@lru_cache(maxsize=4096)
def segment_memory(
    tape: Tape,
    n: int,
    shards: Shards,
    savers: Savers,
    offload: frozenset[str] | None = frozenset(),
    grads: WeightGrads = NO_GRADS,
) -> SegmentMemory:
    """The segment at a place of the tape. `offload` holds the sites whose storages wait in host memory, None all;
    `grads` says how weights' gradients are made.

    Remembered: plans that differ in placement, schedule or owners ask for the same segments.
    """
    segment = tape.segments[n]
    rows = saved_rows(segment, shards, savers)
    needed = linear_inputs(segment, savers.variants)
    forward, backward = _transient(segment, shards, savers, rows, grads)
    looked_up = lookup_gradient(tape, segment, shards, grads)
    if looked_up and segment.entry is not None:  # last of all, with the gradients of both halves of what it joins
        backward = max(backward, looked_up + 2 * local_bytes(segment.entry, shards) - _sum(rows))
    return SegmentMemory(
        path=segment.name,
        saved=_sum(rows),
        offloadable=_sum(leaving(segment, shards, savers, rows, offload)),
        waiting=sum(r.nbytes for r in rows if r.storage in needed),
        forward=forward,
        backward=backward,
        layer=bool(segment.indices),
    )


def _transient(
    segment: Segment, shards: Shards, savers: Savers, rows: list[Saved], grads: WeightGrads
) -> tuple[int, int]:
    """What one copy of a segment takes while it runs forward, and backward, beside what is kept [bytes].

    A multi-token prediction module runs a layer and then the head with a loss of its own (DeepSeek-V3,
    arXiv:2412.19437, eq. 22 to 24): the larger of both counts.
    """
    head, how = loss_transient(segment, shards, savers, rows, grads), savers.variants
    if head is not None and segment.part != "mtp":
        return head
    body = segment.without(ENDS_OF_MTP)
    bare = bare_rows(segment, shards, savers)
    behind = leftover(segment, shards, savers.selective, how) if savers.selective and recomputed(segment, savers) else 0
    back = max(0, layer_backward(body, shards, bare, how, grads) + behind - _sum(rows)) if segment.learns else 0
    loss = head or (0, 0)
    return max(layer_forward(body, shards, rows, how), loss[0]), max(back, loss[1])


def leaving(
    segment: Segment, shards: Shards, savers: Savers, rows: Sequence[Saved], offload: frozenset[str] | None
) -> list[Saved]:
    """Those of a segment's `rows` that wait in host memory.

    None is all of them. Of named sites it is what Megatron-LM's hooks around a module take (core/pipeline_parallel/
    fine_grained_activation_offload.py, `tensor_need_offloading_checker`): storages of `MIN_OFFLOADED` elements or more
    that no operation outside the sites keeps as well.
    """
    if not offload:
        return [] if offload is not None else list(rows)
    elsewhere = kept_among([op for op in segment.ops if op.site not in offload], savers)
    return [
        row
        for row in rows
        if row.site in offload
        and row.storage not in elsewhere
        and local_bytes(row.storage, shards) >= MIN_OFFLOADED * ITEM_BYTES[row.storage.dtype]
    ]


ENDS_OF_MTP = frozenset({"head", "loss"})
"""Sites of a prediction module that `loss_transient` folds."""


def linear_inputs(segment: Segment, variants: Set[Variant]) -> set[object]:
    """Storages that the weight gradients of a segment are made from: inputs of linears, or their copies in FP8."""
    needed: set[object] = set()
    for op in (op for op in segment.ops if op.weight_gradient != "none"):
        copies = {save.taken(variants) for save in op.saves} - {None}
        needed |= copies or {op.inputs[0]}
    return needed


def _sum(rows: Iterable[Saved]) -> int:
    return sum(row.nbytes for row in rows)
