"""Training memory of every pipeline rank at its worst moment: static + live + transient + fixed, the allocator last."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from archcalc.calc.activations import Savers
from archcalc.calc.sharding import Shards, local_bytes, local_features
from archcalc.plan.chunk import ChunkMemory, chunk_memory
from archcalc.plan.placement import DTYPES, Chunk, Static, check_model, chunks, held_weights, shards_of, static
from archcalc.plan.plan import Plan
from archcalc.plan.savers import offload_sites, savers
from archcalc.plan.schedule import State, get_schedule, live_states, most_live
from archcalc.tape import Storage, Tape
from archcalc.tape.values import ITEM_BYTES

OFFLOAD_BUFFERS = 4
"""Chunks whose activations stay on the device under offload: in forward, being copied out, in backward, prefetched
(K2, arXiv:2507.20534, section 2.4, overlaps both copies with compute; the count is inferred)."""


class Moment(NamedTuple):
    """What is on the device at a moment of a rank's step beside static and fixed memory [bytes]."""

    activation: int
    offloaded: int
    transient: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RankMemory:
    """One pipeline rank at its worst moment [bytes]; `peak` has the allocator's efficiency in."""

    rank: int
    static: Static
    live_chunks: int
    activation: int
    offloaded: int
    transient: int
    fixed: int
    placeholders: int
    total: int
    peak: int
    moment: str
    chunk_memory: tuple[ChunkMemory, ...]


def plan_savers(plan: Plan) -> Savers:
    """The fold's options from a plan."""
    a = plan.activations
    return savers(
        kernels=a.kernels,
        router_probs=a.router_probs,
        recompute=tuple(a.recompute),
        fp8=tuple(a.fp8),
        cross_entropy=a.cross_entropy,
    )


def plan_shards(plan: Plan) -> Shards:
    """The mesh of a plan with its routing imbalance."""
    return shards_of(plan.parallel, Fraction(str(plan.activations.moe_imbalance)))


class _Context(NamedTuple):
    """What all ranks of a plan have in common."""

    tape: Tape
    plan: Plan
    shards: Shards
    savers: Savers
    offload: frozenset[str] | None
    exchange: int


def training_memory(tape: Tape, plan: Plan) -> list[RankMemory]:
    """Every pipeline rank at its worst moment. Raises InputError where model and plan don't fit each other."""
    check_model(tape, plan.parallel)
    names = plan.activations.offload
    shards = plan_shards(plan)
    context = _Context(
        tape,
        plan,
        shards,
        plan_savers(plan),
        offload_sites(names if isinstance(names, str) else tuple(names)),
        _pipeline_buffers(tape, plan, shards),
    )
    return [_rank_memory(context, rank) for rank in range(plan.parallel.pp)]


def _rank_memory(context: _Context, rank: int) -> RankMemory:
    """The worst moment of one rank: the largest of its pipeline states, or the optimizer's step."""
    tape, plan = context.tape, context.plan
    held = static(tape, plan, rank)
    sizes = tuple(
        chunk_memory(tape, chunk, context.shards, context.savers, context.offload, held.gathered)
        for chunk in chunks(tape, plan)[rank]
    )
    schedule = get_schedule(plan.schedule.kind)
    states = live_states(schedule, plan.pipeline, rank)
    moments = [_moment(state, sizes, context.exchange) for state in states]
    peak = max(moments, key=lambda m: m.activation + m.transient)
    text = _described(states[moments.index(peak)], sizes)
    if held.step > peak.activation + peak.transient:
        peak, text = Moment(0, 0, held.step), "optimizer step"
    spare = placeholder_bytes(tape, plan, rank, context.shards)
    fixed = plan.memory.fixed_bytes
    resting = held.params + held.grads + held.optimizer + held.buffers
    total = resting + peak.activation + peak.transient + fixed + spare
    efficiency = plan.memory.efficiency
    return RankMemory(
        rank=rank,
        static=held,
        live_chunks=most_live(schedule, plan.pipeline, rank),
        activation=peak.activation,
        offloaded=max(m.offloaded for m in moments),
        transient=peak.transient,
        fixed=fixed,
        placeholders=spare,
        total=total,
        peak=-(-total * efficiency.denominator // efficiency.numerator),
        moment=text,
        chunk_memory=sizes,
    )


def worst(ranks: list[RankMemory]) -> RankMemory:
    """The rank with the highest peak, the first of equals."""
    return max(ranks, key=lambda r: (r.peak, -r.rank))


def _moment(state: State, sizes: tuple[ChunkMemory, ...], exchange: int) -> Moment:
    """What is on the device in one state of the schedule."""
    total = outside = 0
    for n, waiting, size in zip(state.live, state.waiting, sizes, strict=True):
        total += n * size.saved + waiting * size.waiting
        outside += n * size.offloadable
    buffered = _buffered(state.live, sizes) if outside else 0
    running = sizes[state.op.chunk]
    kind = state.op.kind
    transient = running.forward if kind == "F" else 0 if kind == "W" else running.backward
    return Moment(total - outside + buffered, outside - buffered, max(0, transient) + exchange)


def _buffered(live: tuple[int, ...], sizes: tuple[ChunkMemory, ...]) -> int:
    """Offloadable bytes that are on the device all the same: the largest chunks that the copies may have in hand."""
    buffered, room = 0, OFFLOAD_BUFFERS
    for size, n in sorted(((size.offloadable, n) for size, n in zip(sizes, live, strict=True)), reverse=True):
        kept = min(n, room)
        buffered += kept * size
        room -= kept
    return buffered


_VERBS = {"F": "forward", "B": "backward", "I": "input gradient", "W": "weight gradient"}


def _described(state: State, sizes: tuple[ChunkMemory, ...]) -> str:
    kind, chunk, micro_batch = state.op
    place = sizes[chunk].forward_at if kind == "F" else sizes[chunk].backward_at
    live = ", ".join(f"{n} of chunk {c}" for c, n in enumerate(state.live) if n) or "none"
    waiting = sum(state.waiting)
    more = f", {waiting} waiting for their weight gradient" if waiting else ""
    where = f" at {place}" if place else ""
    return f"{_VERBS[kind]} of chunk {chunk}, micro-batch {micro_batch}{where}; alive: {live}{more}"


def _pipeline_buffers(tape: Tape, plan: Plan, shards: Shards) -> int:
    """Send and receive buffers of neighbouring stages: two for each direction [bytes]; none without a pipeline."""
    if plan.parallel.pp == 1:
        return 0
    entry = next(s.entry for s in tape.segments if s.part == "backbone" and s.entry is not None)
    return 4 * local_bytes(entry, shards)


def placeholder_bytes(tape: Tape, plan: Plan, rank: int, shards: Shards) -> int:
    """Placeholder gradients [bytes]: where the weight-gradient GEMM adds into the main gradient itself, autograd still gets a
    tensor, and one of each distinct weight shape is cached for the whole run (TransformerEngine
    pytorch/module/base.py, get_dummy_wgrad; Megatron-LM core/tensor_parallel/layers.py for the head)."""
    if plan.activations.kernels != "fused" or not plan.memory.placeholder_grads:
        return 0
    held = tuple(chunks(tape, plan)[rank])
    return ITEM_BYTES[DTYPES[plan.precision.params]] * _placeholder_elements(tape, held, shards)


@lru_cache(maxsize=1024)
def _placeholder_elements(tape: Tape, held: tuple[Chunk, ...], shards: Shards) -> int:
    """Elements of one tensor of each distinct local shape among the weights that linears multiply with."""
    own = {id(w) for w, _ in held_weights(tape, held, "")}
    shapes: dict[Storage, tuple[int, int]] = {}
    for segment in tape.segments:
        for op in segment.ops:
            if op.kind in ("linear", "grouped_linear") and id(op.weights[0]) in own and segment.part == "backbone":
                w = op.weights[0]
                out, into = local_features(w.out, shards), local_features(w.into, shards)
                before = shapes.get(op.outputs[0], (0, into))[0]
                shapes[op.outputs[0]] = (before + out, into)
    return sum(out * into for out, into in set(shapes.values()))
