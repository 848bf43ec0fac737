"""One chunk of a pipeline rank: what it keeps for backward, and what lives only while it runs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from archcalc.calc.activations import Saved, Savers, saved_rows
from archcalc.calc.sharding import Shards
from archcalc.tape import Segment, Tape
from archcalc.training.placement import Chunk
from archcalc.training.transient import head_transient, layer_backward, layer_forward


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


@lru_cache(maxsize=1024)
def segment_rows(tape: Tape, n: int, shards: Shards, savers: Savers) -> tuple[Saved, ...]:
    """What one copy of a segment keeps. A multi-token prediction module runs the head and a loss of its own
    (DeepSeek-V3, arXiv:2412.19437, section 2.2), whose weights are the main model's."""
    rows = saved_rows(tape.segments[n], shards, savers)
    if tape.segments[n].part == "mtp":
        rows += [
            row for row in saved_rows(tape.segments[head_of(tape)], shards, savers) if row.site in ("head", "loss")
        ]
    return tuple(rows)


@lru_cache(maxsize=1024)
def chunk_memory(
    tape: Tape, chunk: Chunk, shards: Shards, savers: Savers, offload: frozenset[str] | None, gathered: int
) -> ChunkMemory:
    """Fold a chunk. `offload` holds the sites whose storages wait in host memory, None all; `gathered` is
    ZeRO-3's working set."""
    saved = offloadable = waiting = 0
    forward = [(0, "")]
    backward = [(0, "")]
    later = sum(count * _sum(segment_rows(tape, n, shards, savers)) for n, count in chunk)
    for n, count in chunk:
        segment, rows = tape.segments[n], segment_rows(tape, n, shards, savers)
        size = _sum(rows)
        saved += count * size
        offloadable += count * sum(r.nbytes for r in rows if offload is None or r.site in offload)
        needed = linear_inputs(segment)
        waiting += count * sum(r.nbytes for r in rows if r.storage in needed)
        later -= count * size
        ahead, back = segment_transient(tape, n, shards, savers)
        forward.append((ahead + gathered - later, segment.path))
        backward.append((back + gathered - later, segment.path))
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


@lru_cache(maxsize=1024)
def segment_transient(tape: Tape, n: int, shards: Shards, savers: Savers) -> tuple[int, int]:
    """What one copy of a segment takes while it runs forward, and backward, beside what is kept [bytes]."""
    segment = tape.segments[n]
    head = tape.segments[head_of(tape)] if segment.part == "mtp" else segment
    loss = head_transient(head, shards, savers) or (0, 0)
    if head is segment and loss != (0, 0):
        return loss
    rows = segment_rows(tape, n, shards, savers)
    back = max(0, _whole_backward(tape, n, shards, savers.variants) - _sum(rows))
    return max(layer_forward(segment, shards, rows), loss[0]), max(back, loss[1])


def segment_whole(tape: Tape, n: int, shards: Shards, savers: Savers) -> tuple[int, int]:
    """All that one copy of a segment takes at the end of its forward, and in its backward, what it keeps
    included [bytes]."""
    kept = _sum(segment_rows(tape, n, shards, savers))
    ahead, back = segment_transient(tape, n, shards, savers)
    return kept + ahead, kept + back


@lru_cache(maxsize=1024)
def _whole_backward(tape: Tape, n: int, shards: Shards, variants: frozenset[str]) -> int:
    return layer_backward(tape.segments[n], shards, segment_rows(tape, n, shards, Savers(variants=variants)))


def head_of(tape: Tape) -> int:
    """The place on the tape of the segment with the output head."""
    return next(n for n, s in enumerate(tape.segments) if any(op.site == "head" for op in s.ops))


def linear_inputs(segment: Segment) -> set[object]:
    """Storages that the weight gradients of a segment are made from."""
    return {op.inputs[0] for op in segment.ops if op.weight_gradient != "none"}


def _sum(rows: tuple[Saved, ...]) -> int:
    return sum(row.nbytes for row in rows)
