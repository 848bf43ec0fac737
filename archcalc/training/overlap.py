"""A forward of one chunk beside a backward of another, layer by layer: what is on the device meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from archcalc.training.chunk import ChunkMemory, SegmentMemory


class Overlap(NamedTuple):
    """The worst of the steps of both.

    Attributes:
        kept: of both micro-batches, what is saved and on the device [bytes].
        host: of both, the most that is in host memory at any step [bytes].
        transient: what lives only while both layers run [bytes].
        forward_at, backward_at: the segments that run then; empty where one of them waits.
    """

    kept: int
    host: int
    transient: int
    forward_at: str
    backward_at: str


class _Segment(NamedTuple):
    """A chunk up to and with one of its segments: bytes kept on the device, offloadable ones on the device and on the
    host, and layers before it that offload something."""

    memory: SegmentMemory
    resident: int
    near: int
    away: int
    before: int


Step = tuple[int | None, int | None]


@lru_cache(maxsize=4096)
def overlap(forward: ChunkMemory, backward: ChunkMemory, fetched: tuple[int, ...] = ()) -> Overlap:
    """Run a chunk forward beside another, or the same, backward.

    Megatron-LM, core/models/common/model_chunk_schedule_plan.py, `TransformerModelChunkSchedulePlan.run`: the embedding
    forward, the head backward, then the first layer forward beside the last one backward and so on; what is left of the
    longer chunk; the head forward, the embedding backward. Within two layers their parts take turns
    (`TransformerLayerSchedulePlan.run`), so that what either takes at most stands for the whole of it.

    Args:
        fetched: offloadable bytes of the last layers, as many as copies are in flight, of what goes backward next.
    """
    ahead, back = _segments(forward), _segments(backward)
    best = Overlap(0, 0, 0, "", "")
    host = done = 0
    left = len(back)
    for i, j in _steps(ahead, back):
        transient = 0
        if i is not None:
            transient, done = transient + ahead[i].memory.forward + forward.gathered, i + 1
        if j is not None:
            transient, left = transient + back[j].memory.backward + backward.gathered, j + 1
        at, of = ahead[done - 1] if done else _NONE, back[left - 1] if left else _NONE
        flying = backward.in_flight - of.before
        coming = fetched[min(flying, len(fetched)) - 1] if fetched and flying > 0 else 0
        kept = at.resident + at.near + of.resident + of.near + coming
        host = max(host, at.away + of.away)
        if kept + transient > best.kept + best.transient:
            places = [at.memory.path if i is not None else "", of.memory.path if j is not None else ""]
            best = Overlap(kept, 0, transient, *places)
        left -= j is not None
    return best._replace(host=host)


_NONE = _Segment(SegmentMemory("", 0, 0, 0, 0, 0), 0, 0, 0, 0)


def _segments(chunk: ChunkMemory) -> list[_Segment]:
    """The segments of a chunk, each copy by itself."""
    found: list[_Segment] = []
    window: list[int] = []
    resident = offloaded = before = 0
    for segment, count in chunk.pieces:
        for _ in range(count):
            leaves = segment.offloadable > 0
            resident += segment.saved - segment.offloadable
            offloaded += segment.offloadable
            window = [*window, segment.offloadable] if leaves else window
            window = window[max(0, len(window) - chunk.in_flight - leaves) :]
            found.append(_Segment(segment, resident, sum(window), offloaded - sum(window), before))
            before += leaves
    return found


def _steps(forward: list[_Segment], backward: list[_Segment]) -> Iterator[Step]:
    """The segments that run at the same time, by their places; None where one of the chunks waits."""
    first, behind = _layers(forward)
    last, rest = _layers(backward)
    yield from ((i, None) for i in range(first))
    yield from ((None, j) for j in reversed(range(rest, len(backward))))
    one, other = range(first, behind), range(last, rest)[::-1]
    both = min(len(one), len(other))
    yield from zip(one, other, strict=False)
    yield from ((None, j) for j in other[both:])
    yield from ((i, None) for i in one[both:])
    yield from ((i, None) for i in range(behind, len(forward)))
    yield from ((None, j) for j in reversed(range(last)))


def _layers(segments: list[_Segment]) -> tuple[int, int]:
    """Where a chunk's layers start, and where they end."""
    places = [n for n, each in enumerate(segments) if each.memory.layer]
    return (places[0], places[-1] + 1) if places else (len(segments), len(segments))
