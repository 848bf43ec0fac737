"""Pictures in the `train` report: what the tower takes in which phase, and what that rests on."""

from __future__ import annotations

from archcalc.documents.document import Column, Table
from archcalc.files.model import Spec
from archcalc.training.images import sight
from archcalc.training.memory import RankMemory
from archcalc.training.mesh import mesh_of
from archcalc.training.phases import TowerLoad, tower_load
from archcalc.training.plan import Plan
from archcalc.training.run import Run
from archcalc.units import format_bytes

PHASE_COLUMNS = (
    Column("phase", "phase"),
    Column("activation_bytes", "activations", "bytes"),
    Column("transient_bytes", "transient", "bytes"),
    Column("peak_bytes", "peak", "bytes", keep=True),
)


def tower_of(spec: Spec, plan: Plan) -> TowerLoad | None:
    """What a decoupled tower has to do; None where there is none, or no pictures. Raises InputError."""
    seen = sight(spec.vision, plan)
    if not (seen.groups and plan.vision.decoupled and spec.vision and spec.projector):
        return None
    return tower_load(spec.vision, spec.projector, plan, seen, mesh_of(plan), spec.storage)


def phases(run: Run, plan: Plan, r: RankMemory) -> list[Table]:
    """A rank's worst moment in every part of the step, in order; no table where no sequence has pictures."""
    if not plan.batch.pictures:
        return []
    rows = [
        {
            "path": moment.phase,
            "phase": moment.phase,
            "activation_bytes": moment.activation,
            "transient_bytes": moment.transient,
            "peak_bytes": run.fragmented(r.total - r.activation - r.transient + moment.total),
            "moment": moment.text,
        }
        for moment in r.moments
    ]
    note = f"peak: with what rank {r.rank} holds in every phase, its weights, gradients, states and fixed part"
    return [Table("phases", f"rank {r.rank}, phase by phase", PHASE_COLUMNS, rows, note=note)]


def vision_assumed(spec: Spec, plan: Plan) -> list[str]:
    """What no source gives: pictures behind a mean number of tokens, and how many run at a time."""
    lines = list(sight(spec.vision, plan).assumed)
    if plan.batch.pictures and plan.vision.decoupled and "vision.micro_batch" not in plan.assumed:
        default = "" if "micro_batch" in plan.vision.model_fields_set else " (default)"
        if default:
            lines.append(f"vision.micro_batch = {plan.vision.micro_batch}{default}")
        lines.append("decoupled vision: the first stage keeps all outputs until the backbone's step is done")
    return lines


def vision_conventions(plan: Plan) -> tuple[str, ...]:
    """How pictures are counted; nothing where no sequence has any."""
    if not plan.batch.pictures:
        return ()
    whole = "batch.seq counts vision tokens and text."
    if not plan.vision.decoupled:
        return (f"{whole} The tower sees all pictures of a micro-batch on each device of the first stage.",)
    return (
        f"{whole} Pictures of each size are dealt to all GPUs alike, whole ones, rounded up; the largest that run"
        " together count.",
        "vision forward keeps outputs only; pipeline: those of all micro-batches on the first stage, and the gradient"
        " of each from the end of its backward; vision backward: the tower's activations again, and those gradients.",
    )


def vision_notes(spec: Spec, plan: Plan, run: Run) -> list[str]:
    """Where the tower runs, and what of it is in."""
    if spec.vision is None:
        return []
    seen = sight(spec.vision, plan)
    notes = []
    if plan.vision.frozen:
        projector = "is frozen too" if run.train.projector == "frozen" else "is trained"
        notes.append(f"The vision tower is frozen and stands in the first stage; the projector {projector}.")
    if not seen.groups:
        if plan.vision.decoupled:
            notes.append(
                "The vision tower and projector stand on every rank and run in a phase of their own; its activations"
                " are not in."
            )
        return notes
    patches = sum(group.patches * count for group, count in seen.groups)
    notes.append(
        f"Pictures make {seen.tokens:,} of the {plan.batch.seq:,} tokens of a sequence; the tower runs on their"
        f" {patches:,} patches."
    )
    if run.tower is not None:
        gathered = run.entering * run.tower.outputs
        notes.append(
            "The vision tower and projector stand on every rank and run in phases of their own, around the backbone's;"
            f" a first stage holds {format_bytes(gathered)} of their outputs, those of {run.entering:,}"
            f" micro-batch{'es' if run.entering > 1 else ''}"
            + (", and as much of gradients when the pipeline ends." if run.tower.learns else ".")
        )
    return notes
