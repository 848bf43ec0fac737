"""One chunk of a pipeline rank: what it keeps for backward, and what lives only while it runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from archcalc.calc.activations import Saved, Savers, saved_rows
from archcalc.calc.selective import leftover
from archcalc.calc.sharding import Shards
from archcalc.tape import Segment, Tape
from archcalc.training.transient import head_transient, layer_backward, layer_forward


class SegmentMemory(NamedTuple):
    """Bytes of one micro-batch of one copy of a segment; the fields are those of a chunk, of which it is a part."""

    path: str
    saved: int
    offloadable: int
    waiting: int
    forward: int
    backward: int


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
        offloadable: the part of it that may wait in host memory.
        waiting: the part that a split backward's weight gradient still needs: inputs of linears.
        forward: what its forward takes beside what is kept at its end.
        backward: what its backward takes beside what was kept at its start: recomputed tensors and gradients,
            less what later segments have freed by then.
        forward_at, backward_at: the segment where that is most.
        forward_unmade, backward_unmade: gradients at rest that aren't there yet then.
    """

    saved: int
    offloadable: int
    waiting: int
    forward: int
    backward: int
    forward_at: str
    backward_at: str
    forward_unmade: int = 0
    backward_unmade: int = 0


def chunk_memory(
    pieces: Iterable[tuple[SegmentMemory, int]], gathered: int = 0, workings: Sequence[Working] = ()
) -> ChunkMemory:
    """Fold a chunk: its segments in forward order, and how many copies of each.

    Args:
        gathered: ZeRO-3's working set, whatever runs [bytes].
        workings: of each piece, where the segments bring gathered bytes of their own (FSDP2).
    """
    held = list(pieces)
    saved = offloadable = waiting = 0
    forward: list[tuple[int, str, int]] = [] if workings else [(0, "", 0)]
    backward = list(forward)
    later = sum(count * segment.saved for segment, count in held)
    besides = workings or [Working(forward=gathered, backward=gathered)] * len(held)
    for (segment, count), beside in zip(held, besides, strict=True):
        saved += count * segment.saved
        offloadable += count * segment.offloadable
        waiting += count * segment.waiting
        later -= count * segment.saved
        without = later + segment.saved
        for most, unmade in (
            (segment.forward + beside.forward - later, beside.unmade_forward),
            (beside.entering - without, beside.unmade_forward),
        ):
            forward.append((most, segment.path, unmade))
        for most in (segment.backward + beside.backward - later, beside.starting - later, beside.leaving - without):
            backward.append((most, segment.path, beside.unmade_backward))
    most_forward, most_backward = max(forward, key=_at_hand), max(backward, key=_at_hand)
    return ChunkMemory(
        saved=saved,
        offloadable=offloadable,
        waiting=waiting,
        forward=most_forward[0],
        backward=most_backward[0],
        forward_at=most_forward[1],
        backward_at=most_backward[1],
        forward_unmade=most_forward[2],
        backward_unmade=most_backward[2],
    )


def _at_hand(moment: tuple[int, str, int]) -> tuple[int, str]:
    """What is there at a moment: what it takes, less the gradients that are still to come; ties by name."""
    return moment[0] - moment[2], moment[1]


@lru_cache(maxsize=4096)
def segment_memory(
    tape: Tape,
    n: int,
    shards: Shards,
    savers: Savers,
    offload: frozenset[str] | None = frozenset(),
    weight_item: int = 0,
) -> SegmentMemory:
    """The segment at a place of the tape. `offload` holds the sites whose storages wait in host memory, None all;
    `weight_item` is what gradients of its weights take until its backward has ended [bytes an element].

    Remembered: plans that differ in placement, schedule or owners ask for the same segments.
    """
    segment, rows = tape.segments[n], segment_rows(tape, n, shards, savers)
    needed = linear_inputs(segment)
    forward, backward = _transient(tape, n, shards, savers, rows, weight_item)
    return SegmentMemory(
        path=segment.path,
        saved=_sum(rows),
        offloadable=sum(r.nbytes for r in rows if offload is None or r.site in offload),
        waiting=sum(r.nbytes for r in rows if r.storage in needed),
        forward=forward,
        backward=backward,
    )


def segment_rows(tape: Tape, n: int, shards: Shards, savers: Savers) -> list[Saved]:
    """What one copy of a segment keeps. A multi-token prediction module runs the head and a loss of its own
    (DeepSeek-V3, arXiv:2412.19437, section 2.2), whose weights are the main model's."""
    rows = saved_rows(tape.segments[n], shards, savers)
    if tape.segments[n].part == "mtp":
        head = saved_rows(tape.segments[head_of(tape)], shards, savers)
        rows += [row for row in head if row.site in ("head", "loss")]
    return rows


def _transient(
    tape: Tape, n: int, shards: Shards, savers: Savers, rows: list[Saved], weight_item: int
) -> tuple[int, int]:
    """What one copy of a segment takes while it runs forward, and backward, beside what is kept [bytes]."""
    segment = tape.segments[n]
    head = tape.segments[head_of(tape)] if segment.part == "mtp" else segment
    loss = head_transient(head, shards, savers, weight_item) or (0, 0)
    if head is segment and loss != (0, 0):
        return loss
    bare = segment_rows(tape, n, shards, Savers(variants=savers.variants))
    back = layer_backward(segment, shards, bare, weight_item) - _sum(rows)
    if savers.selective:
        back += leftover(segment, shards, savers.selective, savers.variants)
    return max(layer_forward(segment, shards, rows), loss[0]), max(0, back, loss[1])


def head_of(tape: Tape) -> int:
    """The place on the tape of the segment with the output head."""
    return next(n for n, s in enumerate(tape.segments) if any(op.site == "head" for op in s.ops))


def linear_inputs(segment: Segment) -> set[object]:
    """Storages that the weight gradients of a segment are made from."""
    return {op.inputs[0] for op in segment.ops if op.weight_gradient != "none"}


def _sum(rows: Iterable[Saved]) -> int:
    return sum(row.nbytes for row in rows)
