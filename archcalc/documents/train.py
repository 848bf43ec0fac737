"""The `train` report: every pipeline rank at its worst moment, the ledger of savers, imbalance and
offload."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from archcalc.calc.sharding import paddings
from archcalc.documents.conventions import MEGATRON_PADS, padding_notes
from archcalc.documents.document import Column, Report, Table
from archcalc.documents.flops import SOME, context_notes
from archcalc.documents.paths import ranges
from archcalc.files.model import Spec
from archcalc.hardware import load_hardware
from archcalc.tape import Tape
from archcalc.training.ledger import imbalances, ledger
from archcalc.training.load import load_plan
from archcalc.training.memory import RankMemory, training_memory, worst
from archcalc.training.offload import offload_need
from archcalc.training.plan import Plan
from archcalc.training.run import Run, compiled
from archcalc.units import format_bytes
from archcalc.workload import Workload

COLUMNS = (
    Column("rank", "rank", "int"),
    Column("params_bytes", "weights", "bytes"),
    Column("grads_bytes", "gradients", "bytes"),
    Column("optimizer_bytes", "optimizer", "bytes"),
    Column("activation_bytes", "activations", "bytes", keep=True),
    Column("transient_bytes", "transient", "bytes"),
    Column("fixed_bytes", "fixed", "bytes"),
    Column("offloaded_bytes", "on the host", "bytes"),
    Column("peak_bytes", "peak", "bytes", keep=True),
    Column("live_chunks", "chunks alive", "int"),
)
TERM_COLUMNS = (Column("term", "term"), Column("bytes", "bytes", "bytes"), Column("what", "what it is"))
LEDGER_COLUMNS = (
    Column("lever", "lever"),
    Column("peak_bytes", "peak of the worst rank", "bytes", keep=True),
    Column("saved_bytes", "saves", "bytes", keep=True),
    Column("activation_bytes", "activations", "bytes"),
    Column("worst_rank", "rank", "int"),
    Column("cost", "costs", keep=True),
)
IMBALANCE_COLUMNS = (
    Column("case", "routing"),
    Column("imbalance", "busiest / mean", "number"),
    Column("activation_bytes", "activations", "bytes"),
    Column("peak_bytes", "peak of the worst rank", "bytes"),
    Column("worst_rank", "rank", "int"),
)
OFFLOAD_COLUMNS = (Column("term", "offload"), Column("value", "value", "number"), Column("unit", "unit"))


FSDP = (
    "under fsdp weights are gathered group by group: the transient part has those of the running group and its"
    " neighbours, and whole gradients until they are reduced.",
    "an allocator efficiency of 1 makes the peak allocated memory (torch.cuda.max_memory_allocated); reserved memory,"
    " which torchtitan prints, is more, and the two are not to be compared.",
)
"""What a report under FSDP2 says of its own."""


def training_tape(spec: Spec, plan: Plan) -> Tape:
    """The tape of one micro-batch of a plan."""
    return spec.trace(Workload(phase="train", batch=plan.batch.micro_batch, seq=plan.batch.seq))


def run_of(spec: Spec, plan: Plan) -> Run:
    """A plan compiled for a model. Raises InputError where they don't fit each other."""
    return compiled(training_tape(spec, plan), plan)


def run_padding(run: Run) -> list[str]:
    """What the plan pads so that it divides, said once."""
    return padding_notes(paddings(run.tape.weights(), run.shards), MEGATRON_PADS)


def _uncounted(run: Run) -> list[str]:
    """What no fold counts yet: exchanges of some mixers, and gradients of scores that attention writes out."""
    notes = []
    mixers = {op.counts_as for op in run.tape.ops("backbone")} & SOME.keys()
    if run.shards.cp > 1 and mixers:
        notes.append(f"warning: what {' and '.join(sorted(mixers))} operations exchange among cp devices is not in.")
    if "unfused" in run.savers.variants:
        notes.append("warning: the gradients of the scores of unfused attention are not in the transient memory.")
    return notes


def train(spec: Spec, *, plan: str, set: Sequence[str] = (), rank: int | None = None) -> Report:
    """The `train` command: `plan` is a file or a bundled name, `set` overrides its fields. Raises InputError."""
    return train_report(spec, load_plan(plan, tuple(set)), rank=rank, overrides=tuple(set))


def train_report(spec: Spec, plan: Plan, *, rank: int | None = None, overrides: tuple[str, ...] = ()) -> Report:
    """Training memory of a plan. `rank` picks the rank whose terms are listed; the worst by default.

    Raises:
        InputError: model and plan don't fit each other.
    """
    run = run_of(spec, plan)
    ranks = training_memory(run)
    top = worst(ranks)
    shown = top if rank is None else ranks[_checked(rank, len(ranks))]
    hardware = load_hardware(plan.hardware)
    tables = [
        Table("terms", f"rank {shown.rank} at its worst moment: {shown.moment}", TERM_COLUMNS, terms(shown)),
        Table(
            "ledger",
            "the ledger: from no savers to the plan, one lever at a time",
            LEDGER_COLUMNS,
            ledger(run),
        ),
    ]
    if any(w.stack for w in run.tape.weights()):
        tables.append(Table("imbalance", "if the router is uneven", IMBALANCE_COLUMNS, imbalances(run)))
    busiest = max(ranks, key=lambda r: (r.offloaded, -r.rank))
    need = offload_need(run, busiest, hardware)
    if need:
        title = f"what offload asks of the host, rank {busiest.rank} (which offloads most)"
        tables.append(Table("offload", title, OFFLOAD_COLUMNS, need))
    return Report(
        command="train",
        title=f"{spec.title}: training memory under {plan.name}, {plan.parallel.world} x {hardware.title}",
        inputs={"spec": spec.name, "plan": plan.name, "set": list(overrides), "rank": rank},
        quantities=train_quantities(run, ranks) | {"train.fits": top.peak <= hardware.memory_visible_bytes},
        rows=Table("rows", "every pipeline rank at its worst moment", COLUMNS, [rank_row(r) for r in ranks]),
        tables=tables,
        assumptions=[
            *_assumed(plan),
            *_unlisted(plan),
            *run.tape.assumed,
            *(f"{hardware.name}: {line}" for line in hardware.defaults if line.startswith("memory_") or need),
        ],
        conventions=(
            "peak = (weights + gradients + optimizer + buffers + activations alive + transient + fixed)"
            " / allocator efficiency.",
            "unique counts each weight once; resident sums over the GPUs of one model replica, replicas of non-expert"
            " weights in.",
            "transient: gradients, recomputed tensors and routed copies of the running layer, logits, messages between"
            " stages.",
            *(FSDP if plan.fsdp is not None else ()),
            "fixed: the plan's memory.fixed and what fused kernels cache for the whole run.",
        ),
        notes=_notes(spec, plan, run, ranks, hardware.memory_visible_bytes),
    )


def train_quantities(run: Run, ranks: list[RankMemory]) -> dict[str, int | float | bool]:
    """All `train.*` quantities but `train.fits`."""
    top = worst(ranks)
    row = rank_row(top)
    unique = sum(w.elements for w in run.tape.weights() if w.trained) * sum(run.item_bytes)
    resident = run.devices * sum(r.static.params + r.static.grads for r in ranks)
    found: dict[str, int | float | bool] = {f"train.{key}": row[key] for key in _TOTALS}
    return found | {
        "train.worst_rank": top.rank,
        "train.params_grads_bytes_unique": unique,
        "train.params_grads_bytes_resident": resident,
    }


_TOTALS = (
    "params_bytes",
    "grads_bytes",
    "optimizer_bytes",
    "buffers_bytes",
    "activation_bytes",
    "transient_bytes",
    "fixed_bytes",
    "offloaded_bytes",
    "live_chunks",
    "peak_bytes",
)


def rank_row(r: RankMemory) -> dict[str, Any]:
    """One rank as a row of raw bytes."""
    return {
        "path": f"rank {r.rank}",
        "rank": r.rank,
        "params_bytes": r.static.params,
        "grads_bytes": r.static.grads,
        "optimizer_bytes": r.static.optimizer,
        "buffers_bytes": r.static.buffers,
        "activation_bytes": r.activation,
        "transient_bytes": r.transient,
        "fixed_bytes": r.fixed + r.cached,
        "offloaded_bytes": r.offloaded,
        "peak_bytes": r.peak,
        "live_chunks": r.live_chunks,
        "moment": r.moment,
    } | ({"unmade_bytes": r.unmade} if r.unmade else {})


def terms(r: RankMemory) -> list[dict[str, Any]]:
    """The terms of a rank's peak; they add up to it."""
    rows = [
        ("weights", r.static.params, "in the plan's parameter dtype"),
        ("gradients", r.static.grads, "accumulation buffer"),
        ("optimizer", r.static.optimizer, "master weights and moments, this rank's shard"),
        ("buffers", r.static.buffers, "router correction biases"),
        ("activations", r.activation, "saved for backward, on the device at that moment"),
        ("transient", r.transient, "lives only at that moment: gradients, recomputed tensors, routed copies, messages"),
        ("fixed", r.fixed, "context, communicators, workspaces: the plan's memory.fixed"),
        (
            "cached by kernels",
            r.cached,
            "a placeholder gradient of each weight shape; the head's gathered input under SP",
        ),
        *([("not made yet", -r.unmade, "gradients that the step's one backward has still to make")] * (r.unmade > 0)),
        ("fragmentation", r.peak - r.total, "what the allocator can't use: memory.allocator_efficiency"),
    ]
    return [{"path": name, "term": name, "bytes": n, "what": what} for name, n, what in rows]


def _checked(rank: int, ranks: int) -> int:
    from archcalc.errors import InputError

    if not 0 <= rank < ranks:
        raise InputError(f"there is no pipeline rank {rank}", value=rank, hint=f"ranks are 0 to {ranks - 1}")
    return rank


def _assumed(plan: Plan) -> list[str]:
    """Fields that the plan itself says no source gives, with their values."""
    lines = []
    for path in plan.assumed:
        value: Any = plan
        for key in path.split("."):
            value = getattr(value, key, None)
        lines.append(f"{path} = {value}")
    return lines


def _unlisted(plan: Plan) -> list[str]:
    """Fields that the plan leaves to their defaults."""
    left = []
    for section in ("schedule", "activations", "memory", "fsdp"):
        block = getattr(plan, section)
        for key in () if block is None else type(block).model_fields:
            path = f"{section}.{key}"
            if key not in block.model_fields_set and path not in plan.assumed and key not in ("group", "selective"):
                value = plan.activations.loss if key == "cross_entropy" else getattr(block, key)
                left.append(f"{path} = {value} (default)")
    return left


def _notes(spec: Spec, plan: Plan, run: Run, ranks: list[RankMemory], room: int) -> list[str]:
    top = worst(ranks)
    equals = ranges([r.rank for r in ranks if r.peak == top.peak])
    spare = room - top.peak
    verdict = "fits" if spare >= 0 else "does not fit"
    notes = context_notes(spec, plan.batch.seq)
    notes += [*run_padding(run), *_uncounted(run)]
    notes.append(
        f"The worst rank is {top.rank}: {format_bytes(top.peak)} of {format_bytes(room)}; it {verdict}"
        f" ({format_bytes(abs(spare))} {'to spare' if spare >= 0 else 'too much'})."
        + (f" Ranks {equals} hold as much." if equals != str(top.rank) else "")
    )
    if plan.parallel.zero == 2 and plan.parallel.pp > 1:
        notes.append(
            "warning: ZeRO-2 with pipeline stages needs a reduce-scatter a micro-batch; Megatron-LM does not do it."
        )
    if spec.vision is not None and plan.vision.process == "decoupled":
        notes.append(
            "The vision tower and projector stand on every rank and run in a phase of their own; its activations are"
            " not in."
        )
    return notes
