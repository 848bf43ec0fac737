"""A plan compiled for one model: what the folds of training memory read. Nothing behind this opens the plan again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Self

from archcalc.calc.activations import Savers
from archcalc.calc.sharding import Shards
from archcalc.tape import Tape
from archcalc.training.placement import check_model, chunks
from archcalc.training.plan import Plan
from archcalc.training.rank import Rank, ranks_of, sharding
from archcalc.training.savers import Lever
from archcalc.training.schedule import Pipeline, Schedule, get_schedule

VOCAB_DIVISIBLE_BY = 128
"""Megatron-LM pads the vocabulary to a multiple of this times tp (--make-vocab-size-divisible-by, training/tokenizer);
here only where tp does not divide it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A plan on a model: mesh, savers, order and placement.

    Attributes:
        tape: of one micro-batch.
        tokens: of one micro-batch on one device, before sequence parallelism.
        shards: the mesh of one stage, with the routing imbalance.
        levers: from no savers to the plan's, one at a time; the last is in use.
        schedule, pipeline: the order of forwards and backwards, and what it is laid out for.
        ranks: the pipeline's, in order.
        devices: of one stage in one model replica.
        item_bytes: of a parameter and of its gradient [bytes].
        fixed: what no formula gives [bytes].
        efficiency: share of the memory that the allocator can use.
        utilization: share of the peak FLOP/s that computes.
        weight_item: of a weight's gradient that stays to the end of its segment's backward; 0: they are added up
            elsewhere [bytes].
    """

    tape: Tape
    tokens: int
    shards: Shards
    levers: tuple[Lever, ...]
    schedule: Schedule
    pipeline: Pipeline
    ranks: tuple[Rank, ...]
    devices: int
    item_bytes: tuple[int, int]
    fixed: int
    efficiency: Fraction
    utilization: float
    weight_item: int = 0

    @property
    def savers(self) -> Savers:
        """How activations are kept."""
        return self.levers[-1].savers

    @property
    def offload(self) -> frozenset[str] | None:
        """Sites whose storages wait in host memory; None for all."""
        return self.levers[-1].offload

    def routed(self, imbalance: Fraction) -> Self:
        """The same run under another imbalance of its router."""
        return replace(self, shards=replace(self.shards, imbalance=imbalance))

    def until(self, lever: int) -> Self:
        """The same run without the savers behind a lever."""
        return replace(self, levers=self.levers[: lever + 1])

    def fragmented(self, total: int) -> int:
        """Bytes that the allocator needs to serve `total` of them, rounded up."""
        return -(-total * self.efficiency.denominator // self.efficiency.numerator)


def compiled(tape: Tape, plan: Plan) -> Run:
    """A plan for a model.

    Args:
        tape: of one of its micro-batches.

    Raises:
        InputError: where model and plan don't fit each other.
    """
    shards, schedule, how = mesh_of(plan), get_schedule(plan.schedule.kind), sharding(plan)
    check_model(tape, shards)
    placed = chunks(tape, schedule, plan.pipeline, plan.parallel.layout, decoupled=plan.vision.decoupled)
    return Run(
        tape=tape,
        tokens=plan.batch.micro_batch * plan.batch.seq // plan.parallel.cp,
        shards=shards,
        levers=plan.activations.levers(),
        schedule=schedule,
        pipeline=plan.pipeline,
        ranks=ranks_of(tape, plan, schedule, placed, shards),
        devices=plan.parallel.replica // plan.parallel.pp,
        item_bytes=plan.precision.item_bytes,
        fixed=plan.memory.fixed_bytes,
        efficiency=plan.memory.efficiency,
        utilization=plan.memory.compute_utilization,
        weight_item=0 if how is None else how.items[1],
    )


def mesh_of(plan: Plan) -> Shards:
    """The mesh of one stage as the calculators know it."""
    p = plan.parallel
    return Shards(
        tp=p.tp,
        sp=p.sp,
        cp=p.cp,
        ep=p.ep,
        etp=p.etp,
        vocab_multiple=VOCAB_DIVISIBLE_BY * p.tp,
        imbalance=Fraction(str(plan.activations.moe_imbalance)),
        ulysses=p.cp_comm == "a2a",
    )
