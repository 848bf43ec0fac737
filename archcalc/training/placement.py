"""Placement: which layers each rank's chunks hold, the weights that go with them, and what can't be divided so."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from archcalc.calc.sharding import Shards, local_elements
from archcalc.errors import InputError
from archcalc.tape import Tape, Weight
from archcalc.training.schedule import Pipeline, Schedule

Chunk = tuple[tuple[int, int], ...]
"""A chunk as runs of equal layers, (segment's place on the tape, how many copies), in forward order: kinds that take
turns stand in it more than once."""

Held = tuple[tuple[Weight, int], ...]
"""Weights of a rank, and how many layers' worth of each."""


def divided(tape: Tape, shards: Shards) -> dict[int, int]:
    """Elements of one layer's weight on one device, by the identity of each weight. Raises InputError where a model
    can't be divided so: heads, experts and widths, or a MoE over TP without SP."""
    weights = tape.weights()
    elements = {id(w): local_elements(w, shards) for w in weights}
    if shards.cp > 1 and shards.ulysses:
        _check_heads(tape, shards)
    has_experts = any(w.stack for w in weights)
    if has_experts and shards.tp > 1 and not shards.sp:
        raise InputError(
            "a mixture of experts over tp needs sp: Megatron-LM routes each token on one tensor-parallel device only",
            value=shards.tp,
            hint="set parallel.sp=true",
        )
    if not has_experts and shards.ep * shards.etp > 1:
        raise InputError(
            "ep and etp need routed experts, which this model does not have",
            value=shards.ep,
            hint="set parallel.ep=1 and parallel.etp=1",
        )
    return elements


def _check_heads(tape: Tape, shards: Shards) -> None:
    for heads in (d for op in tape.ops("backbone") if op.exchange == "context" for d in op.inputs[0].features):
        if heads.axis == "heads" and heads.size % (shards.tp * shards.cp):
            raise InputError(
                f"{heads.name} {heads.size} can't be divided over tp x cp = {shards.tp * shards.cp} devices, as"
                " cp_comm a2a does",
                value=shards.cp,
                hint="set parallel.cp_comm=p2p",
            )


def stage_layers(layers: int, slots: int, layout: str | Sequence[int]) -> list[int]:
    """Layers of each stage. `auto`: as even as can be; the short stages are, in order, first, last, last but
    one, ... `weighted`: embedding and head count as a layer each, and the first stages take what does not divide.

    Raises:
        InputError: a layout of another length or sum, or more stages than there are layers for.
    """
    if not isinstance(layout, str):
        if len(layout) != slots or sum(layout) != layers:
            raise InputError(
                f"layout lists {len(layout)} stages with {sum(layout)} layers; the plan has {slots} stages, the model"
                f" {layers} layers",
                value=list(layout),
                hint="give the layers of each of the pp x vpp stages, in the model's order, or auto",
            )
        return list(layout)
    if layout == "weighted" and slots > 1:
        return _weighted(layers, slots)
    size, more = divmod(layers, slots)
    if size == 0:
        return [1] * layers + [0] * (slots - layers)
    short = [0, *range(slots - 1, 0, -1)][: slots - more]
    return [size + (slot not in short) for slot in range(slots)]


def _weighted(layers: int, slots: int) -> list[int]:
    """torchtitan distributed/pipeline_parallel.py, generate_llm_fqn_per_model_part. Raises InputError as it does."""
    size, more = divmod(layers + 2, slots)
    if size == 0:
        raise InputError(
            f"{layers} layers, embedding and head can't be laid out over {slots} stages: some would be empty",
            value=slots,
            hint="use fewer pipeline stages, or list the layers of each stage under parallel.layout",
        )
    ends = {0: 1, slots - 1: 1}
    return [size + (slot < more) - ends.get(slot, 0) for slot in range(slots)]


def chunks(
    tape: Tape, schedule: Schedule, pipeline: Pipeline, layout: str | Sequence[int], *, decoupled: bool
) -> list[tuple[Chunk, ...]]:
    """`chunks[rank][vstage]`: embedding in the first stage, head and multi-token prediction in the last.

    Vision segments stand in the first stage, or nowhere where the tower runs decoupled.

    Raises:
        InputError: a layout that does not fit, or a rank without a layer.
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
    ranks = [tuple(stages[stage] for stage in schedule.held(pp, vpp, rank)) for rank in range(pp)]
    empty = next((rank for rank, held_by in enumerate(ranks) if not any(held_by)), None)
    if empty is not None:
        raise InputError(
            f"pipeline rank {empty} would hold nothing: {len(by_layer)} layers over {slots} stages",
            value=pp,
            hint="use fewer pipeline stages, or list the layers of each stage under parallel.layout",
        )
    return ranks


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
