"""The plan: how a training run is laid out, as a strict YAML file with overrides."""

from __future__ import annotations

from typing import Literal, Self, get_args

from pydantic import Field, model_validator

from archcalc.errors import FieldError
from archcalc.files.model import Text
from archcalc.section import About, Section
from archcalc.training.activations import Activations
from archcalc.training.layout import Batch, Parallel, ScheduleSection
from archcalc.training.legal import illegal
from archcalc.training.parts import Train
from archcalc.training.pictures import Count
from archcalc.training.precision import Fsdp, Memory, Precision
from archcalc.training.schedule import Pipeline


class Vision(Section):
    """Where a vision tower runs: frozen, its projector alone is trained."""

    about = About(
        "Where a vision tower runs",
        process=(
            "`decoupled`: on every device in phases of its own (K2.5's way). `first-stage`: on the first stage of the "
            "pipeline. `frozen`: there, and not trained"
        ),
        micro_batch="Images, or chunks of video frames, that a decoupled tower runs at a time",
    )

    process: Literal["decoupled", "first-stage", "frozen"]
    micro_batch: Count = 1

    @property
    def decoupled(self) -> bool:
        """Whether it stands on every device, outside the pipeline."""
        return self.process == "decoupled"

    @property
    def frozen(self) -> bool:
        """Whether it is not trained."""
        return self.process == "frozen"


class Plan(Section):
    """A training plan."""

    about = About(
        (
            "A training plan: how one run is laid out over devices, scheduled and kept in memory. The model is no "
            "part of it"
        ),
        kind="What file this is",
        name="Short name, by which commands and reports call it",
        title="A longer name, for readers",
        sources="Where the plan's figures are from, each source under a name of its own; comments may name them",
        hardware="The GPU, a bundled name or a file: its memory, links and FLOP/s",
        stack=(
            "Facts of a training framework, a bundled name or a file: they fill in what the plan does not say, and "
            "add workspaces to `memory.fixed`; left out: none"
        ),
        parallel="Devices along each axis of the mesh",
        schedule="The order of forwards and backwards",
        batch="Tokens of a step",
        precision="Dtypes of weights and gradients, and the optimizer",
        train="How each part is trained; left out: all of the model in full",
        activations="How activations are computed, kept, made again and routed",
        vision="Where a vision tower runs; read where a model has one",
        memory="What no formula gives, and how gradients reach their buffer",
        fsdp=(
            "Sharding as torch's FSDP2 does it; needs `parallel.zero: 3` and `precision.grads` equal to `params`. "
            "Left out: ZeRO-3 is counted in general"
        ),
        assumed="Keys of the plan whose values no source gives, such as memory.fixed; reports repeat them",
    )

    kind: Literal["plan"]
    name: Text
    title: str = ""
    sources: dict[str, Text] = Field(default_factory=dict)
    hardware: Text
    stack: Text | None = None
    parallel: Parallel
    schedule: ScheduleSection
    batch: Batch
    precision: Precision
    train: Train = Field(default_factory=Train)
    activations: Activations
    vision: Vision
    memory: Memory
    fsdp: Fsdp | None = None
    assumed: list[Text] = Field(default_factory=list)

    def trained(self, *, vision: bool) -> Train:
        """How each part is trained, of a model with a `vision` tower or without."""
        frozen = vision and self.vision.frozen
        return self.train.model_copy(update={"vision": "frozen"}) if frozen else self.train

    @property
    def micro_batches(self) -> int:
        """Micro-batches of one pipeline in one step."""
        return self.batch.global_tokens // (self.batch.seq * self.batch.micro_batch * self.parallel.dense_dp)

    @property
    def pipeline(self) -> Pipeline:
        """The sizes that the schedule is laid out for."""
        return Pipeline(
            pp=self.parallel.pp,
            vpp=self.parallel.vpp,
            micro_batches=self.micro_batches,
            group=self.schedule.group,
            extra_warmup=self.schedule.longer_by,
            ep_overlap=self.schedule.ep_overlap,
        )

    @model_validator(mode="after")
    def _legal(self) -> Self:
        for refusal in illegal(self):
            raise FieldError(refusal.reason, *refusal.keys, hint=refusal.hint)
        for path in self.assumed:
            if not _exists(type(self), path.split(".")):
                raise FieldError(f"assumed names no field of a plan: {path}", ("assumed",))
        return self


def _exists(model: type[Section], pieces: list[str]) -> bool:
    fields = model.model_fields
    if pieces[0] not in fields:
        return False
    inner = fields[pieces[0]].annotation
    if len(pieces) == 1:
        return True
    sections = [each for each in (inner, *get_args(inner)) if isinstance(each, type) and issubclass(each, Section)]
    return bool(sections) and _exists(sections[0], pieces[1:])
