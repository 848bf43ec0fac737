"""The states of a rank's step that may be its worst moment, and what is on the device in one of them."""

from __future__ import annotations

from typing import NamedTuple

from archcalc.training.chunk import ChunkMemory
from archcalc.training.schedule import Pipeline, Schedule, State, all_states, live_states

OFFLOAD_BUFFERS = 4
"""Chunks whose activations stay on the device under offload: in forward, being copied out, in backward,
prefetched (K2, arXiv:2507.20534, section 2.4, overlaps both copies with compute; the count is inferred)."""


class Moment(NamedTuple):
    """What is on the device at a moment of a rank's step beside static and fixed memory [bytes]; `unmade` of the
    gradients in static memory isn't there yet."""

    activation: int
    offloaded: int
    transient: int
    unmade: int = 0


def states(schedule: Schedule, pipeline: Pipeline, rank: int, *, offloaded: bool) -> tuple[State, ...]:
    """States among which the worst moment is.

    Where chunks wait for their weight gradient beside offloaded ones, a state with fewer live chunks can be
    the worse one, so that all of a cut run's states count, not only those that no other covers.
    """
    if offloaded and schedule.splits_backward:
        return all_states(schedule, pipeline, rank)
    return live_states(schedule, pipeline, rank)


def moment(state: State, sizes: tuple[ChunkMemory, ...], largest: list[int], messages: tuple[int, int]) -> Moment:
    """What is on the device in one state of the schedule.

    Args:
        largest: chunks by what they may offload, most first.
        messages: between stages, beside a forward and beside a backward [bytes].
    """
    total = outside = 0
    for n, waiting, size in zip(state.live, state.waiting, sizes, strict=True):
        total += n * size.saved + waiting * size.waiting
        outside += n * size.offloadable
    buffered = _buffered(state.live, sizes, largest) if outside else 0
    running = sizes[state.op.chunk]
    kind = state.op.kind
    transient = running.forward if kind == "F" else 0 if kind == "W" else running.backward
    unmade = running.forward_unmade if kind == "F" else running.backward_unmade
    return Moment(total - outside + buffered, outside - buffered, max(0, transient) + messages[kind != "F"], unmade)


def _buffered(live: tuple[int, ...], sizes: tuple[ChunkMemory, ...], largest: list[int]) -> int:
    """Offloadable bytes that are on the device all the same: the largest chunks that the copies may have in
    hand."""
    buffered, room = 0, OFFLOAD_BUFFERS
    for chunk in largest:
        kept = min(live[chunk], room)
        buffered += kept * sizes[chunk].offloadable
        room -= kept
    return buffered


_VERBS = {"F": "forward", "B": "backward", "I": "input gradient", "W": "weight gradient"}


def described(state: State, sizes: tuple[ChunkMemory, ...]) -> str:
    """A moment in words: which operation of which chunk and micro-batch, where in it, and what was alive."""
    kind, chunk, micro_batch = state.op
    place = sizes[chunk].forward_at if kind == "F" else sizes[chunk].backward_at
    live = ", ".join(f"{n} of chunk {c}" for c, n in enumerate(state.live) if n) or "none"
    waiting = sum(state.waiting)
    more = f", {waiting} waiting for their weight gradient" if waiting else ""
    where = f" at {place}" if place else ""
    return f"{_VERBS[kind]} of chunk {chunk}, micro-batch {micro_batch}{where}; alive: {live}{more}"
