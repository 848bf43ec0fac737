"""What a pipeline rank has whatever is alive on it: its chunks, static bytes, caches of kernels, messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from archcalc.calc.sharding import Shards, local_bytes
from archcalc.hardware import Hardware
from archcalc.tape import Tape
from archcalc.tape.values import ITEM_BYTES
from archcalc.training.chunk import Working
from archcalc.training.fp8 import quantized_weights
from archcalc.training.fsdp import Sharding, runs, workings
from archcalc.training.owners import fused_parameters
from archcalc.training.placement import Chunk, Held, held_weights
from archcalc.training.plan import Plan
from archcalc.training.precision import DTYPES
from archcalc.training.schedule import Pipeline, Schedule, get_schedule
from archcalc.training.stack import Stack
from archcalc.training.static import Owners, Static, placeholders, static, static_sharded
from archcalc.training.transient import gathered_head_input


@dataclass(frozen=True, slots=True, kw_only=True)
class Rank:
    """One pipeline rank.

    Attributes:
        chunks: what it runs, by virtual stage.
        weights: that it holds, and how many layers' worth of each.
        entry: the chunk that is the first stage, or None.
        static: weights, gradients and optimizer states.
        cached: what fused kernels keep for the whole run: placeholder gradients, copies of weights in FP8, and the
            gathered input of a sequence-parallel head (Megatron-LM core/tensor_parallel/layers.py,
            LinearWithGradAccumulationAndAsyncCommunication, takes it from core/utils.py, GlobalMemoryBuffer, in
            forward and backward, whatever gradients are cached) [bytes].
        workspaces: of libraries, as the plan's stack says [bytes].
        messages: between stages, beside a forward and beside a backward [bytes].
        left: messages that stay between steps [bytes].
        workings: for each chunk, what the copies of its segments gather while they run; none where they don't.
    """

    chunks: tuple[Chunk, ...]
    weights: Held
    entry: int | None
    static: Static
    cached: int
    workspaces: int
    messages: tuple[int, int]
    left: int
    workings: tuple[tuple[Working, ...], ...] = ()

    def pieces(self, chunk: int) -> Iterator[tuple[int, int, Working | None]]:
        """A chunk's segments in runs of copies that take alike: place on the tape, how many, and what each gathers."""
        if not self.workings:
            yield from ((n, count, None) for n, count in self.chunks[chunk])
        else:
            yield from runs(self.chunks[chunk], self.workings[chunk])


class Resting(NamedTuple):
    """What the resting memory of a rank follows from; `elements` of one layer's weight on one device, by identity;
    `device` is asked by a stack and by recipes of FP8 alone."""

    tape: Tape
    plan: Plan
    stack: Stack | None
    shards: Shards
    elements: Mapping[int, int]
    device: Callable[[], Hardware]


def ranks_of(rests: Resting, schedule: Schedule, placed: Sequence[tuple[Chunk, ...]]) -> tuple[Rank, ...]:
    """The ranks of a placement, in order; what several hold alike is worked out once."""
    tape, plan, shards = rests.tape, rests.plan, rests.shards
    message = local_bytes(next(s.entry for s in tape.segments if s.part == "backbone" and s.entry is not None), shards)
    weights = {held: held_weights(tape, held, decoupled=plan.vision.decoupled) for held in dict.fromkeys(placed)}
    known = {held: _resting(rests, held, weights[held]) for held in weights}
    how, pipeline = sharding(plan), plan.pipeline
    return tuple(
        Rank(
            chunks=held,
            weights=weights[held],
            entry=_entry(schedule, pipeline, rank),
            static=known[held][0],
            cached=known[held][1],
            workspaces=known[held][2],
            messages=messages(schedule, pipeline, rank, message),
            left=left(schedule, pipeline, rank, message),
            workings=() if how is None else workings(tape, held, shards, how),
        )
        for rank, held in enumerate(placed)
    )


def _entry(schedule: Schedule, pipeline: Pipeline, rank: int) -> int | None:
    stages = schedule.held(pipeline.pp, pipeline.vpp, rank)
    return stages.index(0) if 0 in stages else None


def _resting(rests: Resting, held: tuple[Chunk, ...], weights: Held) -> tuple[Static, int, int]:
    """Static bytes of these chunks, what kernels cache for them, and their stack's workspaces [bytes]."""
    tape, plan, shards = rests.tape, rests.plan, rests.shards
    items = plan.precision.item_bytes
    how = sharding(plan)
    if how is not None:
        return static_sharded(tape, held, weights, shards, how, plan.precision.optimizer), 0, _workspaces(rests, held)
    owners, host = owners_of(plan), plan.memory.optimizer_share
    whole = fused_parameters(tape) if plan.precision.muon_layout == "whole" else None
    sized = [(w, n, rests.elements[id(w)]) for w, n in weights]
    fixed = static(sized, shards, owners, items, plan.precision.optimizer, whole=whole, offload=host)
    copies = 0
    if plan.precision.fp8 != "none":
        quantized = quantized_weights(tape, weights, shards, plan.precision.fp8, rests.device())
        if plan.precision.fp8_params:
            fixed = replace(fixed, params=fixed.params - items[0] * quantized.elements + quantized.nbytes)
        else:
            copies = quantized.nbytes
    if plan.activations.kernels != "fused":
        return fixed, 0, _workspaces(rests, held)
    gathered = max((gathered_head_input(tape.segments[n], shards) for chunk in held for n, _ in chunk), default=0)
    cached = items[0] * placeholders(tape, weights, shards) if _caches(plan) else 0
    return fixed, cached + gathered + copies, _workspaces(rests, held)


def _workspaces(rests: Resting, held: tuple[Chunk, ...]) -> int:
    """The workspaces of a plan's stack on a rank with these chunks [bytes]. Torch multiplies heads, routers and
    unfused attention itself (TransformerEngine, attention/dot_product_attention/backends.py,
    `UnfusedDotProductAttention`)."""
    tape, plan, stack = rests.tape, rests.plan, rests.stack
    if stack is None:
        return 0
    ops = [op for chunk in held for n, _ in chunk for op in tape.segments[n].ops]
    roles = {w.role for op in ops for w in op.weights}
    plain = plan.activations.kernels == "eager" or plan.activations.core == "unfused"
    runs = {"torch"} if plain or "router" in roles or any(op.site == "head" for op in ops) else set()
    if plan.activations.kernels == "fused":
        runs |= {"fused", "experts"} if "routed_expert" in roles else {"fused"}
    return stack.workspace_bytes(rests.device(), frozenset(runs))


def owners_of(plan: Plan) -> Owners:
    """Who shares weights, gradients and optimizer states."""
    p = plan.parallel
    return Owners(zero=p.zero, dense=p.dense_dp * p.cp, expert=p.expert_dp)


def _caches(plan: Plan) -> bool:
    """Whether placeholder gradients are cached: only where products are added into the buffer itself."""
    return plan.memory.placeholder_grads and plan.memory.gradient_accumulation_fusion


def sharding(plan: Plan) -> Sharding | None:
    """How a plan with FSDP2 shards: torchtitan's policy where it says nothing of resharding (`default`: not under
    pipeline parallelism, and never the last group, which backward wants at once)."""
    if plan.fsdp is None:
        return None
    p, f = plan.parallel, plan.fsdp
    pipelined = get_schedule(plan.schedule.kind).stages(p.pp, p.vpp) > 1
    chosen, at_once = f.reshard_after_forward, not pipelined and plan.micro_batches == 1
    return Sharding(
        dense=p.dense_dp * p.cp // f.replicate,
        expert=p.expert_dp // f.replicate,
        reshard=not pipelined if chosen is None else chosen,
        reshard_last=bool(chosen),
        prefetch=f.prefetch,
        items=(plan.precision.item_bytes[0], ITEM_BYTES[DTYPES[f.param_dtype]], ITEM_BYTES[DTYPES[f.reduce_dtype]]),
        pipelined=pipelined,
        at_once=at_once,
        adds_up=f.replicate > 1 and (not at_once or f.reduce_dtype != plan.precision.params),
    )


def messages(schedule: Schedule, pipeline: Pipeline, rank: int, size: int) -> tuple[int, int]:
    """Messages between stages that stand beside what chunks keep, while a forward and while a backward runs
    [bytes]; `size` is one message's.

    Where a rank holds one chunk (1F1B), the last gradient sent to the stage before is held until the next
    takes its name, and the last one received from the stage after too; in a backward that one is the gradient
    it starts from (Megatron-LM core/pipeline_parallel/schedules.py). Where a rank holds more chunks, messages
    overlap with compute: one being sent and one being received in each direction.
    """
    pp = pipeline.pp
    if pp == 1:
        return 0, 0
    if schedule.chunks_per_rank(pipeline.vpp) > 1:
        return 4 * size, 4 * size
    return ((rank > 0) + (rank < pp - 1)) * size, (rank > 0) * size


def left(schedule: Schedule, pipeline: Pipeline, rank: int, size: int) -> int:
    """Messages that stay between steps [bytes]: the last input of each chunk, and its gradient.

    A chunk holds what it was given until it is given the next (Megatron-LM core/transformer/transformer_block.py,
    set_input_tensor); the gradient is the input's own (core/pipeline_parallel/schedules.py, backward_step,
    retain_grad). The first stage is given nothing.
    """
    chunks = schedule.chunks_per_rank(pipeline.vpp)
    return 2 * size * (chunks - (rank == 0))
