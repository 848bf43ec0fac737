"""Where and how a module's tensors are made, and which kernels it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import nn

from archcalc.reference.kernels.counted import Counted
from archcalc.reference.kernels.eager import Eager
from archcalc.reference.kernels.fused import Fused
from archcalc.reference.kernels.options import COUNTED, Options

KERNELS = {"counted": Counted(), "eager": Eager(), "fused": Fused()}


class At(TypedDict):
    """Keyword arguments of every torch constructor."""

    device: torch.device
    dtype: torch.dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class Factory:
    """What every module is made with.

    Attributes:
        device: `meta` for shapes only, `cpu` for numbers.
        dtype: of the weights.
        options: how the modules run.
    """

    device: torch.device
    dtype: torch.dtype
    options: Options = COUNTED

    @property
    def at(self) -> At:
        """For torch's own constructors."""
        return At(device=self.device, dtype=self.dtype)

    @property
    def kernels(self) -> Eager:
        """The operations that the options name."""
        return KERNELS[self.options.kernels]

    def linear(self, inner: int, outer: int, *, bias: bool = False) -> nn.Linear:
        """A linear. It keeps its input for backward, never its output; a bias keeps nothing."""
        return nn.Linear(inner, outer, bias=bias, **self.at)

    def recomputes(self, region: str) -> bool:
        """Whether the options recompute a region, one of `RECOMPUTE`."""
        return region in self.options.recompute
