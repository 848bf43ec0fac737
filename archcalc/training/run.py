"""A plan compiled for one model: what the folds of training memory read. Nothing behind this opens the plan again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache, partial
from typing import Self

from archcalc.calc.activations import Savers
from archcalc.calc.sharding import Shards
from archcalc.files.storage import Storage
from archcalc.hardware import load_hardware
from archcalc.tape import Tape
from archcalc.training.activations import Spread
from archcalc.training.legal import facts_of, illegal
from archcalc.training.mesh import mesh_of
from archcalc.training.misfit import refuse
from archcalc.training.optimizer import Optimizer, optimizer
from archcalc.training.parts import Train, trained_tape
from archcalc.training.phases import TowerLoad
from archcalc.training.placement import Chunk, chunks, divided
from archcalc.training.plan import Plan
from archcalc.training.rank import Rank, Resting, owners_of, ranks_of, sharding
from archcalc.training.routing import Routing, real_routing
from archcalc.training.savers import Lever, without
from archcalc.training.schedule import Pipeline, Schedule, get_schedule
from archcalc.training.stack import settled
from archcalc.training.static import Owners
from archcalc.training.weight_grads import WeightGrads


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A plan on a model: mesh, savers, order and placement.

    Attributes:
        tape: of one micro-batch, with gradients where the plan trains something.
        train: how each part is trained.
        tokens: of one micro-batch on one device, before sequence parallelism.
        shards: the mesh of one stage, with the routing imbalance.
        routing: typical, which is counted, and worst.
        levers: from no savers to the plan's, one at a time; the last is in use.
        in_flight: layers whose copies to and from the host are in hand beside the one that runs.
        schedule, pipeline: the order of forwards and backwards, and what it is laid out for.
        ranks: the pipeline's, in order.
        tower: what a decoupled vision tower has to do, where a sequence has pictures.
        devices: of one stage in one model replica.
        item_bytes: of a parameter and of its gradient [bytes].
        optimizer: its states.
        owners: who shares weights, gradients and states.
        weight_grads: how weights' gradients reach the accumulation buffer.
        mask: the data loader's attention mask of one micro-batch [bytes].
        fixed: what no formula gives [bytes].
        efficiency: share of the memory that the allocator can use.
        utilization: share of the peak FLOP/s that computes.
    """

    tape: Tape
    train: Train
    tokens: int
    shards: Shards
    routing: Routing
    levers: tuple[Lever, ...]
    in_flight: int
    schedule: Schedule
    pipeline: Pipeline
    ranks: tuple[Rank, ...]
    tower: TowerLoad | None
    devices: int
    item_bytes: tuple[int, int]
    optimizer: Optimizer
    owners: Owners
    weight_grads: WeightGrads
    mask: int
    fixed: int
    efficiency: Fraction
    utilization: float

    @property
    def savers(self) -> Savers:
        """How activations are kept."""
        return self.levers[-1].savers

    @property
    def offload(self) -> frozenset[str] | None:
        """Sites whose storages wait in host memory; None for all."""
        return self.levers[-1].offload

    @property
    def entering(self) -> int:
        """Micro-batches that pass a device of the first stage in a step."""
        return self.pipeline.micro_batches // self.schedule.copies

    def routed(self, imbalance: Fraction) -> Self:
        """The same run under another imbalance of its router."""
        return replace(self, shards=replace(self.shards, imbalance=imbalance))

    def until(self, lever: int) -> Self:
        """The same run without the savers behind a lever."""
        return replace(self, levers=self.levers[: lever + 1])

    def without(self, lever: int) -> Self:
        """The same run without the saver of one lever alone."""
        return replace(self, levers=(*self.levers[:lever], without(self.levers, lever)))

    def fragmented(self, total: int) -> int:
        """Bytes that the allocator needs to serve `total` of them, rounded up."""
        return -(-total * self.efficiency.denominator // self.efficiency.numerator)


def compiled(tape: Tape, plan: Plan, storage: Storage | None = None, tower: TowerLoad | None = None) -> Run:
    """A plan for a model.

    Args:
        tape: of one of its micro-batches.
        storage: how the model's release stores its weights, which a quantized base keeps.
        tower: what a decoupled vision tower has to do, where a sequence has pictures.

    Raises:
        Misfit: the model, or the plan's stack, can't run it.
        InputError: a stack or hardware that can't be read.
    """
    plan, stack = settled(plan)
    train = plan.trained(vision=any(s.part == "vision" for s in tape.segments))
    tape = trained_tape(tape, train, storage)
    refuse(illegal(plan, facts_of(tape), stack))
    shards, schedule = mesh_of(plan, stack), get_schedule(plan.schedule.kind)
    elements = divided(tape, shards)
    layout = stack.layers if stack is not None and plan.parallel.layout == "auto" else plan.parallel.layout
    placed = chunks(tape, schedule, plan.pipeline, layout, decoupled=plan.vision.decoupled)
    rests = Resting(tape, plan, stack, shards, elements, cache(partial(load_hardware, plan.hardware)))
    tokens = plan.batch.micro_batch * plan.batch.seq // plan.parallel.cp
    routing = routing_of(plan, tape, placed, tokens)
    return Run(
        tape=tape,
        train=train,
        tokens=tokens,
        shards=replace(shards, imbalance=routing.typical),
        routing=routing,
        levers=plan.activations.levers(plan.precision.fp8),
        in_flight=plan.activations.offload_in_flight,
        schedule=schedule,
        pipeline=plan.pipeline,
        ranks=ranks_of(rests, schedule, placed),
        tower=tower,
        devices=plan.parallel.replica // plan.parallel.pp,
        item_bytes=plan.precision.item_bytes,
        optimizer=optimizer(plan.precision.optimizer),
        owners=owners_of(plan),
        weight_grads=weight_grads_of(plan),
        mask=mask_of(plan),
        fixed=plan.memory.fixed_bytes,
        efficiency=plan.memory.efficiency,
        utilization=plan.memory.compute_utilization,
    )


def weight_grads_of(plan: Plan) -> WeightGrads:
    """How a plan's weights' gradients reach the accumulation buffer."""
    item, _ = plan.precision.item_bytes
    how = sharding(plan)
    if how is not None:
        return WeightGrads(how.items[1], "staying")
    if not plan.memory.gradient_accumulation_fusion:
        return WeightGrads(item, "made")
    blank = plan.activations.kernels == "fused" and not plan.memory.placeholder_grads
    return WeightGrads(item, "blank" if blank else "fused")


def routing_of(plan: Plan, tape: Tape, placed: Sequence[tuple[Chunk, ...]], tokens: int) -> Routing:
    """The busiest device over the mean that a plan counts with: 1 where one device has all experts."""
    said = plan.activations.moe_imbalance
    if said == "real":
        mixed = {n for n, s in enumerate(tape.segments) if any(op.exchange == "send" for op in s.ops)}
        layers = [sum(count for chunk in held for n, count in chunk if n in mixed) for held in placed]
        return real_routing(tape, plan.parallel.ep, tokens, min((n for n in layers if n), default=1))
    typical, worst = (said.typical, said.worst) if isinstance(said, Spread) else (said, said)
    if plan.parallel.ep == 1 or not any(w.stack for w in tape.weights()):
        return Routing(Fraction(1), Fraction(1))
    return Routing(Fraction(str(typical)), Fraction(str(worst)))


def mask_of(plan: Plan) -> int:
    """The data loader's attention mask of one micro-batch on one device [bytes]: a byte for each pair, its queries
    divided over context-parallel devices (Megatron-LM core/utils.py, get_batch_on_this_cp_rank)."""
    made = plan.activations.attention_mask == "loader"
    return plan.batch.micro_batch * plan.batch.seq * plan.batch.seq // plan.parallel.cp if made else 0
