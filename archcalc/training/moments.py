"""The states of a rank's step that may be its worst moment, and what is on the device in one of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from archcalc.training.chunk import ChunkMemory
from archcalc.training.overlap import Overlap, overlap
from archcalc.training.schedule import Op, Pipeline, Schedule, State, all_states, live_states


class Moment(NamedTuple):
    """What is on the device at a moment of a rank's step beside static and fixed memory [bytes]; `text` says in words
    which moment it is, where it is known, `phase` to what part of the step it belongs, `state` what the schedule has
    alive then, None outside the pipeline; `unmade` of the gradients in static memory isn't there yet."""

    activation: int
    offloaded: int
    transient: int
    text: str = ""
    phase: str = ""
    state: State | None = None
    unmade: int = 0

    @property
    def total(self) -> int:
        """All of it that is on the device, less what is missing of static memory [bytes]."""
        return self.activation + self.transient - self.unmade


def states(schedule: Schedule, pipeline: Pipeline, rank: int, *, offloaded: bool) -> tuple[State, ...]:
    """States among which the worst moment is.

    Where chunks wait for their weight gradient beside offloaded ones, a state with fewer live chunks can be
    the worse one, so that all of a cut run's states count, not only those that no other covers.
    """
    if offloaded and schedule.splits_backward:
        return all_states(schedule, pipeline, rank)
    return live_states(schedule, pipeline, rank, ahead=offloaded)


def moment(state: State, sizes: tuple[ChunkMemory, ...], messages: tuple[int, int]) -> Moment:
    """What is on the device in one state of the schedule.

    A micro-batch between its forward and its backward has nothing offloadable on the device, but the last layers of
    the one that goes backward next are fetched before it does (Megatron-LM, core/pipeline_parallel/
    fine_grained_activation_offload.py, `ChunkOffloadHandler.bulk_reload` and `pre_reload_last_layer`): beside a
    forward, and beside the last layers of a backward. Copies out are done when the next operation starts.

    Args:
        messages: between stages, beside a forward and beside a backward [bytes].
    """
    if state.beside is not None:
        return _both(state, sizes, state.beside, max(messages))
    kept = outside = 0
    for n, waiting, size in zip(state.live, state.waiting, sizes, strict=True):
        if n:
            kept += n * size.saved
            outside += n * size.offloadable
        if waiting:
            kept += waiting * size.waiting
    kept -= outside
    running, kind, fetched = sizes[state.op.chunk], state.op.kind, _fetched(state, sizes)
    here = 0 if kind == "W" else running.in_hand
    unmade = running.forward_unmade if kind == "F" else running.backward_unmade
    if kind in "FW":
        here += fetched[-1] if fetched else 0
        transient = running.forward if kind == "F" else 0
    else:
        transient = _going_backward(running, fetched, split=kind == "I")
    return Moment(kept + here, outside - here, transient + messages[kind != "F"], "", "", None, unmade)


def _fetched(state: State, sizes: tuple[ChunkMemory, ...]) -> tuple[int, ...]:
    """Offloadable bytes of the last layer, the last two, ... of what goes backward next, if it may be fetched."""
    return () if state.following is None else sizes[state.following].fetched


def _overlap(state: State, sizes: tuple[ChunkMemory, ...], beside: Op) -> Overlap:
    return overlap(sizes[beside.chunk], sizes[state.op.chunk], _fetched(state, sizes))


def _both(state: State, sizes: tuple[ChunkMemory, ...], beside: Op, message: int) -> Moment:
    """What is on the device while a forward runs beside a backward: neither of the two is whole."""
    live = list(state.live)
    for op in (state.op, beside):
        live[op.chunk] -= 1
    found = _overlap(state, sizes, beside)
    kept = sum(n * size.resident for n, size in zip(live, sizes, strict=True))
    away = sum(n * size.offloadable for n, size in zip(live, sizes, strict=True))
    return Moment(kept + found.kept, away + found.host, found.transient + message)


def _going_backward(running: ChunkMemory, fetched: tuple[int, ...], *, split: bool) -> int:
    """What a backward takes beside what was there at its start, with what comes back for the next one meanwhile."""
    most = running.input_gradient if split else running.backward
    if fetched:
        for ahead, backward, input_gradient in running.entering:
            most = max(most, fetched[min(ahead, len(fetched)) - 1] + (input_gradient if split else backward))
    return most


_VERBS = {"F": "forward", "B": "backward", "I": "input gradient", "W": "weight gradient"}


def _alive(live: Sequence[int]) -> Iterator[str]:
    """How many of each chunk are alive, three chunks or more with as many together: "4 of each of chunks 1-3"."""
    first = 0
    for n, alike in groupby(live):
        end = first + len(list(alike))
        if n and end - first > 2:
            yield f"{n} of each of chunks {first}-{end - 1}"
        elif n:
            yield from (f"{n} of chunk {c}" for c in range(first, end))
        first = end


def described(state: State, sizes: tuple[ChunkMemory, ...]) -> str:
    """A moment in words: which operation of which chunk and micro-batch, where in it, and what was alive."""
    kind, chunk, micro_batch = state.op
    size = sizes[chunk]
    place = {"F": size.forward_at, "I": size.input_gradient_at}.get(kind, size.backward_at)
    live = ", ".join(_alive(state.live)) or "none"
    waiting = sum(state.waiting)
    more = f", {waiting} waiting for their weight gradient" if waiting else ""
    beside = ""
    if state.beside is not None:
        both = _overlap(state, sizes, state.beside)
        place, ahead = both.backward_at, f" at {both.forward_at}" if both.forward_at else ""
        beside = f" beside the forward of chunk {state.beside.chunk}, micro-batch {state.beside.micro_batch}{ahead}"
    where = (f" at {place}" if place else "") + beside
    return f"{_VERBS[kind]} of chunk {chunk}, micro-batch {micro_batch}{where}; alive: {live}{more}"
