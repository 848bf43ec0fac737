"""How a plan lays a run out: devices along the axes of the mesh, the order of the pipeline, tokens of a step."""

from __future__ import annotations

from math import lcm
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, NonNegativeInt, Tag, field_validator, model_validator

from archcalc.files.model import Text
from archcalc.limits import PICTURES, STAGES, VIRTUAL_STAGES, WARMUP, field_beyond
from archcalc.section import About, Section, Size
from archcalc.training.pictures import Images, Pictures, Videos
from archcalc.training.schedule import get_schedule


def listed(value: Any) -> str:
    """Whether somebody means a word or a list, so that one error is about it."""
    return "list" if isinstance(value, list) else "word"


Layout = Annotated[
    Annotated[Literal["auto"], Tag("word")] | Annotated[list[NonNegativeInt], Tag("list")], Discriminator(listed)
]


class Parallel(Section):
    """Devices along each mesh axis. Expert parallelism reuses the data- and tensor-parallel devices of a
    stage."""

    about = About(
        (
            "Devices along each axis of the mesh. Data parallel is what is left: world / (pp x tp x cp) for dense "
            "weights, world / (pp x ep x etp) for routed experts"
        ),
        world=(
            "All GPUs of the run: a multiple of pp x tp x cp and of pp x ep x etp (nodes x --nproc-per-node) [devices]"
        ),
        pp="Pipeline ranks (Megatron-LM: --pipeline-model-parallel-size) [devices]",
        vpp=(
            "Virtual stages of a rank, 1 where nothing interleaves (Megatron-LM: "
            "--num-virtual-stages-per-pipeline-rank, or layers / (pp x --num-layers-per-virtual-pipeline-stage)) "
            "[chunks]"
        ),
        layout=(
            "Layers of each of the pp x vpp stages in the model's order; `auto`: as even as can be, unless the stack "
            "says otherwise (Megatron-LM: --decoder-first-pipeline-num-layers and its kin, "
            "--pipeline-model-parallel-layout)"
        ),
        ep="Devices that routed experts are divided over (Megatron-LM: --expert-model-parallel-size) [devices]",
        etp=(
            "Devices that one expert's width is divided over (Megatron-LM: --expert-tensor-parallel-size, whose own "
            "default is tp) [devices]"
        ),
        tp="Devices that heads and widths are divided over (Megatron-LM: --tensor-model-parallel-size) [devices]",
        sp=(
            "Whether rows between tensor-parallel regions are divided over tp too; needs tp above 1, and experts over "
            "tp need it (Megatron-LM: --sequence-parallel)"
        ),
        cp="Devices that a sequence is divided over (Megatron-LM: --context-parallel-size) [devices]",
        cp_comm="How attention exchanges under cp (Megatron-LM: --cp-comm-type)",
        zero=(
            "What the data-parallel group divides: 0 nothing, 1 optimizer states (Megatron-LM: "
            "--use-distributed-optimizer), 2 gradients too, 3 weights too"
        ),
    )

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
    def _within_limits(self) -> Self:
        if self.vpp > VIRTUAL_STAGES.most:
            raise field_beyond(VIRTUAL_STAGES, self.vpp, "vpp")
        if self.pp * self.vpp > STAGES.most:
            raise field_beyond(STAGES, self.pp * self.vpp, "pp", "vpp")
        return self


class ScheduleSection(Section):
    """The order of forwards and backwards. With `ep_overlap` a forward more is warm-up, unless the plan says how
    many."""

    about = About(
        "The order of forwards and backwards in a pipeline",
        kind=(
            "`gpipe`, `1f1b`, `interleaved-1f1b` (where vpp is above 1), `zb-h1`, `zb-h2`, `zb-v`, `dualpipe` or "
            "`dualpipe-v`; `1f1b` too where pp is 1"
        ),
        extra_warmup="Forwards more before the first backward; left out: 0, or 1 with `ep_overlap`",
        ep_overlap=(
            "Whether the experts' exchange of a forward runs beside the compute of a backward and the other way "
            "round; needs ep above 1 (Megatron-LM: --overlap-moe-expert-parallel-comm)"
        ),
        group=(
            "Micro-batches of a group of interleaved 1F1B; left out: pp (Megatron-LM: "
            "--microbatch-group-size-per-virtual-pipeline-stage)"
        ),
    )

    kind: Text
    extra_warmup: NonNegativeInt | None = None
    ep_overlap: bool = False
    group: Size | None = None

    @property
    def longer_by(self) -> int:
        """Forwards added to the warm-up, the default resolved."""
        return int(self.ep_overlap) if self.extra_warmup is None else self.extra_warmup

    @model_validator(mode="after")
    def _within_limits(self) -> Self:
        if self.longer_by > WARMUP.most:
            raise field_beyond(WARMUP, self.longer_by, "extra_warmup")
        return self

    @field_validator("kind")
    @classmethod
    def _known(cls, value: str) -> str:
        get_schedule(value)
        return value


class Batch(Section):
    """Tokens of a step; `seq` is the whole sequence, vision tokens among them."""

    about = About(
        "Tokens of a step",
        seq="Length of a sequence; tokens of its images and videos are among them (Megatron-LM: --seq-length) [tokens]",
        micro_batch="Sequences that run at a time on one device (Megatron-LM: --micro-batch-size)",
        global_tokens=(
            "Tokens of a step over all devices: a multiple of seq x micro_batch x data-parallel devices (Megatron-LM: "
            "--global-batch-size x --seq-length) [tokens]"
        ),
        images="Images of each sequence, of one size or a list of several; left out: none",
        videos="Videos of each sequence, of one size or a list of several; left out: none",
    )

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
        counts = [(key, each.per_sequence or 0, each.size) for key, each in self.pictures if each.size is not None]
        count = sum(n * size[0] if key == "videos" else n for key, n, size in counts)
        if count > PICTURES.most:
            raise field_beyond(PICTURES, count, *dict.fromkeys(key for key, _, _ in counts))
        return self
