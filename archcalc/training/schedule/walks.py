"""How many micro-batches are alive through a rank's order, without going through it one operation at a time.

Each operation of a phase meets counts that change alike from turn to turn: a walk in a straight line. A sum of sizes is
largest at one of its ends, so that ends are all that memory asks about, whatever the number of micro-batches.
"""

from collections import defaultdict
from collections.abc import Iterator
from itertools import chain
from struct import Struct
from typing import NamedTuple

from .base import Pipeline, Schedule
from .patterns import Loop, OpKind, Phase, Step, counters

FIELD = 64
"""Bits of a count in a packed number: whole tuples of counts are added and compared as one integer."""


class Place(NamedTuple):
    """What makes states differ beside counts: the running operation, the chunk that goes backward next, and that of
    a forward that runs beside."""

    kind: OpKind
    chunk: int
    following: int | None
    beside: int | None


class Walk(NamedTuple):
    """One operation of a phase in its turns: what is so at the first of them, and what each adds.

    Attributes:
        position, every: in the order.
        times: turns.
        counts, change: live by chunk, then live or waiting by chunk, packed; the operation's own chunk is counted.
        nth, more: of its chunk's micro-batches, from 0.
        beside: the same of the forward that runs beside.
        ended, ending: micro-batches that have ended their backward (their I, where it is split) on the watched chunk.
    """

    place: Place
    position: int
    every: int
    times: int
    counts: int
    change: int
    nth: int
    more: int
    beside: tuple[int, int]
    ended: int
    ending: int

    def part(self, first: int, times: int, place: Place) -> "Walk":
        """Some of its turns, at another place."""
        return self._replace(
            place=place,
            position=self.position + first * self.every,
            times=times,
            counts=self.counts + first * self.change,
            nth=self.nth + first * self.more,
            beside=(self.beside[0] + first * self.beside[1], self.beside[1]),
            ended=self.ended + first * self.ending,
        )


def unit(field: int) -> int:
    """One micro-batch in a field of packed counts."""
    return 1 << FIELD * field


def unpacked(counts: int, fields: int) -> tuple[int, ...]:
    """Packed counts by field."""
    return Struct(f"<{fields}Q").unpack(counts.to_bytes(FIELD // 8 * fields, "little"))


def walks(schedule: Schedule, pipeline: Pipeline, rank: int, *, ahead: bool = False, watched: int = 0) -> list[Walk]:
    """All walks of a rank's step. With `ahead` they know the chunk that goes backward next; `watched` is the chunk
    whose ended backwards are counted."""
    phases = schedule.phases(pipeline, rank)
    # Of a loop the first turn and the last: those between meet the same counts.
    flat = list(chain.from_iterable(p.phases * min(2, p.times) if isinstance(p, Loop) else (p,) for p in phases))
    following = _following(flat) if ahead else [None] * len(flat)
    state = _State(schedule.chunks_per_rank(pipeline.vpp), ahead, pipeline.ep_overlap, watched)
    found: list[Walk] = []
    places = iter(following)
    for phase in phases:
        inner = phase.phases if isinstance(phase, Loop) else (phase,)
        for each in inner:
            found += state.passed(each, next(places))
        if isinstance(phase, Loop) and phase.times > 1:
            for each in inner:
                state.skip(each, phase.times - 2)
            for each in inner:
                found += state.passed(each, next(places))
    return found


def _following(flat: list[Phase]) -> list[int | None]:
    """By phase, the chunk of the first backward behind it."""
    found: list[int | None] = []
    chunk: int | None = None
    for phase in reversed(flat):
        found.append(chunk)
        chunk = next((step.chunk for step in phase.steps if step.kind in "BI"), chunk)
    return found[::-1]


class _State:
    """A rank between two phases."""

    def __init__(self, chunks: int, ahead: bool, overlap: bool, watched: int) -> None:
        self.chunks, self.ahead, self.overlap = chunks, ahead, overlap
        self.watched = Step("I", watched)
        self.position = self.counts = 0
        self.ran: dict[Step, int] = defaultdict(int)

    def change(self, step: Step) -> int:
        """What a step adds to the counts: a forward before it runs, all others when they have."""
        live, held = unit(step.chunk), unit(self.chunks + step.chunk)
        return {"F": live + held, "B": -live - held, "I": -live, "W": -held}[step.kind]

    def skip(self, phase: Phase, turns: int) -> None:
        """Run a phase of a loop for so many turns of the loop."""
        self.position += turns * phase.times * len(phase.steps)
        for step in phase.steps:
            for counter in counters(step):
                self.ran[counter] += turns * phase.times

    def passed(self, phase: Phase, behind: int | None) -> Iterator[Walk]:
        """The walks of a phase, which is run; `behind` is the chunk of the first backward behind it."""
        times, steps = phase
        each: dict[Step, int] = defaultdict(int)
        for counter in chain.from_iterable(map(counters, steps)):
            each[counter] += 1
        change, start = sum(map(self.change, steps)), self.counts
        beside: Step | None = None
        for k, step in enumerate(steps):
            own = counters(step)
            if step.kind == "F":
                self.counts += self.change(step)
            if self.overlap and step.kind == "F" and steps[k + 1 :]:
                beside = step
            else:
                at = Place(step.kind, step.chunk, None, None if beside is None else beside.chunk)
                nth = (0, 0) if beside is None else (self.ran[beside] - 1, each[beside])
                walk = Walk(
                    at, self.position + k, len(steps), times, self.counts, change, self.ran[own[0]], each[own[0]],
                    nth, self.ran[self.watched], each[self.watched],
                )  # fmt: skip
                yield from self._split(walk, steps, k, behind) if self.ahead else (walk,)
                beside = None
            if step.kind != "F":
                self.counts += self.change(step)
            for counter in own:
                self.ran[counter] += 1
        self.counts = start + times * change
        self.position += times * len(steps)
        for counter, n in each.items():
            self.ran[counter] += (times - 1) * n

    def _split(self, walk: Walk, steps: tuple[Step, ...], k: int, behind: int | None) -> Iterator[Walk]:
        """A walk in parts with one chunk that goes backward next: in this turn or the next one, or behind the phase."""
        here = next((step.chunk for step in steps[k + 1 :] if step.kind in "BI"), None)
        if here is not None:
            yield from self._fetched(walk, here)
            return
        again = next((step.chunk for step in steps if step.kind in "BI"), behind)
        if again == behind or walk.times == 1:
            yield from self._fetched(walk, behind)
            return
        yield from self._fetched(walk.part(0, walk.times - 1, walk.place), again)
        yield from self._fetched(walk.part(walk.times - 1, 1, walk.place), behind)

    def _fetched(self, walk: Walk, chunk: int | None) -> Iterator[Walk]:
        """A walk in parts that know whether the next backward of this chunk has ended its forward by then: one more is
        alive than those that run."""
        if chunk is None:
            yield walk
            return
        at = walk.place
        running = (at.chunk == chunk and at.kind != "W") + (at.beside == chunk)
        left = _field(walk.counts, chunk) - running
        more = _field(walk.counts + walk.change, chunk) - left - running if walk.times > 1 else 0
        ready = at._replace(following=chunk)
        if more == 0 or (left > 0) == (left + (walk.times - 1) * more > 0):
            yield walk._replace(place=ready) if left > 0 else walk
            return
        turn = -(-(1 - left) // more) if more > 0 else (left - 1) // -more + 1
        first, last = (at, ready) if more > 0 else (ready, at)
        yield walk.part(0, turn, first)
        yield walk.part(turn, walk.times - turn, last)


def _field(counts: int, field: int) -> int:
    return counts >> FIELD * field & (1 << FIELD) - 1
