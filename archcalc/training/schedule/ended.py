"""How far a rank has come when a state of its order is reached for the last time."""

from functools import lru_cache

from .base import Pipeline, Schedule
from .live import State, state_at
from .walks import walks


@lru_cache(maxsize=512)
def ended_states(
    schedule: Schedule, pipeline: Pipeline, rank: int, chunk: int, *, ahead: bool = False
) -> tuple[tuple[State, int], ...]:
    """States of a rank's run, and how many micro-batches have ended their backward on `chunk` (their I, where it is
    split) when each is reached for the last time. With `ahead` states know the chunk that goes backward next.

    Whatever the sizes, the most bytes of what is alive and of what has ended together are those of one of them: both
    grow or shrink in straight lines between.
    """
    last: dict[object, tuple[State, int]] = {}
    for walk in walks(schedule, pipeline, rank, ahead=ahead, watched=chunk):
        for turn in (0, walk.times - 1):
            counts = walk.counts + turn * walk.change
            last[walk.place, counts] = state_at(schedule, pipeline, walk, turn), walk.ended + turn * walk.ending
    return tuple(last.values())
