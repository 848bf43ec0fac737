"""How far a rank has come when a state of its order is reached for the last time."""

from functools import lru_cache

from .base import Pipeline, Schedule
from .live import Counts, State


@lru_cache(maxsize=512)
def ended_states(schedule: Schedule, pipeline: Pipeline, rank: int, chunk: int) -> tuple[tuple[State, int], ...]:
    """Every state of a rank's run, and how many micro-batches have ended their backward on `chunk` (their I, where it
    is split) when it is reached for the last time.

    A long run is cut to its periodic part: what a state of the cut run's second half has ended, the whole run has
    ended with the micro-batches between.
    """
    cut = schedule.cut(pipeline)
    order, chunks = schedule.order(cut, rank), schedule.chunks_per_rank(pipeline.vpp)
    removed = pipeline.micro_batches - cut.micro_batches
    live, held, ended = [0] * chunks, [0] * chunks, 0
    last: dict[tuple[str, int, Counts, Counts], tuple[State, int]] = {}
    for position, op in enumerate(order):
        kind, n, _ = op
        if kind == "F":
            live[n] += 1
            held[n] += 1
        before = removed if 2 * position >= len(order) else 0
        counts = tuple(live), tuple(h - alive for h, alive in zip(held, live, strict=True))
        state = State(op=op._replace(micro_batch=op.micro_batch + before), live=counts[0], waiting=counts[1])
        last[kind, n, *counts] = state, ended + before // schedule.copies
        if kind in "BI":
            live[n] -= 1
            ended += n == chunk
        if kind in "BW":
            held[n] -= 1
    return tuple(last.values())
