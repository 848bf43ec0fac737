"""How far a rank has come when a state of its order is reached for the last time."""

from functools import lru_cache

from .base import Op, Pipeline, Schedule
from .live import State, following_of, overlapped_of


@lru_cache(maxsize=512)
def ended_states(
    schedule: Schedule, pipeline: Pipeline, rank: int, chunk: int, *, ahead: bool = False
) -> tuple[tuple[State, int], ...]:
    """Every state of a rank's run, and how many micro-batches have ended their backward on `chunk` (their I, where it
    is split) when it is reached for the last time. With `ahead` states know the chunk that goes backward next.

    A long run is cut to its periodic part: what a state of the cut run's second half has ended, the whole run has
    ended with the micro-batches between.
    """
    cut = schedule.cut(pipeline)
    order, chunks = schedule.order(cut, rank), schedule.chunks_per_rank(pipeline.vpp)
    overlapped = overlapped_of(order, schedule.warmup(pipeline, rank) if pipeline.ep_overlap else None)
    following = following_of(order, overlapped) if ahead else [None] * len(order)
    removed = pipeline.micro_batches - cut.micro_batches
    live, held, ended = [0] * chunks, [0] * chunks, 0
    beside: Op | None = None
    last: dict[tuple[object, ...], tuple[State, int]] = {}
    for position, op in enumerate(order):
        kind, n, micro_batch = op
        before = removed if 2 * position >= len(order) else 0
        op = Op(kind, n, micro_batch + before)
        if kind == "F":
            live[n] += 1
            held[n] += 1
        if overlapped[position]:
            beside = op
            continue
        counts = tuple(live), tuple(h - alive for h, alive in zip(held, live, strict=True))
        state = State(op=op, live=counts[0], waiting=counts[1], following=following[position], beside=beside)
        place = kind, n, state.following, beside and beside.chunk, *counts
        last[place] = state, ended + before // schedule.copies
        beside = None
        if kind in "BI":
            live[n] -= 1
            ended += n == chunk
        if kind in "BW":
            held[n] -= 1
    return tuple(last.values())
