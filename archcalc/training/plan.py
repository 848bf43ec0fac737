"""The plan: how a training run is laid out, as a strict YAML file with overrides."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from math import lcm
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, NonNegativeInt, Tag, field_validator, model_validator

from archcalc.errors import FieldError, InputError
from archcalc.section import Section, Size
from archcalc.tape.values import ITEM_BYTES
from archcalc.training.optimizer import optimizer
from archcalc.training.parts import Train
from archcalc.training.pictures import Count, Images, Pictures, Videos
from archcalc.training.savers import Lever, levers
from archcalc.training.schedule import Pipeline, get_schedule
from archcalc.units import parse_memory

Text = Annotated[str, Field(min_length=1)]

DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
"""Plan dtypes in torch's spelling."""


def _listed(value: Any) -> str:
    """Whether somebody means a word or a list, so that one error is about it."""
    return "list" if isinstance(value, list) else "word"


Layout = Annotated[
    Annotated[Literal["auto"], Tag("word")] | Annotated[list[NonNegativeInt], Tag("list")], Discriminator(_listed)
]
Offload = Annotated[Annotated[Text, Tag("word")] | Annotated[list[Text], Tag("list")], Discriminator(_listed)]


class Parallel(Section):
    """Devices along each mesh axis. Expert parallelism reuses the data- and tensor-parallel devices of a
    stage."""

    world: Size
    pp: Size
    vpp: Size
    layout: Layout
    ep: Size
    etp: Size
    tp: Size
    sp: bool
    cp: Size
    cp_comm: Literal["p2p", "a2a"] = "p2p"
    zero: Literal[0, 1, 2, 3]

    @property
    def dense_dp(self) -> int:
        """Devices that share the gradient of a dense weight, context parallel ones apart."""
        return self.world // (self.pp * self.tp * self.cp)

    @property
    def expert_dp(self) -> int:
        """Devices that share the gradient of a routed expert's weight."""
        return self.world // (self.pp * self.ep * self.etp)

    @property
    def replica(self) -> int:
        """GPUs of one model replica: the fewest that hold both whole TP x CP groups and whole EP x ETP
        groups."""
        return self.pp * lcm(self.tp * self.cp, self.ep * self.etp)

    @model_validator(mode="after")
    def _divides(self) -> Self:
        dense, expert = self.pp * self.tp * self.cp, self.pp * self.ep * self.etp
        if self.world % dense:
            raise FieldError(f"world {self.world} is no multiple of pp x tp x cp = {dense}", "world", "pp", "tp", "cp")
        if self.world % expert:
            raise FieldError(
                f"world {self.world} is no multiple of pp x ep x etp = {expert}", "world", "pp", "ep", "etp"
            )
        if self.sp and self.tp == 1:
            raise FieldError("sp needs tp above 1: it divides rows over the tensor-parallel devices", "sp", "tp")
        return self


class ScheduleSection(Section):
    """The order of forwards and backwards. `ep_overlap` runs the experts' exchange of a forward beside the compute of
    a backward and the other way round (Megatron-LM, --overlap-moe-expert-parallel-comm): a forward more is warm-up
    then, unless `extra_warmup` says how many."""

    kind: Text
    extra_warmup: NonNegativeInt | None = None
    ep_overlap: bool = False
    group: Size | None = None

    @property
    def longer_by(self) -> int:
        """Forwards added to the warm-up, the default resolved."""
        return int(self.ep_overlap) if self.extra_warmup is None else self.extra_warmup

    @field_validator("kind")
    @classmethod
    def _known(cls, value: str) -> str:
        get_schedule(value)
        return value


class Batch(Section):
    """Tokens of a step: `global_tokens` over all devices, `micro_batch` sequences of `seq` tokens at a
    time.

    `seq` is the whole sequence: the tokens of its images and videos are among them.
    """

    seq: Size
    micro_batch: Size
    global_tokens: Size
    images: Images = None
    videos: Videos = None

    @property
    def pictures(self) -> tuple[tuple[str, Pictures], ...]:
        """Images, then videos, each with the key that it stands under."""
        both: tuple[tuple[str, Any], ...] = (("images", self.images), ("videos", self.videos))
        return tuple(
            (key, each)
            for key, given in both
            for each in (given if isinstance(given, list) else [given])
            if each is not None
        )

    @model_validator(mode="after")
    def _pictures_fit(self) -> Self:
        tokens = sum(each.tokens_per_sequence or 0 for _, each in self.pictures)
        if tokens > self.seq:
            keys = dict.fromkeys(key for key, each in self.pictures if each.tokens_per_sequence)
            message = f"{tokens} vision tokens do not fit into sequences of {self.seq}: seq counts text and vision"
            raise FieldError(message, *keys, "seq")
        return self


class Precision(Section):
    """Dtypes of weights and gradients, and the optimizer by name. Megatron-LM's --fp16 accumulates gradients in fp16
    unless --accumulate-allreduce-grads-in-fp32 is given, its --bf16 in fp32 (training/arguments.py, validate_args)."""

    params: Literal["bf16", "fp16", "fp32"]
    grads: Literal["bf16", "fp16", "fp32"]
    optimizer: Text

    @field_validator("optimizer")
    @classmethod
    def _known(cls, value: str) -> str:
        optimizer(value)
        return value

    @property
    def item_bytes(self) -> tuple[int, int]:
        """Of a parameter and of its gradient [bytes]."""
        return ITEM_BYTES[DTYPES[self.params]], ITEM_BYTES[DTYPES[self.grads]]


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
    real` is what published routers do (training/routing.py).
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

    @property
    def loss(self) -> str:
        """The loss in use."""
        return self.cross_entropy or ("te" if self.kernels == "fused" else "eager")

    @field_validator("recompute", "fp8")
    @classmethod
    def _once(cls, value: list[str]) -> list[str]:
        doubled = [name for name in value if value.count(name) > 1]
        if doubled:
            raise ValueError(f"{doubled[0]} stands twice")
        return value

    @model_validator(mode="after")
    def _known(self) -> Self:
        spread = self.moe_imbalance
        if isinstance(spread, Spread) and spread.worst < spread.typical:
            raise FieldError(f"worst {spread.worst:g} is less than typical {spread.typical:g}", "moe_imbalance")
        self.levers()
        return self

    def levers(self) -> tuple[Lever, ...]:
        """From no savers to all that are named, one at a time. Raises InputError for a name there is not."""
        return levers(
            kernels=self.kernels,
            core=self.core,
            deterministic=self.deterministic,
            router_probs=self.router_probs,
            cross_entropy=self.loss,
            recompute=self.recompute,
            fp8=self.fp8,
            offload=self.offload,
            hidden_dropout=self.hidden_dropout,
            attention_dropout=self.attention_dropout,
            rope=self.rope,
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
    into it, `placeholder_grads` caches what autograd is handed instead."""

    fixed: Text
    allocator_efficiency: Annotated[float, Field(gt=0, le=1)]
    placeholder_grads: bool = True
    gradient_accumulation_fusion: bool = True
    compute_utilization: Annotated[float, Field(gt=0, le=1)] = 0.4

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
    def _fits(self) -> Self:
        rows = self.batch.seq * self.batch.micro_batch * self.parallel.dense_dp
        if self.batch.global_tokens % rows:
            raise FieldError(
                f"global_tokens {self.batch.global_tokens} is no multiple of seq x micro_batch x data-parallel devices"
                f" = {rows}",
                ("batch", "global_tokens"),
                ("batch", "seq"),
                ("parallel", "world"),
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


def _exists(model: type[Section], pieces: list[str]) -> bool:
    fields = model.model_fields
    if pieces[0] not in fields:
        return False
    inner = fields[pieces[0]].annotation
    if len(pieces) == 1:
        return True
    return isinstance(inner, type) and issubclass(inner, Section) and _exists(inner, pieces[1:])
