"""Training memory in pictures: every pipeline rank at its worst moment, and the worst rank against the length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

from archcalc.documents.document import Column
from archcalc.documents.sweep.cases import Model, Range, of_each, shared
from archcalc.documents.sweep.figure import Figure, Layer, Limit, Mark, Series, series
from archcalc.documents.sweep.plans import differing
from archcalc.documents.train import run_of
from archcalc.documents.train_notes import run_padding, set_notes
from archcalc.documents.train_tables import rank_row
from archcalc.documents.train_vision import vision_assumed
from archcalc.errors import InputError
from archcalc.hardware import Hardware, load_hardware
from archcalc.limits import PANELS, hold
from archcalc.training.load import load_plan
from archcalc.training.memory import RankMemory, training_memory, worst
from archcalc.training.plan import Plan
from archcalc.training.run import Run
from archcalc.units import format_int

LAYERS = (
    Layer("weights and buffers", ("params_bytes", "buffers_bytes"), 0),
    Layer("gradients", ("grads_bytes",), 1),
    Layer("optimizer", ("optimizer_bytes",), 2),
    Layer("activations", ("activation_bytes",), 3),
    Layer("transient", ("transient_bytes",), 4),
    Layer("fixed", ("fixed_bytes",), 5),
    Layer("lost to fragmentation", ("fragmentation_bytes",), 6),
)
"""They add up to the peak."""

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
RANK = Column("rank", "rank", "int")
SWEPT = "batch.seq"
"""The field of a plan that memory against the sequence length sets anew."""

CONVENTIONS = (
    "peak = (weights + gradients + optimizer + buffers + activations alive + transient + fixed) / allocator efficiency;"
    " what the efficiency adds is fragmentation.",
)


class Training(NamedTuple):
    """A model under a plan: `argument` names the plan's file, `label` the plan, `overrides` are on top of it.

    `fields` are those of the plan that differ from another's, a text for each that any of them has.
    """

    model: Model
    argument: str
    label: str
    overrides: tuple[str, ...]
    plan: Plan
    fields: Mapping[str, str]

    @property
    def cells(self) -> dict[str, Any]:
        return {"spec": self.model.key, "plan": self.label}

    @property
    def names(self) -> tuple[str, ...]:
        return self.model.label, self.label, self.devices, *self.fields.values()

    @property
    def setting(self) -> tuple[str, ...]:
        return f"plan {self.label}", self.devices, self.plan.schedule.kind, *self.overrides

    @property
    def devices(self) -> str:
        """How many of which."""
        return f"{self.plan.parallel.world} x {self.hardware.title}"

    @property
    def hardware(self) -> Hardware:
        return load_hardware(self.plan.hardware)

    @property
    def limit(self) -> Limit:
        """The memory of a device."""
        of = self.hardware
        return Limit(of.memory_visible_bytes, f"visible memory of {of.title}", ("visible", f"of {of.name}"))

    def at(self, seq: int) -> Plan:
        """The plan with sequences of another length, in as many tokens a step. Raises InputError."""
        return load_plan(self.argument, (*self.overrides, f"batch.seq={seq}"))

    def run(self, plan: Plan) -> Run:
        """A plan on the model. Raises InputError where they don't fit each other."""
        return run_of(self.model.spec, plan)

    def row(self, memory: RankMemory) -> dict[str, Any]:
        """One rank as a row whose terms add up to its peak: gradients that are still to be made are none yet."""
        limit = self.limit.value
        row = rank_row(memory)
        row["grads_bytes"] -= row.pop("unmade_bytes", 0)
        more = {"fragmentation_bytes": memory.peak - memory.total, "limit_bytes": limit, "fits": memory.peak <= limit}
        return {**row, **more}


def trainings(several: Sequence[Model], plans: Sequence[str], overrides: tuple[str, ...]) -> list[Training]:
    """Every model under every plan. Raises InputError for a plan that can't be read or is invalid."""
    loaded = {argument: load_plan(argument, overrides) for argument in plans}
    names, told = [plan.name for plan in loaded.values()], differing(list(loaded.values()))
    found = [
        Training(model, argument, plan.name if names.count(plan.name) == 1 else argument, overrides, plan, fields)
        for model, ((argument, plan), fields) in product(several, zip(loaded.items(), told, strict=True))
    ]
    hold(PANELS, len(found))
    return found


def train_figure(found: Sequence[Training]) -> Figure:
    """Every pipeline rank at its worst moment, a panel for each model and plan, the peak marked.

    Raises:
        InputError: a model and a plan that don't fit each other.
    """
    return _figure(
        found,
        kind="train",
        text="training memory of every pipeline rank",
        series=of_each(found, _of_ranks),
        across=RANK,
        x_label="pipeline rank",
        y_label="memory at the rank's worst moment",
        heading="every pipeline rank",
        columns=TERMS,
    )


def training_memory_figure(found: Sequence[Training], over: Range) -> Figure:
    """The worst rank against the sequence length, a panel for each model and plan.

    Lengths that a plan can't divide are left out and named in the notes.

    Raises:
        InputError: a model and a plan that don't fit each other, or no length that the plan can divide.
    """
    found = [t._replace(fields={key: text for key, text in t.fields.items() if key != SWEPT}) for t in found]
    swept = of_each(found, lambda training: _of_lengths(training, over))
    return _figure(
        found,
        kind="memory",
        text="training memory of the worst rank against sequence length",
        series=[each for each, _ in swept],
        over=over,
        across=Column("seq", "sequence", "tokens"),
        x_label="sequence [tokens], and the worst rank",
        y_label="peak of the worst rank",
        heading="the worst pipeline rank",
        columns=(RANK, *TERMS),
        notes=[note for _, notes in swept for note in notes],
    )


def _figure(found: Sequence[Training], *, notes: Sequence[str] = (), **words: Any) -> Figure:
    """What both pictures have: bars, and what their reports say of the plans."""
    return Figure(
        shape="bars",
        subtitle=shared(found),
        inputs={"set": list(found[0].overrides)},
        assumptions=list(dict.fromkeys(f"{t.label}: {line}" for t in found for line in _assumed(t))),
        conventions=CONVENTIONS,
        notes=[
            *notes,
            *set_notes(found[0].overrides),
            *dict.fromkeys(note for t in found for note in run_padding(t.run(t.plan))),
        ],
        **words,
    )


def _assumed(training: Training) -> list[str]:
    pictures = vision_assumed(training.model.spec, training.plan)
    return [*training.plan.assumed, *training.run(training.plan).tape.assumed, *pictures]


def _of_ranks(training: Training) -> Series:
    ranks = training_memory(training.run(training.plan))
    top, limit = worst(ranks), training.limit
    fits = "fits" if top.peak <= limit.value else "does not fit"
    return series(
        training,
        {memory.rank: training.row(memory) for memory in ranks},
        LAYERS,
        limit=limit,
        marks=(Mark(top.rank, top.peak, f"worst rank {top.rank} {fits}:", valued=True),),
    )


def _of_lengths(training: Training, over: Range) -> tuple[Series, list[str]]:
    """The worst rank at each length, and a note on each length that the plan can't have."""
    training.run(training.plan)  # a plan that fits at no length is refused for its own reason
    rows: dict[int, dict[str, Any]] = {}
    refused: dict[int, InputError] = {}
    for seq in over.points():
        try:
            rows[seq] = {**training.row(worst(training_memory(training.run(training.at(seq))))), "path": seq}
        except InputError as error:
            refused[seq] = error
    if not rows:
        raise refused[over.low]
    below = tuple(f"rank {row['rank']}" for row in rows.values())
    return (
        series(training, rows, LAYERS, verdict=_verdict(rows), limit=training.limit, below=below),
        [
            f"warning: {training.label}: {format_int(seq)} tokens are left out: {error.message}"
            for seq, error in refused.items()
        ],
    )


def _verdict(rows: dict[int, dict[str, Any]]) -> str:
    fitting, unfit = ([seq for seq, row in rows.items() if row["fits"] is fits] for fits in (True, False))
    if not unfit:
        return "fits at every length"
    if not fitting:
        return "fits at no length"
    if max(fitting) < min(unfit):
        return f"fits up to {format_int(max(fitting))} tokens"
    return f"does not fit at {', '.join(map(format_int, unfit))} tokens"
