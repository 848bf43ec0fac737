"""What every vision tower is to the rest of archcalc: groups of patches, the tokens that they make, a forward pass."""

from abc import abstractmethod
from typing import NamedTuple

from archcalc.arch.block import Block
from archcalc.errors import FieldError
from archcalc.tape import Dim, Tape, Tensor
from archcalc.workload import Workload


class Group(NamedTuple):
    """Patches that attend to one another and to no others: t frames of h x w patches."""

    t: int
    h: int
    w: int

    @property
    def patches(self) -> int:
        """All of them."""
        return self.t * self.h * self.w


class Features(NamedTuple):
    """What a tower hands to its projector: rows [batch, vision_tokens], features [window, output_dim].

    Attributes:
        last: of the last layer.
        earlier: of layers before it, which the backbone's first layers see too (DeepStack, arXiv:2406.04334).
        shuffled: whether the rows stand in another order than the backbone's tokens: the projector puts them back.
    """

    last: Tensor
    earlier: tuple[Tensor, ...] = ()
    shuffled: bool = False


def check_fours(size: int, what: str, *fields: str) -> None:
    """Raises FieldError for so many features of a head, where a picture's rows and columns turn pairs of their own
    (transformers, models/qwen2_vl: `VisionRotaryEmbedding` of head_dim / 2; models/kimi_k25, Rope2DPosEmb)."""
    if size % 4:
        raise FieldError(
            f"{what} {size} is no multiple of 4: rows and columns of a picture turn pairs of features each", *fields
        )


class Tower(Block):
    """A vision tower: pixels in, features of patches out, grouped by the window that becomes one backbone token."""

    @property
    @abstractmethod
    def output_dim(self) -> Dim:
        """Features of one patch as the projector gets them, named by the spec key [elements]."""

    @property
    @abstractmethod
    def token_side(self) -> int:
        """Side of the square that one backbone token stands for [pixels]."""

    @property
    @abstractmethod
    def group_frames(self) -> int:
        """Frames of a video that make one group at most."""

    @property
    def text_path(self) -> str:
        """The module of the checkpoint that holds the decoder's embedding, layers and last norm, beside this tower."""
        return "language_model.model"

    @property
    def earlier(self) -> int:
        """How many layers before the last one hand on their features too."""
        return 0

    @abstractmethod
    def groups(self, workload: Workload) -> list[Group]:
        """The groups that one sequence's images and videos make, behind those that are cut already; none in decode,
        where they are cached context."""

    @abstractmethod
    def tokens(self, groups: list[Group]) -> int:
        """Backbone tokens of the groups."""

    @abstractmethod
    def forward(self, tape: Tape) -> Features:
        """Pixels in, features out. Adds its tokens to the tape's `seq`."""
