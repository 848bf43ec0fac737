"""What every projector is to the rest of archcalc: two widths that have to fit, and a forward pass."""

from abc import abstractmethod
from typing import ClassVar

from archcalc.arch.block import Block
from archcalc.arch.vision.tower import Features
from archcalc.tape import Dim, Tape


class Projector(Block):
    """A projector: grouped patch features of a tower in, hidden states of the backbone out.

    `takes_earlier`: whether it projects features of earlier layers too, each for a layer of the backbone.
    """

    takes_earlier: ClassVar[bool] = False

    @property
    @abstractmethod
    def input_dim(self) -> Dim:
        """Features of one patch, named by the spec key [elements]."""

    @property
    @abstractmethod
    def output_dim(self) -> Dim:
        """Features of one backbone token, named by the spec key [elements]."""

    @abstractmethod
    def forward(self, tape: Tape, features: Features) -> None:
        """Rows [batch, vision_tokens], features [window, input_dim] to rows alike, features [output_dim]."""
