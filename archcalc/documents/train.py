"""The `train` report: every pipeline rank at its worst moment, the ledger of savers, imbalance and
offload."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from archcalc.documents.document import Report, Table
from archcalc.documents.kept import held, of_plan
from archcalc.documents.parts import parts_assumed, parts_table
from archcalc.documents.train_explain import checked_term, explained
from archcalc.documents.train_notes import answer_of, assumed, notes_of, set_notes, title_of, unlisted
from archcalc.documents.train_tables import (
    COLUMNS,
    IMBALANCE_COLUMNS,
    IMBALANCE_NOTE,
    LEDGER_COLUMNS,
    LEDGER_NOTE,
    OFFLOAD_COLUMNS,
    TERM_COLUMNS,
    TOTALS,
    rank_row,
    terms,
)
from archcalc.documents.train_vision import phases, tower_of, vision_assumed, vision_conventions
from archcalc.errors import InputError
from archcalc.files.model import Spec
from archcalc.hardware import Hardware, load_hardware
from archcalc.tape import Tape
from archcalc.training.checkpoint import checkpoint_bytes, checkpoints
from archcalc.training.images import sight
from archcalc.training.ledger import imbalances, ledger
from archcalc.training.load import load_plan, placed
from archcalc.training.memory import RankMemory, training_memory, worst
from archcalc.training.misfit import Misfit
from archcalc.training.offload import offload_need
from archcalc.training.packed import whole_bytes
from archcalc.training.plan import Plan
from archcalc.training.run import Run, compiled
from archcalc.training.stack import settled, stack_lines

FSDP = (
    "under fsdp weights are gathered group by group: the transient part has those of the running group and its"
    " neighbours, and whole gradients until they are reduced.",
    "an allocator efficiency of 1 makes the peak allocated memory (torch.cuda.max_memory_allocated); reserved memory,"
    " which torchtitan prints, is more, and the two are not to be compared.",
)
"""What a report under FSDP2 says of its own."""


def training_tape(spec: Spec, plan: Plan) -> Tape:
    """The tape of one micro-batch of a plan. Raises InputError for pictures that don't fit the model."""
    return spec.trace(sight(spec.vision, plan).workload)


def run_of(spec: Spec, plan: Plan) -> Run:
    """A plan compiled for a model. Raises InputError where they don't fit each other."""
    return compiled(training_tape(spec, plan), plan, spec.storage, tower_of(spec, plan))


def train(
    spec: Spec, *, plan: str, set: Sequence[str] = (), rank: int | None = None, explain: str | None = None
) -> Report:
    """The `train` command: `plan` is a file or a bundled name, `set` overrides its fields. Raises InputError."""
    overrides = tuple(set)
    read = load_plan(plan, overrides)
    try:
        report = train_report(spec, read, rank=rank, overrides=overrides, explain=explain)
    except Misfit as error:
        raise placed(error, plan, overrides) from None
    return replace(report, spec=spec, extra={**report.extra, **held(of_plan(read.name, plan, read))})


def train_report(
    spec: Spec,
    plan: Plan,
    *,
    rank: int | None = None,
    overrides: tuple[str, ...] = (),
    explain: str | None = None,
) -> Report:
    """Training memory of a plan. `rank` picks the rank whose terms are listed; the worst by default. `explain` unfolds
    one of them instead.

    Raises:
        InputError: model and plan don't fit each other, or no such rank or term.
    """
    term = None if explain is None else checked_term(explain)
    run = run_of(spec, plan)
    ranks = training_memory(run)
    top = worst(ranks)
    filled, stack = settled(plan)
    shown = top if rank is None else ranks[_checked(rank, len(ranks))]
    hardware = load_hardware(plan.hardware)
    inputs = {"spec": spec.name, "plan": plan.name, "set": list(overrides), "rank": rank}
    rows = [{**rank_row(r), "checkpoint_bytes": written} for r, written in zip(ranks, checkpoints(run), strict=True)]
    found = train_quantities(run, ranks) | {"train.fits": fits(ranks, hardware)}
    title, answer = title_of(spec, plan, top, hardware), answer_of(plan, top, hardware)
    if term is not None:
        unfolded = explained(title, run, shown, term, found, inputs)
        return replace(unfolded, answer=answer, extra={"layout": laid_out(plan, run)})
    packed = any(w.packed is not None for w in run.tape.weights())
    at = f"rank {shown.rank} at its worst moment: {shown.moment}"
    tables = [
        Table("terms", at, TERM_COLUMNS, terms(shown, packed=packed)),
        Table(
            "ledger",
            "the ledger: from no savers to the plan, one lever at a time",
            LEDGER_COLUMNS,
            ledger(run),
            note=LEDGER_NOTE,
        ),
    ]
    tables += phases(run, plan, ranks[rank or 0])
    tables += parts_table(run)
    if any(w.stack for w in run.tape.weights()):
        uneven = "if the router is uneven"
        tables.append(Table("imbalance", uneven, IMBALANCE_COLUMNS, imbalances(run), note=IMBALANCE_NOTE))
    busiest = max(ranks, key=lambda r: (r.offloaded + r.static.host, -r.rank))
    need = offload_need(run, busiest, hardware)
    if need:
        asks = f"what offload asks of the host, rank {busiest.rank} (which offloads most)"
        tables.append(Table("offload", asks, OFFLOAD_COLUMNS, need))
    return Report(
        command="train",
        title=title,
        answer=answer,
        inputs=inputs,
        quantities=found,
        rows=Table("rows", "every pipeline rank at its worst moment", COLUMNS, rows),
        tables=tables,
        assumptions=[
            *spec.assumed_sizes,
            *assumed(plan),
            *stack_lines(plan, stack, hardware),
            *(f"activations.moe_imbalance = real: {line}" for line in run.routing.sources),
            *unlisted(filled),
            *vision_assumed(spec, plan),
            *run.tape.assumed,
            *parts_assumed(run),
            *(f"{hardware.name}: {line}" for line in hardware.defaults if line.startswith("memory_") or need),
        ],
        conventions=(
            "peak = (weights + gradients + optimizer + buffers + activations alive + transient + fixed"
            f"{' - gradients not made yet' if any(r.unmade for r in ranks) else ''}) / allocator efficiency.",
            "unique counts each weight once; resident sums over the GPUs of one model replica, replicas of non-expert"
            " weights in.",
            "iteration 1: the highest peak of the first iteration, before whose step the optimizer has no moments;"
            " many logs print exactly that.",
            "transient: gradients, recomputed tensors and routed copies of the running layer, logits, messages between"
            " stages.",
            *(FSDP if plan.fsdp is not None else ()),
            "fixed: the plan's memory.fixed, what fused kernels cache for the whole run, and its stack's workspaces.",
            *vision_conventions(plan),
        ),
        notes=[*set_notes(overrides), *notes_of(spec, plan, run, ranks)],
        spec=spec,
        extra={"layout": laid_out(plan, run)},
    )


def laid_out(plan: Plan, run: Run) -> dict[str, Any]:
    """How a compiled plan lays the model out; `stages`: the backbone's layers of each chunk, rank by rank."""
    p, body = plan.parallel, {n for n, s in enumerate(run.tape.segments) if s.part == "backbone" and s.indices}
    sizes = {name: getattr(p, name) for name in ("world", "pp", "vpp", "tp", "sp", "cp", "ep", "etp", "zero")}
    return {
        "gpu": plan.hardware,
        **sizes,
        "dp": p.dense_dp,
        "expert_dp": p.expert_dp,
        "schedule": plan.schedule.kind,
        "micro_batches": plan.micro_batches,
        "stages": [[sum(count for n, count in chunk if n in body) for chunk in rank.chunks] for rank in run.ranks],
    }


def plan_quantities(spec: Spec, *, plan: str, set: Sequence[str] = ()) -> dict[str, int | float | bool]:
    """All `train.*` quantities under a plan, a file or a bundled name, with its fields overridden. Raises
    InputError."""
    overrides = tuple(set)
    read = load_plan(plan, overrides)
    try:
        run = run_of(spec, read)
        ranks = training_memory(run)
        return train_quantities(run, ranks) | {"train.fits": fits(ranks, load_hardware(read.hardware))}
    except Misfit as error:
        raise placed(error, plan, overrides) from None


def fits(ranks: Sequence[RankMemory], hardware: Hardware) -> bool:
    """Whether the peak of the worst rank is within the memory that a program sees."""
    return worst(ranks).peak <= hardware.memory_visible_bytes


def train_quantities(run: Run, ranks: list[RankMemory]) -> dict[str, int | float | bool]:
    """All `train.*` quantities but `train.fits`."""
    top = worst(ranks)
    row = rank_row(top)
    param, grad = run.item_bytes
    weights = [w for w in run.tape.weights() if w.learnable]
    unique = sum(whole_bytes(w, param) + w.elements * grad * w.trained for w in weights)
    resident = run.devices * sum(r.static.params + r.static.grads for r in ranks)
    found: dict[str, int | float | bool] = {f"train.{key}": row[key] for key in TOTALS}
    return found | {
        "train.peak_first_bytes": max(r.peak_first for r in ranks),
        "train.worst_rank": top.rank,
        "train.params_grads_bytes_unique": unique,
        "train.params_grads_bytes_resident": resident,
        "train.checkpoint_bytes": checkpoint_bytes(run.tape.weights(), param, run.optimizer),
    }


def _checked(rank: int, ranks: int) -> int:
    if not 0 <= rank < ranks:
        raise InputError(f"there is no pipeline rank {rank}", value=rank, hint=f"ranks are 0 to {ranks - 1}")
    return rank
