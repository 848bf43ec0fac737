"""Which chunks of activations are alive on a rank, and when: the worst moments of an order."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter, sub
from typing import NamedTuple

from .base import Op, Pipeline, Schedule
from .walks import Walk, unit, unpacked, walks

Counts = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What is alive while `op` runs, that operation's own chunk included.

    live: by chunk, how many micro-batches have started their forward and not ended their backward (their I).
    waiting: by chunk, how many have ended their I and not their W, and so still hold the share W needs.
    following: the chunk that goes backward next, if it has ended its forward by now: what comes back to the device for
        it may be on its way. Only where that was asked for.
    beside: the forward that runs beside a backward, layer by layer; it is counted as live.
    """

    op: Op
    live: Counts
    waiting: Counts
    following: int | None = None
    beside: Op | None = None

    def bytes(self, chunk_bytes: Sequence[int], waiting_bytes: Sequence[int]) -> int:
        """Activations alive [bytes]. By chunk: those of a micro-batch, and the share of them that W needs."""
        return sum(n * size for n, size in zip(self.live, chunk_bytes, strict=True)) + sum(
            n * size for n, size in zip(self.waiting, waiting_bytes, strict=True)
        )


def state_at(schedule: Schedule, pipeline: Pipeline, walk: Walk, turn: int) -> State:
    """The state of a walk in one of its turns."""
    chunks = schedule.chunks_per_rank(pipeline.vpp)
    counts = unpacked(walk.counts + turn * walk.change, 2 * chunks)
    live = counts[:chunks]
    at, (beside, more) = walk.place, walk.beside
    name = schedule.micro_batch
    return State(
        op=Op(at.kind, at.chunk, name(at.chunk, walk.nth + turn * walk.more)),
        live=live,
        waiting=tuple(map(sub, counts[chunks:], live)),
        following=at.following,
        beside=None if at.beside is None else Op("F", at.beside, name(at.beside, beside + turn * more)),
    )


class _Line(NamedTuple):
    """A walk as its counts alone."""

    counts: int
    change: int
    times: int

    def turn(self, counts: int) -> int | None:
        """The turn at which these counts are met, if they are."""
        away = counts - self.counts
        if not away:
            return 0
        if not self.change:
            return None
        turn, rest = divmod(away, self.change)
        return turn if not rest and 0 < turn < self.times else None


Reached = dict[int, tuple[int, Walk, int]]
"""Packed counts, to the position in the order at which they are first reached, and the walk that does in which turn."""


def _corners(found: Iterable[Walk]) -> Iterator[Reached]:
    """By what makes states differ beside counts: the ends of walks, but not where another goes straight on."""
    places: dict[object, dict[_Line, Walk]] = {}
    for walk in found:
        line = _Line(walk.counts, walk.change if walk.times > 1 else 0, walk.times)
        places.setdefault(walk.place, {}).setdefault(line, walk)
    for lines in places.values():
        ends: dict[int, set[int]] = {}
        for line in lines:
            for turn in (0, line.times - 1):
                ends.setdefault(line.counts + turn * line.change, set()).add(line.change)
        reached: Reached = {}
        for end, changes in ends.items():
            if not all(c and _met(lines, end - c, c) and _met(lines, end + c, c) for c in changes):
                turns = ((walk, line.turn(end)) for line, walk in lines.items())
                first = ((walk.position + turn * walk.every, walk, turn) for walk, turn in turns if turn is not None)
                reached[end] = min(first, key=itemgetter(0))
        yield reached


def _met(lines: Iterable[_Line], counts: int, change: int) -> bool:
    """Whether lines in this direction meet these counts."""
    return any(line.change == change and line.turn(counts) is not None for line in lines)


def _uncovered(reached: Iterable[int], fields: int) -> list[int]:
    """Drop counts that others are at least as large as.

    Bytes are live * (full - share) + (live or waiting) * share, summed over chunks; no factor is negative.
    """
    guard = (unit(fields) - 1) // (unit(1) - 1) * (unit(1) >> 1)  # the first bit of each field
    kept: list[int] = []
    for counts in sorted(reached, reverse=True):  # what covers others is the larger number
        if not any(((other | guard) - counts) & guard == guard for other in kept):
            kept.append(counts)
    return kept


def _states(schedule: Schedule, pipeline: Pipeline, rank: int, *, ahead: bool, covered: bool) -> tuple[State, ...]:
    found: list[tuple[int, State]] = []
    fields = 2 * schedule.chunks_per_rank(pipeline.vpp)
    for reached in _corners(walks(schedule, pipeline, rank, ahead=ahead)):
        for counts in reached if covered else _uncovered(reached, fields):
            position, walk, turn = reached[counts]
            found.append((position, state_at(schedule, pipeline, walk, turn)))
    return tuple(state for _, state in sorted(found, key=lambda pair: pair[0]))


@lru_cache(maxsize=512)
def all_states(schedule: Schedule, pipeline: Pipeline, rank: int) -> tuple[State, ...]:
    """States of a rank in the order in which they are first reached: those of `live_states`, with `ahead`, and those
    that others cover. Every state of its run is one of them or lies on a straight line between two."""
    return _states(schedule, pipeline, rank, ahead=True, covered=True)


@lru_cache(maxsize=4096)
def live_states(schedule: Schedule, pipeline: Pipeline, rank: int, *, ahead: bool = False) -> tuple[State, ...]:
    """The worst states of a rank, in the order in which they are first reached.

    They are kept apart by kind of operation and the chunk it runs on, because memory that lives only while it
    runs depends on both, and there may be several of each, because chunks differ in size. Whatever the sizes,
    as long as a waiting micro-batch holds no more than a live one, the most bytes alive are those of a state
    in this list. With `ahead` they are kept apart by the chunk that goes backward next, too. Under `ep_overlap` every
    forward behind the warm-up runs beside the backward that follows it: the two are one state.
    """
    return _states(schedule, pipeline, rank, ahead=ahead, covered=False)


def most_live(schedule: Schedule, pipeline: Pipeline, rank: int) -> int:
    """The most chunks alive on a rank at once. Those that only wait for their W are not counted."""
    return max(sum(state.live) for state in live_states(schedule, pipeline, rank))
