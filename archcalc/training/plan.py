"""The plan: how a training run is laid out, as a strict YAML file with overrides."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Discriminator, Field, NonNegativeInt, Tag, field_validator, model_validator

from archcalc.errors import FieldError, InputError
from archcalc.files.model import Text
from archcalc.section import Section, Size
from archcalc.tape.values import ITEM_BYTES
from archcalc.training.layout import Batch, Parallel, ScheduleSection, listed
from archcalc.training.optimizer import optimizer
from archcalc.training.parts import Train, way
from archcalc.training.pictures import Count
from archcalc.training.savers import Lever, levers
from archcalc.training.schedule import Pipeline, get_schedule
from archcalc.units import parse_memory

DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
"""Plan dtypes in torch's spelling."""


Offload = Annotated[Annotated[Text, Tag("word")] | Annotated[list[Text], Tag("list")], Discriminator(listed)]


class Precision(Section):
    """Dtypes of weights and gradients, and the optimizer by name. Megatron-LM's --fp16 accumulates gradients in fp16
    unless --accumulate-allreduce-grads-in-fp32 is given, its --bf16 in fp32 (training/arguments.py, validate_args).

    `muon_layout` says who has the states of an optimizer that needs matrices whole: `sliced`, matrices go to devices
    whole and all else in slices; `whole`, all parameters go whole, embedding and head among them. `fp8` is the recipe
    of the layers' linears where they multiply in FP8; `fp8_params` holds their weights in it, instead of in `params`.
    """

    params: Literal["bf16", "fp16", "fp32"]
    grads: Literal["bf16", "fp16", "fp32"]
    optimizer: Text
    muon_layout: Literal["sliced", "whole"] = "sliced"
    fp8: Literal["none", "tensorwise", "delayed", "blockwise", "mxfp8"] = "none"
    fp8_params: bool = False

    @field_validator("optimizer")
    @classmethod
    def _known(cls, value: str) -> str:
        optimizer(value)
        return value

    @model_validator(mode="after")
    def _laid_out(self) -> Self:
        if "muon_layout" in self.model_fields_set and not optimizer(self.optimizer).whole_matrices:
            raise FieldError(
                f"muon_layout is a layout of Muon's matrices, and the optimizer is {self.optimizer}",
                "muon_layout",
                "optimizer",
                hint="leave it out, or set optimizer to muon",
            )
        return self

    @model_validator(mode="after")
    def _quantized(self) -> Self:
        if not self.fp8_params:
            return self
        if self.fp8 == "none":
            raise FieldError("weights in FP8 need a recipe", "fp8_params", "fp8", hint="set fp8 to tensorwise")
        if self.params == "fp32":
            raise FieldError("weights in FP8 stand in for weights in 16 bits", "fp8_params", "params")
        if optimizer(self.optimizer).master < 4:
            raise FieldError(
                f"{self.optimizer} keeps 16 more bits of a bf16 weight, and the weights are in FP8",
                "fp8_params",
                "optimizer",
                hint="use an optimizer with fp32 master weights, such as adamw",
            )
        return self

    @property
    def item_bytes(self) -> tuple[int, int]:
        """Of a parameter and of its gradient [bytes]."""
        return ITEM_BYTES[DTYPES[self.params]], ITEM_BYTES[DTYPES[self.grads]]


class Fsdp(Section):
    """Fully sharded data parallelism as torch's FSDP2 does it: parameters, gradients and states divided by rows,
    weights gathered in `param_dtype` group by group and gradients reduced in `reduce_dtype`.

    `reshard_after_forward` null is torchtitan's policy: not under pipeline parallelism, and never head and last norm.
    `prefetch` 1 is torch's own order; more are explicit lists of so many groups. `replicate`: copies of the whole, each
    sharded over the rest of the devices (HSDP).
    """

    reshard_after_forward: bool | None = None
    prefetch: Size = 1
    param_dtype: Literal["bf16", "fp32"] = "bf16"
    reduce_dtype: Literal["bf16", "fp32"] = "fp32"
    replicate: Size = 1


Imbalance = Annotated[float, Field(ge=1)]
Probability = Annotated[float, Field(ge=0, lt=1)]


class Spread(Section):
    """The busiest device over the mean of the routed rows: `typical` is counted, `worst` gives the peak's range."""

    typical: Imbalance
    worst: Imbalance


def _form(value: Any) -> str:
    """Which form of an imbalance somebody means, so that one error is about it."""
    return "spread" if isinstance(value, dict | Spread) else "word" if isinstance(value, str) else "number"


Uneven = Annotated[
    Annotated[Imbalance, Tag("number")] | Annotated[Spread, Tag("spread")] | Annotated[Literal["real"], Tag("word")],
    Discriminator(_form),
]


class Activations(Section):
    """How activations are computed and kept. Where `cross_entropy` is left out the loss goes with the kernels:
    TransformerEngine's with fused ones, plain code with eager ones.

    `hidden_dropout` falls on every residual branch and on what is embedded, as in Megatron-LM; public modeling code has
    it in GPT-2's kin alone. `core`: `flash` is a fused kernel that takes tensors in the layer's order (cuDNN's),
    `flash-attn` the package of that name, for which TransformerEngine reorders them; `unfused` writes attention's
    scores out, in 16 bit under fused kernels. `deterministic` is Megatron-LM's --deterministic-mode without
    --moe-permute-fusion: rows of experts are added up by a kernel that keeps them. `rope:
    unfused` is Megatron-LM's rotation without a kernel (--no-rope-fusion), which keeps its tables layer by layer.
    `offload_in_flight` is how many layers' copies to or from the host are in hand beside the layer that runs.
    `attention_mask: loader` is a mask that the data loader makes, seq x seq bytes for each sequence. `moe_imbalance:
    real` is what published routers do (training/routing.py). `selective`: layers are recomputed but for what operations
    of these kinds put out.
    """

    kernels: Literal["fused", "eager"]
    core: Literal["flash", "flash-attn", "unfused"] = "flash"
    hidden_dropout: Probability = 0.0
    attention_dropout: Probability = 0.0
    rope: Literal["fused", "unfused"] = "fused"
    router_probs: Literal["act", "out"]
    deterministic: bool = False
    recompute: list[Text]
    fp8: list[Text]
    offload: Offload
    offload_in_flight: NonNegativeInt = 1
    moe_imbalance: Uneven
    cross_entropy: Literal["eager", "fused", "te", "chunked"] | None = None
    attention_mask: Literal["none", "loader"] = "none"
    selective: list[Text] | None = None

    @property
    def loss(self) -> str:
        """The loss in use."""
        return self.cross_entropy or ("te" if self.kernels == "fused" else "eager")

    @field_validator("recompute", "fp8", "selective")
    @classmethod
    def _once(cls, value: list[str] | None) -> list[str] | None:
        doubled = [name for name in value or () if value and value.count(name) > 1]
        if doubled:
            raise ValueError(f"{doubled[0]} stands twice")
        return value

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.selective is not None and self.recompute:
            raise FieldError(
                "selective recomputes all of a layer but what it names: recompute has nothing left to choose",
                "selective",
                "recompute",
            )
        spread = self.moe_imbalance
        if isinstance(spread, Spread) and spread.worst < spread.typical:
            raise FieldError(f"worst {spread.worst:g} is less than typical {spread.typical:g}", "moe_imbalance")
        self.levers()
        return self

    def levers(self, linears: str = "none") -> tuple[Lever, ...]:
        """From no savers to all that are named, one at a time; `linears` is the recipe of those in FP8. Raises
        InputError for a name there is not."""
        return levers(
            kernels=self.kernels,
            core=self.core,
            deterministic=self.deterministic,
            router_probs=self.router_probs,
            cross_entropy=self.loss,
            recompute=self.recompute,
            selective=self.selective,
            fp8=self.fp8,
            offload=self.offload,
            hidden_dropout=self.hidden_dropout,
            attention_dropout=self.attention_dropout,
            rope=self.rope,
            linears=linears,
        )


class Vision(Section):
    """Where a vision tower runs: `decoupled` (replicated on every device, in phases of its own, `micro_batch` images or
    chunks of video frames at a time), in the `first-stage` of the pipeline, or there and `frozen`: without gradients,
    its projector alone being trained."""

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


class Memory(Section):
    """What no formula gives: context, communicators and workspaces [a size], and the share of memory that
    fragments leave; and how weights' gradients reach their buffer: `gradient_accumulation_fusion` adds products
    into it, `placeholder_grads` caches what autograd is handed instead. `optimizer_offload` is the share of the
    parameters whose optimizer states are in host memory, where the step updates them."""

    fixed: Text
    allocator_efficiency: Annotated[float, Field(gt=0, le=1)]
    placeholder_grads: bool = True
    gradient_accumulation_fusion: bool = True
    compute_utilization: Annotated[float, Field(gt=0, le=1)] = 0.4
    optimizer_offload: Annotated[float, Field(ge=0, le=1)] = 0.0

    @field_validator("fixed", mode="before")
    @classmethod
    def _with_unit(cls, value: Any) -> Any:
        if type(value) in (int, float):
            raise FieldError(f"fixed {value} has no unit", hint=f"write {value}GiB or {value}GB")
        return value

    @field_validator("fixed")
    @classmethod
    def _size(cls, value: str) -> str:
        parse_memory(value)
        return value

    @property
    def fixed_bytes(self) -> int:
        """`fixed` [bytes]."""
        return parse_memory(self.fixed)

    @property
    def efficiency(self) -> Fraction:
        """`allocator_efficiency`, exact."""
        return Fraction(Decimal(str(self.allocator_efficiency)))

    @property
    def optimizer_share(self) -> Fraction:
        """`optimizer_offload`, exact."""
        return Fraction(Decimal(str(self.optimizer_offload)))


class Plan(Section):
    """A training plan. `stack` names a file with a training framework's facts, which fill in what the plan leaves out
    and add their workspaces to `memory.fixed`."""

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
