"""Placement: which layers each rank's chunks hold, and the weights that go with them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from archcalc.calc.sharding import Shards, local_elements
from archcalc.tape import Tape, Weight
from archcalc.training.schedule import Pipeline, Schedule

Chunk = tuple[tuple[int, int], ...]
"""A chunk as runs of equal layers, (segment's place on the tape, how many copies), in forward order: kinds that take
turns stand in it more than once."""

Held = tuple[tuple[Weight, int], ...]
"""Weights of a rank, and how many layers' worth of each."""


def divided(tape: Tape, shards: Shards) -> dict[int, int]:
    """Elements of one layer's weight on one device of a legal plan, by the identity of each weight."""
    return {id(w): local_elements(w, shards) for w in tape.weights()}


def stage_layers(layers: int, slots: int, layout: str | Sequence[int]) -> list[int]:
    """Layers of each stage. `auto`: as even as can be; the short stages are, in order, first, last, last but
    one, ... `weighted`: embedding and head count as a layer each, and the first stages take what does not divide.

    A list is taken as it is: legal plans list all stages and layers (`archcalc.training.legal`).
    """
    if not isinstance(layout, str):
        return list(layout)
    if layout == "weighted" and slots > 1:
        return _weighted(layers, slots)
    size, more = divmod(layers, slots)
    if size == 0:
        return [1] * layers + [0] * (slots - layers)
    short = [0, *range(slots - 1, 0, -1)][: slots - more]
    return [size + (slot not in short) for slot in range(slots)]


def _weighted(layers: int, slots: int) -> list[int]:
    """torchtitan distributed/pipeline_parallel.py, generate_llm_fqn_per_model_part."""
    size, more = divmod(layers + 2, slots)
    ends = {0: 1, slots - 1: 1}
    return [size + (slot < more) - ends.get(slot, 0) for slot in range(slots)]


def chunks(
    tape: Tape, schedule: Schedule, pipeline: Pipeline, layout: str | Sequence[int], *, decoupled: bool
) -> list[tuple[Chunk, ...]]:
    """`chunks[rank][vstage]`: embedding in the first stage, head and multi-token prediction in the last.

    Vision segments stand in the first stage, or nowhere where the tower runs decoupled. The layout is a legal one.
    """
    pp, vpp = pipeline.pp, pipeline.vpp
    by_layer = {i: n for n, s in enumerate(tape.segments) if s.part == "backbone" for i in s.indices}
    slots = schedule.stages(pp, vpp)
    stages: list[Chunk] = []
    start = 0
    first, last = _ends(tape, decoupled=decoupled)
    for slot, layers in enumerate(stage_layers(len(by_layer), slots, layout)):
        turns = groupby(by_layer[i] for i in range(start, start + layers))
        held = [(n, len(list(same))) for n, same in turns]
        stages.append((*(first if slot == 0 else ()), *held, *(last if slot == slots - 1 else ())))
        start += layers
    return [tuple(stages[stage] for stage in schedule.held(pp, vpp, rank)) for rank in range(pp)]


def _ends(tape: Tape, *, decoupled: bool) -> tuple[Chunk, Chunk]:
    """What the first stage holds before its layers, and the last behind its."""
    ends = [(n, 1) for n, s in enumerate(tape.segments) if s.part == "backbone" and not s.indices]
    towers = [] if decoupled else _of(tape, "vision", "projector")
    return (*towers, ends[0]), (*_of(tape, "mtp"), *ends[1:])


def _of(tape: Tape, *parts: str) -> list[tuple[int, int]]:
    return [(n, s.count) for n, s in enumerate(tape.segments) if s.part in parts]


def held_weights(tape: Tape, held: Sequence[Chunk], *, decoupled: bool) -> Held:
    """Weights of a rank's chunks and how many layers' worth of each; one that two of its segments share
    counts once.

    A decoupled vision tower and its projector stand on every rank (K2.5, arXiv:2602.02276, section 4.5); a
    rank with a multi-token prediction module holds embedding and head too (Megatron-LM builds both there).
    """
    counts: dict[int, int] = {}
    for chunk in held:
        for n, count in chunk:
            counts[n] = counts.get(n, 0) + count
    if decoupled:
        counts |= dict(_of(tape, "vision", "projector"))
    found: dict[int, tuple[Weight, int]] = {}
    for n, count in counts.items():
        for op in tape.segments[n].ops:
            for w in op.weights:
                found[id(w)] = (w, count if w.indices else 1)
    if any(tape.segments[n].part == "mtp" for n in counts):
        shared = (w for s in tape.segments for op in s.ops for w in op.weights if w.of_vocabulary)
        for w in shared:
            found.setdefault(id(w), (w, 1))
    return tuple(found.values())
