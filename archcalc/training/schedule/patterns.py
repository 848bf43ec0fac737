"""Orders written down in short: phases that repeat a pattern, and loops of phases that leave as much alive as they met.

A rank's order in a step of a million micro-batches is a handful of these.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple, cast

OpKind = Literal["F", "B", "I", "W"]


class Step(NamedTuple):
    """One operation of a pattern, on its chunk's next micro-batch."""

    kind: OpKind
    chunk: int


class Phase(NamedTuple):
    """A pattern, and how often it runs in a row."""

    times: int
    steps: tuple[Step, ...]


class Loop(NamedTuple):
    """Phases that run over and over; each turn leaves as many micro-batches alive on each chunk as it met."""

    times: int
    phases: tuple[Phase, ...]


Phases = Sequence[Phase | Loop]
Run = tuple[int, Step | None]
"""A step, and how often it runs in a row; None is a gap."""


def single_chunk(kind: OpKind, micro_batches: int) -> list[Run]:
    """One kind of operation on chunk 0, for each micro-batch in turn."""
    return [(micro_batches, Step(kind, 0))]


def alternate(
    forwards: Iterable[Run], backwards: Iterable[Run], *, warmup: int, weights: Iterable[Run] = (), delay: int = 0
) -> list[Phase]:
    """`warmup` forwards, then a forward and a backward in turn, then the backwards that are left.

    In the steady state the forward comes first, as in Megatron-LM: one more is alive than the warm-up left.
    weights: the weight gradients, if backwards are split; each runs after `delay` later input gradients.
    """
    first: list[Phase] = []
    rest: list[Run] = []
    for times, step in forwards:
        early = min(times, warmup)
        warmup -= early
        first += together([(early, step)])
        rest.append((times - early, step))
    return first + together(rest, backwards, [(delay, None), *weights])


def together(*streams: Iterable[Run]) -> list[Phase]:
    """A step of each stream in turn, until the longest is at its end."""
    left = [[(times, step) for times, step in stream if times] for stream in streams]
    for stream in left:
        stream.reverse()
    phases: list[Phase] = []
    while any(left):
        heads = [stream[-1] for stream in left if stream]
        times = min(n for n, _ in heads)
        steps = tuple(step for _, step in heads if step is not None)
        if steps:
            phases.append(Phase(times, steps))
        for stream in filter(None, left):
            n, step = stream.pop()
            if n > times:
                stream.append((n - times, step))
    return phases


def written(*phases: tuple[int, str]) -> list[Phase]:
    """Phases in words: (3, "F0 I1 W1 F1"); those that run no time are left out."""
    return [Phase(times, tuple(map(_step, pattern.split()))) for times, pattern in phases if times > 0]


def _step(word: str) -> Step:
    return Step(cast(OpKind, word[0]), int(word[1:]))


def counters(step: Step) -> tuple[Step, ...]:
    """What numbers micro-batches and moves on with a step, the one that numbers its own first: a whole backward is an
    input gradient and a weight gradient, and none runs whole while others of its chunk wait for theirs."""
    chunk = step.chunk
    return (Step("I", chunk), Step("W", chunk)) if step.kind == "B" else (step,)


def up_to(phases: Iterable[Phase], micro_batches: int) -> list[Phase]:
    """The phases, of split backwards, without micro-batches from this one on: gaps are left where those ran."""
    ran: dict[Step, int] = defaultdict(int)
    found: list[Phase] = []
    for times, steps in phases:
        room = {step: min(times, micro_batches - ran[step]) for step in steps}
        start = 0
        for end in sorted({*room.values()} - {0}):
            found.append(Phase(end - start, tuple(step for step in steps if room[step] >= end)))
            start = end
        for step in steps:
            ran[step] += room[step]
    return found


def expanded(phases: Phases) -> Iterator[tuple[Step, int]]:
    """Every operation in order, with the how manieth of its chunk it is, from 0."""
    ran: dict[Step, int] = defaultdict(int)
    for phase in phases:
        for times, steps in phase.phases * phase.times if isinstance(phase, Loop) else (phase,):
            for _ in range(times):
                for step in steps:
                    own = counters(step)
                    yield step, ran[own[0]]
                    for counter in own:
                        ran[counter] += 1


def two_way(pp: int, rank: int, micro_batches: int) -> list[Phase]:
    """The order DualPipe and DualPipeV share, for `micro_batches` each way through chunks 0 and 1.

    pp: ranks from where micro-batches of chunk 0 come in to where they meet those of chunk 1 [ranks]; rank:
    the place on that way, from 0. Eight phases, of which the fourth, the steady state, pairs a forward of
    each chunk with a backward of the other; halfway through the sixth the backwards begin to be split, so
    that weight gradients fill the end of the step: the one that has waited longest first, so that those of the two
    chunks take turns as their input gradients did, chunk 0 last. Source: github.com/deepseek-ai/DualPipe, the phases of
    `DualPipe.step` (arXiv:2412.19437).
    """
    below, upto = pp - 1 - rank, rank + 1
    turns = min(below, upto)
    return written(
        (2 * below, "F0"),
        (upto, "F0 F1"),
        (below, "I1 W1 F1"),
        (micro_batches - 2 * pp + upto, "F0 B1 F1 B0"),
        (below, "B1 F1 B0"),
        (upto // 2, "B1 B0"),
        (upto % 2, "B1 I0"),
        (upto // 2, "I1 I0"),
        *_in_turn(upto, turns, "I0"),
        (below - turns, "W0 I0"),
        *_in_turn(upto - turns, upto - turns),
        (turns, "W0"),
    )


def _in_turn(left: int, count: int, behind: str = "") -> list[tuple[int, str]]:
    """The first `count` weight gradients of `left` that take turns, the last of which is chunk 0's."""
    first = 1 - left % 2
    one, other = f"W{first} {behind}", f"W{1 - first} {behind}"
    return [(count // 2, f"{one} {other}"), (count % 2, one)]
