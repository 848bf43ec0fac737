"""The plan: how a training run is laid out, as a strict YAML file with overrides."""

from __future__ import annotations

from typing import Literal, Self, get_args

from pydantic import Field, model_validator

from archcalc.errors import FieldError, InputError
from archcalc.files.model import Text
from archcalc.section import About, Section
from archcalc.training.activations import Activations
from archcalc.training.layout import Batch, Parallel, ScheduleSection
from archcalc.training.parts import Train, way
from archcalc.training.pictures import Count
from archcalc.training.precision import Fsdp, Memory, Precision
from archcalc.training.schedule import Pipeline, get_schedule


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
    def _multiplies(self) -> Self:
        if self.precision.fp8 != "none" and self.activations.kernels != "fused":
            raise FieldError(
                "linears in FP8 are TransformerEngine's, and plain code has none",
                ("precision", "fp8"),
                ("activations", "kernels"),
                hint="set activations.kernels to fused",
            )
        if self.precision.fp8 != "none" and self.parallel.zero == 3:
            raise FieldError(
                "FP8 with weights divided over devices (ZeRO-3, FSDP) is not modelled",
                ("precision", "fp8"),
                ("parallel", "zero"),
            )
        return self

    @model_validator(mode="after")
    def _fits(self) -> Self:
        rows = self.batch.seq * self.batch.micro_batch * self.parallel.dense_dp
        if self.batch.global_tokens % rows:
            raise FieldError(
                f"global_tokens {self.batch.global_tokens} is no multiple of seq x micro_batch x data-parallel devices"
                f" = {rows}",
                ("batch", "global_tokens"),
                ("batch", "seq"),
                ("parallel", "world"),
                hint="it counts tokens of a step over all devices: the batch in sequences times seq",
            )
        if self.batch.seq % (self.parallel.cp * (self.parallel.tp if self.parallel.sp else 1)):
            raise FieldError(
                f"seq {self.batch.seq} does not divide over cp {self.parallel.cp} and sequence-parallel devices",
                ("batch", "seq"),
                ("parallel", "cp"),
            )
        if self.parallel.cp > 1 and self.activations.core == "unfused":
            raise FieldError(
                "unfused attention holds whole rows of scores, and context parallelism divides them: Megatron-LM's"
                " DotProductAttention refuses it",
                ("activations", "core"),
                ("parallel", "cp"),
            )
        self._check_sharding()
        if self.vision.frozen and "vision" in self.train.model_fields_set and self.train.vision != "frozen":
            raise FieldError(
                f"vision.process frozen, and train.vision {self.train.vision}",
                ("train", "vision"),
                ("vision", "process"),
                hint="name one of them",
            )
        if self.schedule.ep_overlap and self.parallel.ep == 1:
            raise FieldError(
                "ep_overlap hides what expert-parallel devices exchange, and ep is 1",
                ("schedule", "ep_overlap"),
                ("parallel", "ep"),
            )
        overlapped = self.schedule.longer_by and self.parallel.ep > 1
        for name in ("moe", "full"):
            if overlapped and name in self.activations.recompute:
                raise FieldError(
                    f"recompute {name} and an extra warm-up exclude each other: the warm-up overlaps expert"
                    " communication with compute, which Megatron-LM forbids where the whole of it is recomputed",
                    ("activations", "recompute"),
                    ("schedule", "extra_warmup"),
                )
        try:
            get_schedule(self.schedule.kind).validate(self.pipeline)
        except InputError as error:
            raise FieldError(error.message, ("schedule", "kind"), ("parallel",), hint=error.hint) from None
        for path in self.assumed:
            if not _exists(type(self), path.split(".")):
                raise FieldError(f"assumed names no field of a plan: {path}", ("assumed",))
        return self

    def _check_sharding(self) -> None:
        """Whether FSDP2 is said as it is: raises FieldError."""
        if self.fsdp is None:
            return
        p, r = self.parallel, self.fsdp.replicate
        if p.zero != 3:
            raise FieldError(
                f"fsdp divides weights, gradients and states: that is parallel.zero 3, not {p.zero}",
                ("fsdp",),
                ("parallel", "zero"),
                hint="set parallel.zero=3, or leave fsdp out",
            )
        if self.precision.params != self.precision.grads:
            raise FieldError(
                "under fsdp a gradient at rest has its parameter's dtype: precision.grads must be"
                f" {self.precision.params}",
                ("precision", "grads"),
                ("precision", "params"),
            )
        for part, said in self.train:
            if said is not None and way(said).kind == "qlora":
                raise FieldError(
                    "fsdp gathers weights in one dtype; how it would quantized ones is not known here",
                    ("train", part),
                    ("fsdp",),
                    hint=f"train.{part}: lora(R), or leave fsdp out",
                )
        for key, said in (
            (("precision", "muon_layout"), self.precision.muon_layout == "whole"),
            (("memory", "optimizer_offload"), self.memory.optimizer_share > 0),
        ):
            if said:
                raise FieldError(f"{'.'.join(key)} is counted as Megatron-LM does it, not under fsdp", key, ("fsdp",))
        if self.schedule.ep_overlap:
            raise FieldError(
                "ep_overlap is Megatron-LM's, which does not shard as fsdp says", ("schedule", "ep_overlap"), ("fsdp",)
            )
        for name, devices in (("data-parallel", p.dense_dp * p.cp), ("expert data-parallel", p.expert_dp)):
            if devices % r:
                raise FieldError(f"{devices} {name} devices do not divide into {r} replicas", ("fsdp", "replicate"))


def _exists(model: type[Section], pieces: list[str]) -> bool:
    fields = model.model_fields
    if pieces[0] not in fields:
        return False
    inner = fields[pieces[0]].annotation
    if len(pieces) == 1:
        return True
    sections = [each for each in (inner, *get_args(inner)) if isinstance(each, type) and issubclass(each, Section)]
    return bool(sections) and _exists(sections[0], pieces[1:])
