"""How a plan lays a run out: devices along the axes of the mesh, the order of the pipeline, tokens of a step."""

from __future__ import annotations

from math import lcm
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, NonNegativeInt, Tag, field_validator, model_validator

from archcalc.errors import FieldError
from archcalc.files.model import Text
from archcalc.section import Section, Size
from archcalc.training.pictures import Images, Pictures, Videos
from archcalc.training.schedule import get_schedule

_WORLD = "the rest of world is data parallel: give it as many GPUs as the run has, or change how they are divided"


def listed(value: Any) -> str:
    """Whether somebody means a word or a list, so that one error is about it."""
    return "list" if isinstance(value, list) else "word"


Layout = Annotated[
    Annotated[Literal["auto"], Tag("word")] | Annotated[list[NonNegativeInt], Tag("list")], Discriminator(listed)
]


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
            message = f"world {self.world} is no multiple of pp x tp x cp = {dense}"
            raise FieldError(message, "world", "pp", "tp", "cp", hint=_WORLD)
        if self.world % expert:
            message = f"world {self.world} is no multiple of pp x ep x etp = {expert}"
            raise FieldError(message, "world", "pp", "ep", "etp", hint=_WORLD)
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
