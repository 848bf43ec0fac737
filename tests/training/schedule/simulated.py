"""The states of an order, found by going through it one operation at a time: what walks are held against."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from operator import add, ge, sub

from archcalc.training.schedule import Op, Pipeline, Schedule, State


def states_of(
    order: Sequence[Op], chunks: int, *, ahead: bool = False, warmup: int | None = None
) -> tuple[tuple[int, State], ...]:
    """Every state of an order, each with the position of the operation at which it is first reached. With `warmup`
    every forward behind so many runs beside the backward that follows it."""
    overlapped = overlapped_of(order, warmup)
    following = following_of(order, overlapped) if ahead else [None] * len(order)
    live, held = [0] * chunks, [0] * chunks
    beside: Op | None = None
    reached: dict[object, tuple[int, State]] = {}
    for position, op in enumerate(order):
        if op.kind == "F":
            live[op.chunk] += 1
            held[op.chunk] += 1
        if overlapped[position]:
            beside = op
            continue
        waiting = tuple(map(sub, held, live))
        state = State(op=op, live=tuple(live), waiting=waiting, following=following[position], beside=beside)
        reached.setdefault((place_of(state), state.live, waiting), (position, state))
        beside = None
        live[op.chunk] -= op.kind in "BI"
        held[op.chunk] -= op.kind in "BW"
    return tuple(reached.values())


def place_of(state: State) -> tuple[str, int, int | None, int | None]:
    """What keeps states apart beside counts."""
    return state.op.kind, state.op.chunk, state.following, state.beside and state.beside.chunk


def uncovered(states: Iterable[State]) -> set[State]:
    """Those of which no other of its place has as much of everything alive."""
    covering: dict[object, list[tuple[tuple[int, ...], State]]] = {}
    for state in states:
        counts = (*state.live, *map(add, state.live, state.waiting))
        covering.setdefault(place_of(state), []).append((counts, state))
    return {
        state
        for alike in covering.values()
        for counts, state in alike
        if not any(other != counts and all(map(ge, other, counts)) for other, _ in alike)
    }


def simulated(schedule: Schedule, pipeline: Pipeline, rank: int, *, ahead: bool = False) -> tuple[State, ...]:
    """Every state of a rank's whole run, in the order in which they are first reached."""
    warmup = schedule.warmup(pipeline, rank) if pipeline.ep_overlap else None
    chunks = schedule.chunks_per_rank(pipeline.vpp)
    return tuple(s for _, s in states_of(schedule.order(pipeline, rank), chunks, ahead=ahead, warmup=warmup))


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
