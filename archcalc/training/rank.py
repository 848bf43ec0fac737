"""What a pipeline rank has whatever is alive on it: its chunks, static bytes, caches of kernels, messages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from archcalc.calc.sharding import Shards, local_bytes
from archcalc.tape import Tape
from archcalc.tape.values import ITEM_BYTES
from archcalc.training.chunk import Working
from archcalc.training.fsdp import Sharding, runs, workings
from archcalc.training.placement import Chunk, held_weights
from archcalc.training.plan import DTYPES, Plan
from archcalc.training.schedule import Pipeline, Schedule, get_schedule
from archcalc.training.static import Owners, Static, placeholders, static, static_sharded
from archcalc.training.transient import gathered_head_input


@dataclass(frozen=True, slots=True, kw_only=True)
class Rank:
    """One pipeline rank.

    Attributes:
        chunks: what it runs, by virtual stage.
        static: weights, gradients and optimizer states.
        cached: what fused kernels keep for the whole run: placeholder gradients, and the gathered input of a
            sequence-parallel head (Megatron-LM core/utils.py, GlobalMemoryBuffer) [bytes].
        messages: between stages, beside a forward and beside a backward [bytes].
        workings: for each chunk, what the copies of its segments gather while they run; none where they don't.
    """

    chunks: tuple[Chunk, ...]
    static: Static
    cached: int
    messages: tuple[int, int]
    workings: tuple[tuple[Working, ...], ...] = ()

    def pieces(self) -> Iterator[tuple[Chunk, tuple[Working, ...]]]:
        """The chunks, each in runs of copies that take alike, and what each run gathers."""
        if not self.workings:
            yield from ((chunk, ()) for chunk in self.chunks)
        for chunk, own in zip(self.chunks, self.workings, strict=False):
            alike = tuple(runs(chunk, own))
            yield tuple((n, count) for n, count, _ in alike), tuple(working for *_, working in alike)


def ranks_of(
    tape: Tape, plan: Plan, schedule: Schedule, placed: Sequence[tuple[Chunk, ...]], shards: Shards
) -> tuple[Rank, ...]:
    """The ranks of a placement, in order; what several hold alike is worked out once."""
    message = local_bytes(next(s.entry for s in tape.segments if s.part == "backbone" and s.entry is not None), shards)
    known = {held: _resting(tape, plan, held, shards) for held in dict.fromkeys(placed)}
    how = sharding(plan)
    return tuple(
        Rank(
            chunks=held,
            static=known[held][0],
            cached=known[held][1],
            messages=messages(schedule, plan.pipeline, rank, message),
            workings=() if how is None else workings(tape, held, shards, how),
        )
        for rank, held in enumerate(placed)
    )


def _resting(tape: Tape, plan: Plan, held: tuple[Chunk, ...], shards: Shards) -> tuple[Static, int]:
    """Static bytes of these chunks, and what kernels cache for them [bytes]."""
    p, items = plan.parallel, plan.precision.item_bytes
    weights = held_weights(tape, held, decoupled=plan.vision.decoupled)
    how = sharding(plan)
    if how is not None:
        return static_sharded(tape, held, weights, shards, how, plan.precision.optimizer), 0
    owners = Owners(zero=p.zero, dense=p.dense_dp * p.cp, expert=p.expert_dp)
    fixed = static(weights, shards, owners, items, plan.precision.optimizer)
    if plan.activations.kernels != "fused" or not plan.memory.placeholder_grads:
        return fixed, 0
    gathered = sum(gathered_head_input(tape.segments[n], shards) for chunk in held for n, _ in chunk)
    return fixed, items[0] * placeholders(tape, weights, shards) + gathered


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
