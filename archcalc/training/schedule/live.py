"""Which chunks of activations are alive on a rank, and when: the worst moments of an order."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate, pairwise
from operator import add, ge, sub
from typing import NamedTuple

from .base import Op, Pipeline, Schedule

Counts = tuple[int, ...]
Reached = dict[Counts, int]  # counts, to the position in the order at which they are first reached


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


class _Place(NamedTuple):
    """What makes states differ beside counts: the running operation, the chunk that goes backward next, and that of
    a forward that runs beside."""

    kind: str
    chunk: int
    following: int | None
    beside: int | None


def states_of(
    order: Sequence[Op], chunks: int, *, ahead: bool = False, warmup: int | None = None
) -> tuple[tuple[int, State], ...]:
    """The worst states of an order, each with the position of the operation at which it is first reached.

    They are kept apart by kind of operation and the chunk it runs on, because memory that lives only while it
    runs depends on both, and there may be several of each, because chunks differ in size. Whatever the sizes,
    as long as a waiting micro-batch holds no more than a live one, the most bytes alive are those of a state
    in this list. With `ahead` they are kept apart by the chunk that goes backward next, too. With `warmup` every
    forward behind so many runs beside the backward that follows it: the two are one state.
    """
    found = [
        (position, _state(order, position, counts, place))
        for place, reached in _reached(order, chunks, ahead=ahead, warmup=warmup).items()
        for counts, position in _uncovered(_corners(reached)).items()
    ]
    return tuple(sorted(found, key=lambda pair: pair[0]))


def _state(order: Sequence[Op], position: int, counts: Counts, place: _Place) -> State:
    live, held = counts[: len(counts) // 2], counts[len(counts) // 2 :]
    beside = None if place.beside is None else order[position - 1]
    waiting = tuple(map(sub, held, live))
    return State(op=order[position], live=live, waiting=waiting, following=place.following, beside=beside)


def overlapped_of(order: Sequence[Op], warmup: int | None) -> list[bool]:
    """By position, whether a forward runs beside the backward that follows it."""
    if warmup is None:
        return [False] * len(order)
    forwards = accumulate(op.kind == "F" for op in order)
    return [op.kind == "F" and n > warmup for op, n in zip(order, forwards, strict=True)]


def following_of(order: Sequence[Op], overlapped: Sequence[bool]) -> list[int | None]:
    """By position, the chunk of the next backward behind it, or None where that one's forward has not ended
    before, one that runs beside this operation included."""
    forward = {op[1:]: position for position, op in enumerate(order) if op.kind == "F"}
    found: list[int | None] = [None] * len(order)
    following: Op | None = None
    for position in reversed(range(len(order))):
        start = position - (position > 0 and overlapped[position - 1])
        if following is not None and forward[following[1:]] < start:
            found[position] = following.chunk
        if order[position].kind in "BI":
            following = order[position]
    return found


def _reached(order: Sequence[Op], chunks: int, *, ahead: bool, warmup: int | None) -> dict[_Place, Reached]:
    """All counts by what else makes states differ: live by chunk, then live or waiting by chunk."""
    counts = [0] * (2 * chunks)
    overlapped = overlapped_of(order, warmup)
    following = following_of(order, overlapped) if ahead else [None] * len(order)
    beside: int | None = None
    reached: dict[_Place, Reached] = {}
    for position, (kind, chunk, _) in enumerate(order):
        if kind == "F":
            counts[chunk] += 1
            counts[chunks + chunk] += 1
        if overlapped[position]:
            beside = chunk
            continue
        place = _Place(kind, chunk, following[position], beside)
        reached.setdefault(place, {}).setdefault(tuple(counts), position)
        beside = None
        if kind in "BI":
            counts[chunk] -= 1
        if kind in "BW":
            counts[chunks + chunk] -= 1
    return reached


def _corners(reached: Reached) -> Reached:
    """Drop counts that lie midway between two others: a sum of sizes is never largest there alone.

    Only those midway between their successor and its mirror image are sought: steady states walk in lines.
    """
    ordered = list(reached)
    kept = {
        counts: reached[counts]
        for counts, successor in pairwise(ordered)
        if tuple(map(sub, map(add, counts, counts), successor)) not in reached
    }
    return kept | {ordered[-1]: reached[ordered[-1]]}


def _uncovered(reached: Reached) -> Reached:
    """Drop counts that others are at least as large as.

    Bytes are live * (full - share) + (live or waiting) * share, summed over chunks; no factor is negative.
    """
    kept: Reached = {}
    for counts in sorted(reached, key=sum, reverse=True):
        if not any(all(map(ge, other, counts)) for other in kept):
            kept[counts] = reached[counts]
    return kept


@lru_cache(maxsize=512)
def all_states(schedule: Schedule, pipeline: Pipeline, rank: int) -> tuple[State, ...]:
    """Every state of a rank's run, cut to its periodic part, in the order in which they are first reached."""
    order, chunks = schedule.order(schedule.cut(pipeline), rank), schedule.chunks_per_rank(pipeline.vpp)
    places = _reached(order, chunks, ahead=True, warmup=None).items()
    found = [(position, counts, place) for place, reached in places for counts, position in reached.items()]
    found.sort(key=lambda each: each[0])
    return tuple(_state(order, position, counts, place) for position, counts, place in found)


@lru_cache(maxsize=4096)
def live_states(schedule: Schedule, pipeline: Pipeline, rank: int, *, ahead: bool = False) -> tuple[State, ...]:
    """The worst states of a rank, in the order in which they are first reached. See states_of.

    A long run is cut to its periodic part; operations keep their micro-batch numbers of the whole run.
    """
    cut = schedule.cut(pipeline)
    order = schedule.order(cut, rank)
    warmup = schedule.warmup(pipeline, rank) if pipeline.ep_overlap else None
    found = states_of(order, schedule.chunks_per_rank(pipeline.vpp), ahead=ahead, warmup=warmup)
    removed = pipeline.micro_batches - cut.micro_batches
    period = schedule.period(pipeline)
    if not removed or period is None:
        return tuple(state for _, state in found)
    # What is reached before the last whole period, and so in the steady state at the latest, is reached there
    # in the whole run too. What is first reached later belongs to the end of the run.
    final = cut.micro_batches - cut.micro_batches % period - period
    ends = next(position for position, op in enumerate(order) if op.micro_batch >= final)
    return tuple(state if position < ends else _later(state, removed) for position, state in found)


def _later(state: State, micro_batches: int) -> State:
    def later(op: Op) -> Op:
        return op._replace(micro_batch=op.micro_batch + micro_batches)

    return replace(state, op=later(state.op), beside=state.beside and later(state.beside))


def most_live(schedule: Schedule, pipeline: Pipeline, rank: int) -> int:
    """The most chunks alive on a rank at once. Those that only wait for their W are not counted."""
    return max(sum(state.live) for state in live_states(schedule, pipeline, rank))
