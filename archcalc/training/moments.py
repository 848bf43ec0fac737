"""The states of a rank's step that may be its worst moment, and what is on the device in one of them."""

from __future__ import annotations

from typing import NamedTuple

from archcalc.training.chunk import ChunkMemory
from archcalc.training.schedule import Pipeline, Schedule, State, all_states, live_states

OFFLOAD_BUFFERS = 4
"""Chunks whose activations stay on the device under offload: in forward, being copied out, in backward,
prefetched (K2, arXiv:2507.20534, section 2.4, overlaps both copies with compute; the count is inferred)."""


class Moment(NamedTuple):
    """What is on the device at a moment of a rank's step beside static and fixed memory [bytes]."""

    activation: int
    offloaded: int
    transient: int


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
    in_hand = buffered_chunks(state.live, largest) if outside else ()
    buffered = sum(n * size.offloadable for n, size in zip(in_hand, sizes, strict=False))
    running = sizes[state.op.chunk]
    kind = state.op.kind
    transient = running.forward if kind == "F" else 0 if kind == "W" else running.backward
    return Moment(total - outside + buffered, outside - buffered, max(0, transient) + messages[kind != "F"])


def buffered_chunks(live: tuple[int, ...], largest: list[int]) -> tuple[int, ...]:
    """How many micro-batches of each chunk have what they offload on the device all the same: those of the largest
    chunks that the copies may have in hand."""
    kept, room = [0] * len(live), OFFLOAD_BUFFERS
    for chunk in largest:
        kept[chunk] = min(live[chunk], room)
        room -= kept[chunk]
    return tuple(kept)


def by_offload(sizes: tuple[ChunkMemory, ...]) -> list[int]:
    """Chunks by what they may offload, most first."""
    return sorted(range(len(sizes)), key=lambda c: -sizes[c].offloadable)


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
