"""When each rank works and waits, if operations take fixed times and messages none."""

from __future__ import annotations

from dataclasses import dataclass

from archcalc.training.schedule import Op, Pipeline, Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class Durations:
    """How long a chunk's operations take, in any one unit. A whole backward is both gradients: tb = 2 tf."""

    forward: int = 1
    input_gradient: int = 1
    weight_gradient: int = 1

    def of(self, kind: str) -> int:
        """The time that an operation of this kind takes."""
        backward = self.input_gradient + self.weight_gradient
        return {"F": self.forward, "B": backward, "I": self.input_gradient, "W": self.weight_gradient}[kind]


EQUAL = Durations()


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A rank's step, from the start of its first operation to the end of its last, and how long it works."""

    start: int
    end: int
    busy: int

    @property
    def idle(self) -> int:
        """Time that the rank waits between its first and its last operation."""
        return self.end - self.start - self.busy


class Deadlock(RuntimeError):
    """Orders that wait for each other: a defect of a schedule, not of its input."""


class _Finished:
    """When the forward and the input gradient of each (stage, micro-batch) ended; None: not yet.

    A row of zeros before the first stage's forwards and one after the last stage's backwards mean "at once".
    """

    def __init__(self, stages: int, micro_batches: int) -> None:
        self.row = micro_batches
        self.forward: list[int | None] = [0] * micro_batches + [None] * (stages * micro_batches)
        self.backward: list[int | None] = [None] * ((stages + 1) * micro_batches) + [0] * micro_batches

    def ready(self, op: Op, stage: int) -> int | None:
        """When an operation's inputs are there."""
        place = (stage + 1) * self.row + op.micro_batch
        if op.kind == "F":
            return self.forward[place - self.row]
        if op.kind == "W":
            return self.backward[place]
        # Its own forward ran on the same rank, so it is enough that it did.
        return None if self.forward[place] is None else self.backward[place + self.row]

    def note(self, op: Op, stage: int, time: int) -> None:
        """An operation ended."""
        if op.kind != "W":
            ended = self.forward if op.kind == "F" else self.backward
            ended[(stage + 1) * self.row + op.micro_batch] = time


def simulate(schedule: Schedule, pipeline: Pipeline, durations: Durations = EQUAL) -> tuple[Span, ...]:
    """Run all ranks' orders against their dependencies, each operation as early as it can; the spans by rank.

    F of a stage needs F of the stage before; B or I needs its own F, and B or I of the stage after; W needs
    its own I. Raises Deadlock if no rank can go on.
    """
    ranks = range(pipeline.pp)
    orders = [schedule.order(pipeline, rank) for rank in ranks]
    held = [schedule.held(pipeline.pp, pipeline.vpp, rank) for rank in ranks]
    finished = _Finished(schedule.stages(pipeline.pp, pipeline.vpp), pipeline.micro_batches)
    cost = {kind: durations.of(kind) for kind in "FBIW"}
    position, clock, start = [0] * pipeline.pp, [0] * pipeline.pp, [-1] * pipeline.pp
    before = -1
    while before < (before := sum(position)):
        for rank in ranks:
            for op in orders[rank][position[rank] :]:
                stage = held[rank][op.chunk]
                ready = finished.ready(op, stage)
                if ready is None:
                    break
                begin = max(ready, clock[rank])
                if start[rank] < 0:
                    start[rank] = begin
                clock[rank] = begin + cost[op.kind]
                finished.note(op, stage, clock[rank])
                position[rank] += 1
    stuck = {rank: orders[rank][position[rank]] for rank in ranks if position[rank] < len(orders[rank])}
    if stuck:
        raise Deadlock(f"{schedule.kind} cannot go on with {pipeline}: {stuck}")
    busy = [sum(cost[op.kind] for op in order) for order in orders]
    return tuple(Span(start=start[rank], end=clock[rank], busy=busy[rank]) for rank in ranks)


def bubble(schedule: Schedule, pipeline: Pipeline) -> float:
    """The largest share of its step that any rank waits, from its first operation to its last. Chunks are taken to be
    equal, messages to take no time, and overlapped pairs to run one after the other."""
    return max(span.idle / (span.idle + span.busy) for span in simulate(schedule, pipeline))
