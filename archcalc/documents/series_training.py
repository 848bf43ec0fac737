"""Training memory in pictures: every pipeline rank at its worst moment, and the worst rank against the length."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

from archcalc.documents.document import Column, Report, Table
from archcalc.documents.series import Curve, Figure, Limit, Mark, Panel, Range
from archcalc.documents.series_cases import MOST_PANELS, Model, check_count, limit_notes
from archcalc.documents.train import rank_row, run_of, run_padding
from archcalc.errors import InputError
from archcalc.hardware import load_hardware
from archcalc.training.load import load_plan
from archcalc.training.memory import RankMemory, training_memory, worst
from archcalc.training.plan import Plan
from archcalc.units import format_int

LAYERS = (
    ("weights and buffers", ("params_bytes", "buffers_bytes")),
    ("gradients", ("grads_bytes",)),
    ("optimizer", ("optimizer_bytes",)),
    ("activations", ("activation_bytes",)),
    ("transient", ("transient_bytes",)),
    ("fixed", ("fixed_bytes",)),
    ("lost to fragmentation", ("fragmentation_bytes",)),
)
"""The stack from the bottom up: what a layer is called, and its keys in the rows. They add up to the peak."""

TERMS = (
    Column("params_bytes", "weights", "bytes"),
    Column("buffers_bytes", "buffers", "bytes"),
    Column("grads_bytes", "gradients", "bytes"),
    Column("optimizer_bytes", "optimizer", "bytes"),
    Column("activation_bytes", "activations", "bytes"),
    Column("transient_bytes", "transient", "bytes"),
    Column("fixed_bytes", "fixed", "bytes"),
    Column("fragmentation_bytes", "fragmentation", "bytes"),
    Column("peak_bytes", "peak", "bytes"),
    Column("limit_bytes", "visible", "bytes"),
    Column("fits", "fits", "bool"),
)
CASE = (Column("spec", "spec"), Column("plan", "plan"))
RANK = Column("rank", "rank", "int")
SEQ = Column("seq", "sequence", "tokens")
CONVENTIONS = (
    "peak = (weights + gradients + optimizer + buffers + activations alive + transient + fixed) / allocator efficiency;"
    " what the efficiency adds is fragmentation.",
)


class Training(NamedTuple):
    """A model under a plan: `argument` names the plan's file, `label` the plan, `overrides` are on top of it."""

    model: Model
    argument: str
    label: str
    overrides: tuple[str, ...]
    plan: Plan

    def at(self, seq: int) -> Plan:
        """The plan with sequences of another length, in as many tokens a step. Raises InputError."""
        return load_plan(self.argument, (*self.overrides, f"batch.seq={seq}"))

    def ranks(self, plan: Plan) -> list[RankMemory]:
        """Every pipeline rank. Raises InputError where model and plan don't fit each other."""
        return training_memory(run_of(self.model.spec, plan))

    def row(self, memory: RankMemory) -> dict[str, Any]:
        """One rank as a row."""
        peak, limit = memory.peak, load_hardware(self.plan.hardware).memory_visible_bytes
        return {
            **rank_row(memory),
            "spec": self.model.key,
            "plan": self.label,
            "fragmentation_bytes": peak - memory.total,
            "limit_bytes": limit,
            "fits": peak <= limit,
        }


def trainings(several: Sequence[Model], plans: Sequence[str], overrides: tuple[str, ...]) -> list[Training]:
    """Every model under every plan. Raises InputError for a plan that can't be read or is invalid."""
    loaded = {argument: load_plan(argument, overrides) for argument in plans}
    names = [plan.name for plan in loaded.values()]
    found = [
        Training(model, argument, plan.name if names.count(plan.name) == 1 else argument, overrides, plan)
        for model, (argument, plan) in product(several, loaded.items())
    ]
    check_count(len(found), MOST_PANELS, "panels")
    return found


def train_figure(found: Sequence[Training]) -> Figure:
    """Every pipeline rank at its worst moment, a panel for each model and plan, the peak marked.

    Raises:
        InputError: a model and a plan that don't fit each other.
    """
    panels, rows = [], []
    for training, name in zip(found, _varying(found), strict=True):
        ranks = training.ranks(training.plan)
        own = [training.row(memory) for memory in ranks]
        top, limit = worst(ranks), _limit(training)
        rows += [{**row, "path": f"{training.model.key}/{training.label}/{row['path']}"} for row in own]
        fits = "fits" if top.peak <= limit.value else "does not fit"
        panels.append(
            Panel(
                title=name,
                xs=tuple(range(len(own))),
                points=tuple(range(len(own))),
                curves=_curves(own),
                limit=limit,
                marks=(Mark(top.rank, top.peak, f"worst rank {top.rank} {fits}:", valued=True),),
                unfit=tuple(row["rank"] for row in own if not row["fits"]),
            )
        )
    title = _title(found, "training memory of every pipeline rank")
    return Figure(
        title=title,
        setting=_setting(found),
        shape="bars",
        x_label="pipeline rank",
        x_unit="int",
        y_label="memory at the rank's worst moment",
        y_unit="bytes",
        panels=tuple(panels),
        report=_report("train", title, found, Table("rows", "every pipeline rank", (*CASE, RANK, *TERMS), rows)),
    )


def training_memory_figure(found: Sequence[Training], over: Range) -> Figure:
    """The worst rank against the sequence length, a panel for each model and plan.

    Lengths that a plan can't divide are left out and named in the notes.

    Raises:
        InputError: a model and a plan that don't fit each other, or no length that the plan can divide.
    """
    panels, rows, notes = [], [], []
    for training, name in zip(found, _varying(found), strict=True):
        training.ranks(training.plan)
        own, left_out = _sweep(training, over)
        notes += left_out
        key = f"{training.model.key}/{training.label}"
        rows += [{**row, "path": f"{key}/{row['seq']}"} for row in own]
        lengths = tuple(row["seq"] for row in own)
        unfit = tuple(row["seq"] for row in own if not row["fits"])
        panels.append(
            Panel(
                title=name,
                verdict=_verdict(lengths, unfit),
                xs=lengths,
                points=lengths,
                curves=_curves(own),
                limit=_limit(training),
                below=tuple(f"rank {row['rank']}" for row in own),
                unfit=unfit,
            )
        )
    title = _title(found, "training memory of the worst rank against sequence length")
    table = Table("rows", "the worst pipeline rank", (*CASE, SEQ, RANK, *TERMS), rows)
    models = list({training.model.key: training.model for training in found}.values())
    return Figure(
        title=title,
        setting=_setting(found),
        shape="bars",
        x_label="sequence [tokens], and the worst rank",
        x_unit="tokens",
        y_label="peak of the worst rank",
        y_unit="bytes",
        panels=tuple(panels),
        report=_report("memory", title, found, table, [*limit_notes(models, over.high), *notes], over),
    )


def _sweep(training: Training, over: Range) -> tuple[list[dict[str, Any]], list[str]]:
    """The worst rank's row at each length, and a note on each length that the plan can't have."""
    rows: list[dict[str, Any]] = []
    refused: list[tuple[int, InputError]] = []
    for seq in over.points():
        try:
            ranks = training.ranks(training.at(seq))
        except InputError as error:
            refused.append((seq, error))
            continue
        rows.append({**training.row(worst(ranks)), "seq": seq})
    if not rows:
        raise refused[0][1]
    return rows, [
        f"warning: {training.label}: {format_int(seq)} tokens are left out: {error.message}" for seq, error in refused
    ]


def _curves(rows: Sequence[dict[str, Any]]) -> tuple[Curve, ...]:
    return tuple(
        Curve(label, tuple(sum(row[key] for key in keys) for row in rows), hue)
        for hue, (label, keys) in enumerate(LAYERS)
    )


def _limit(training: Training) -> Limit:
    hardware = load_hardware(training.plan.hardware)
    return Limit(hardware.memory_visible_bytes, f"visible memory of {hardware.title}")


def _verdict(lengths: tuple[int, ...], unfit: tuple[int, ...]) -> str:
    fitting = [n for n in lengths if n not in unfit]
    if not unfit:
        return "fits at every length"
    if not fitting:
        return "fits at no length"
    if max(fitting) < min(unfit):
        return f"fits up to {format_int(max(fitting))} tokens"
    return f"does not fit at {', '.join(map(format_int, unfit))} tokens"


def _varying(found: Sequence[Training]) -> list[str]:
    """What tells each from the others: model, plan, or both."""
    parts = [[training.model.label for training in found], [training.label for training in found]]
    shown = [part for part in parts if len(set(part)) > 1]
    return [", ".join(words) for words in zip(*shown, strict=True)] if shown else [""]


def _setting(found: Sequence[Training]) -> str:
    """Plan, devices and schedule where they are the same for all, and what was changed."""
    columns = (
        [f"plan {training.label}" for training in found],
        [f"{t.plan.parallel.world} x {load_hardware(t.plan.hardware).title}" for t in found],
        [training.plan.schedule.kind for training in found],
    )
    shared = [column[0] for column in columns if len(set(column)) == 1]
    return ", ".join([*shared, *found[0].overrides])


def _title(found: Sequence[Training], text: str) -> str:
    labels = {training.model.label for training in found}
    return f"{found[0].model.label}: {text}" if len(labels) == 1 else text[0].upper() + text[1:]


def _report(
    kind: str,
    title: str,
    found: Sequence[Training],
    table: Table,
    notes: Sequence[str] = (),
    over: Range | None = None,
) -> Report:
    return Report(
        command="plot",
        title=f"{title}, {_setting(found)}",
        inputs={
            "kind": kind,
            "specs": list(dict.fromkeys(training.model.key for training in found)),
            "plans": list(dict.fromkeys(training.label for training in found)),
            "set": list(found[0].overrides),
            **({"context": [over.low, over.high]} if over else {}),
        },
        quantities={},
        rows=table,
        assumptions=list(dict.fromkeys(f"{t.label}: {path}" for t in found for path in t.plan.assumed)),
        conventions=CONVENTIONS,
        notes=[*notes, *dict.fromkeys(note for t in found for note in run_padding(run_of(t.model.spec, t.plan)))],
    )
