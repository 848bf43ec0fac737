"""What every projector is to the rest of archcalc: two widths that have to fit, and a forward pass."""

from __future__ import annotations

from abc import abstractmethod

from archcalc.arch.block import Block
from archcalc.tape import Dim, Tape, Tensor


class Projector(Block):
    """A projector: grouped patch features of a tower in, hidden states of the backbone out."""

    @property
    @abstractmethod
    def input_dim(self) -> Dim:
        """Features of one patch, named by the spec key [elements]."""

    @property
    @abstractmethod
    def output_dim(self) -> Dim:
        """Features of one backbone token, named by the spec key [elements]."""

    @abstractmethod
    def forward(self, tape: Tape, x: Tensor) -> Tensor:
        """x: rows [batch, vision_tokens], features [window, input_dim]; returns rows alike, features [output_dim]."""
