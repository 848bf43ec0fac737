"""One chunk of a pipeline rank: what it keeps for backward, and what lives only while it runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from archcalc.calc.activations import Saved, Savers, saved_rows
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
    """

    saved: int
    offloadable: int
    waiting: int
    forward: int
    backward: int
    forward_at: str
    backward_at: str


def chunk_memory(pieces: Iterable[tuple[SegmentMemory, int]], gathered: int = 0) -> ChunkMemory:
    """Fold a chunk: its segments in forward order, and how many copies of each; `gathered` is ZeRO-3's working set."""
    held = list(pieces)
    saved = offloadable = waiting = 0
    forward, backward = [(0, "")], [(0, "")]
    later = sum(count * segment.saved for segment, count in held)
    for segment, count in held:
        saved += count * segment.saved
        offloadable += count * segment.offloadable
        waiting += count * segment.waiting
        later -= count * segment.saved
        forward.append((segment.forward + gathered - later, segment.path))
        backward.append((segment.backward + gathered - later, segment.path))
    most_forward, most_backward = max(forward), max(backward)
    return ChunkMemory(
        saved=saved,
        offloadable=offloadable,
        waiting=waiting,
        forward=most_forward[0],
        backward=most_backward[0],
        forward_at=most_forward[1],
        backward_at=most_backward[1],
    )


@lru_cache(maxsize=4096)
def segment_memory(
    tape: Tape, n: int, shards: Shards, savers: Savers, offload: frozenset[str] | None = frozenset()
) -> SegmentMemory:
    """The segment at a place of the tape. `offload` holds the sites whose storages wait in host memory, None all.

    Remembered: plans that differ in placement, schedule or owners ask for the same segments.
    """
    segment, rows = tape.segments[n], segment_rows(tape, n, shards, savers)
    needed = linear_inputs(segment)
    forward, backward = _transient(tape, n, shards, savers, rows)
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
        head = saved_rows(ending(tape, n), shards, savers)
        rows += [row for row in head if row.site in ("head", "loss")]
    return rows


def _transient(tape: Tape, n: int, shards: Shards, savers: Savers, rows: list[Saved]) -> tuple[int, int]:
    """What one copy of a segment takes while it runs forward, and backward, beside what is kept [bytes]."""
    segment = tape.segments[n]
    head = ending(tape, n) if segment.part == "mtp" else segment
    loss = head_transient(head, shards, savers) or (0, 0)
    if head is segment and loss != (0, 0):
        return loss
    bare = segment_rows(tape, n, shards, Savers(variants=savers.variants))
    back = max(0, layer_backward(segment, shards, bare) - _sum(rows)) if segment.learns else 0
    return max(layer_forward(segment, shards, rows), loss[0]), max(back, loss[1])


def head_of(tape: Tape) -> int:
    """The place on the tape of the segment with the output head."""
    return next(n for n, s in enumerate(tape.segments) if any(op.site == "head" for op in s.ops))


def ending(tape: Tape, n: int) -> Segment:
    """The head and loss that a prediction module runs."""
    return tape.segments[n].ending or tape.segments[head_of(tape)]


def linear_inputs(segment: Segment) -> set[object]:
    """Storages that the weight gradients of a segment are made from."""
    return {op.inputs[0] for op in segment.ops if op.weight_gradient != "none"}


def _sum(rows: Iterable[Saved]) -> int:
    return sum(row.nbytes for row in rows)
