"""Training memory of every pipeline rank at its worst moment: static + live + transient + fixed, the
allocator last."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from archcalc.calc.activations import Savers
from archcalc.calc.sharding import Shards, local_bytes, local_features
from archcalc.tape import Storage, Tape
from archcalc.tape.values import ITEM_BYTES
from archcalc.training.chunk import ChunkMemory, chunk_memory, segment_whole
from archcalc.training.moments import Moment, described, moment, states
from archcalc.training.placement import DTYPES, Chunk, Static, check_model, chunks, held_weights, shards_of, static
from archcalc.training.plan import Plan
from archcalc.training.savers import offload_sites, savers
from archcalc.training.schedule import get_schedule, most_live
from archcalc.training.transient import gathered_head_input


@dataclass(frozen=True, slots=True, kw_only=True)
class RankMemory:
    """One pipeline rank at its worst moment [bytes]; `peak` has the allocator's efficiency in.

    `running` is the total at the worst moment of the pipeline, whatever the optimizer's step takes.
    """

    rank: int
    static: Static
    live_chunks: int
    activation: int
    offloaded: int
    transient: int
    fixed: int
    cached: int
    total: int
    running: int
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
        cross_entropy=a.loss,
    )


def plan_shards(plan: Plan) -> Shards:
    """The mesh of a plan with its routing imbalance."""
    return shards_of(plan.parallel, Fraction(str(plan.activations.moe_imbalance)))


class _Context(NamedTuple):
    """What all ranks of a plan have in common. `sizes` and `cached` remember what ranks with equal chunks
    share."""

    tape: Tape
    plan: Plan
    shards: Shards
    savers: Savers
    offload: frozenset[str] | None
    chunks: list[list[Chunk]]
    message: int
    sizes: dict[tuple[Chunk, int], ChunkMemory]
    cached: dict[tuple[Chunk, ...], int]


def training_memory(tape: Tape, plan: Plan) -> list[RankMemory]:
    """Every pipeline rank at its worst moment. Raises InputError where model and plan don't fit each
    other."""
    check_model(tape, plan.parallel)
    names = plan.activations.offload
    shards = plan_shards(plan)
    entry = next(s.entry for s in tape.segments if s.part == "backbone" and s.entry is not None)
    context = _Context(
        tape,
        plan,
        shards,
        plan_savers(plan),
        offload_sites(names if isinstance(names, str) else tuple(names)),
        chunks(tape, plan),
        local_bytes(entry, shards),
        {},
        {},
    )
    return [_rank_memory(context, rank) for rank in range(plan.parallel.pp)]


def _chunk_memory(context: _Context, chunk: Chunk, gathered: int) -> ChunkMemory:
    key = (chunk, gathered)
    if key not in context.sizes:
        c = context
        context.sizes[key] = chunk_memory(c.tape, chunk, c.shards, c.savers, c.offload, gathered)
    return context.sizes[key]


def _cached(context: _Context, held: tuple[Chunk, ...]) -> int:
    if held not in context.cached:
        context.cached[held] = cached_bytes(context.tape, context.plan, held, context.shards)
    return context.cached[held]


def _rank_memory(context: _Context, rank: int) -> RankMemory:
    """The worst moment of one rank: the largest of its pipeline states, or the optimizer's step."""
    tape, plan = context.tape, context.plan
    own = tuple(context.chunks[rank])
    held = static(tape, plan, own)
    sizes = tuple(_chunk_memory(context, chunk, held.gathered) for chunk in own)
    schedule = get_schedule(plan.schedule.kind)
    reached = states(schedule, plan.pipeline, rank, offloaded=any(size.offloadable for size in sizes))
    messages = pipeline_buffers(plan, rank, context.message)
    largest = sorted(range(len(sizes)), key=lambda c: -sizes[c].offloadable)
    moments = [moment(state, sizes, largest, messages) for state in reached]
    peak = max(moments, key=lambda m: m.activation + m.transient)
    text = described(reached[moments.index(peak)], sizes)
    cached = _cached(context, own)
    resting = held.params + held.grads + held.optimizer + held.buffers + plan.memory.fixed_bytes + cached
    running = resting + peak.activation + peak.transient
    if held.step > peak.activation + peak.transient:
        peak, text = Moment(0, 0, held.step), "optimizer step"
    total = resting + peak.activation + peak.transient
    return RankMemory(
        rank=rank,
        static=held,
        live_chunks=most_live(schedule, plan.pipeline, rank),
        activation=peak.activation,
        offloaded=max(m.offloaded for m in moments),
        transient=peak.transient,
        fixed=plan.memory.fixed_bytes,
        cached=cached,
        total=total,
        running=running,
        peak=fragmented(plan, total),
        moment=text,
        chunk_memory=sizes,
    )


def fragmented(plan: Plan, total: int) -> int:
    """Bytes that the allocator needs to serve `total` of them, rounded up."""
    efficiency = plan.memory.efficiency
    return -(-total * efficiency.denominator // efficiency.numerator)


def one_layer_extra(tape: Tape, plan: Plan, factor: float) -> int:
    """What one micro-batch in one MoE layer takes more if `factor` times the mean of its routed rows come to
    a device [bytes]."""
    planned, worst_case, how = plan_shards(plan), shards_of(plan.parallel, Fraction(str(factor))), plan_savers(plan)
    more = [0]
    for n, segment in enumerate(tape.segments):
        if any(op.exchange == "send" for op in segment.ops):
            whole = [segment_whole(tape, n, shards, how) for shards in (planned, worst_case)]
            more += [after - before for before, after in zip(*whole, strict=True)]
    return max(more)


def worst(ranks: list[RankMemory]) -> RankMemory:
    """The rank with the highest peak, the first of equals."""
    return max(ranks, key=lambda r: (r.peak, -r.rank))


def pipeline_buffers(plan: Plan, rank: int, size: int) -> tuple[int, int]:
    """Messages between stages that stand beside what chunks keep, while a forward and while a backward runs
    [bytes]; `size` is one message's.

    Where a rank holds one chunk (1F1B), the last gradient sent to the stage before is held until the next
    takes its name, and the last one received from the stage after too; in a backward that one is the gradient
    it starts from (Megatron-LM core/pipeline_parallel/schedules.py). Where a rank holds more chunks, messages
    overlap with compute: one being sent and one being received in each direction.
    """
    pp = plan.parallel.pp
    if pp == 1:
        return 0, 0
    overlapped = get_schedule(plan.schedule.kind).chunks_per_rank(plan.parallel.vpp) > 1
    if overlapped:
        return 4 * size, 4 * size
    return ((rank > 0) + (rank < pp - 1)) * size, (rank > 0) * size


def cached_bytes(tape: Tape, plan: Plan, held: tuple[Chunk, ...], shards: Shards) -> int:
    """What fused kernels keep for the whole run beside weights [bytes].

    Placeholder gradients: where the weight-gradient GEMM adds into the main gradient itself, autograd still
    gets a tensor, and one of each distinct weight shape is cached (TransformerEngine pytorch/module/base.py,
    get_dummy_wgrad; Megatron-LM core/tensor_parallel/layers.py for the head). And the gathered input of a
    sequence-parallel head (core/utils.py, GlobalMemoryBuffer).
    """
    if plan.activations.kernels != "fused" or not plan.memory.placeholder_grads:
        return 0
    placeholders = ITEM_BYTES[DTYPES[plan.precision.params]] * _placeholder_elements(tape, held, shards)
    return placeholders + sum(gathered_head_input(tape.segments[n], shards) for chunk in held for n, _ in chunk)


@lru_cache(maxsize=1024)
def _placeholder_elements(tape: Tape, held: tuple[Chunk, ...], shards: Shards) -> int:
    """Elements of one tensor of each distinct local shape among the weights that linears multiply with.

    Linears of one site with one input are one fused weight: gate and up; query, key and value.
    """
    own = {id(w) for w, _ in held_weights(tape, held, "")}
    shapes: dict[tuple[Storage, str], tuple[int, int]] = {}
    for op in tape.ops("backbone"):
        if op.weight_gradient == "accumulated" and id(op.weights[0]) in own:
            w = op.weights[0]
            out, into = local_features(w.out, shards), local_features(w.into, shards)
            key = (op.inputs[0], op.site)
            shapes[key] = (shapes.get(key, (0, into))[0] + out, into)
    return sum(out * into for out, into in set(shapes.values()))
