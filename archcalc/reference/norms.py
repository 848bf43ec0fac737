"""Norms of every kind, in the kernels that are asked for."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from archcalc.reference.factory import Factory
from archcalc.reference.norm_kinds import LAYER, NormKind


class Norm(nn.Module):
    """A norm over the last axis, times a learned weight and plus a learned bias, as far as its kind has them."""

    def __init__(self, kind: NormKind, features: int, make: Factory) -> None:
        super().__init__()
        self.kind, self.kernels = kind, make.kernels
        zero_centered = kind.name == "rms_zero_centered"
        start = torch.zeros if zero_centered else torch.ones
        self.weight = None if kind.name == "none" else nn.Parameter(start(features, **make.at))
        self.bias = nn.Parameter(torch.zeros(features, **make.at)) if kind.name == "layer" else None

    def forward(self, x: Tensor) -> Tensor:
        """[..., features] -> the same."""
        if self.weight is None or self.kind.name in LAYER:
            return self.kernels.layer_norm(x, self.weight, self.bias, self.kind.eps)
        zero_centered = self.kind.name == "rms_zero_centered"
        return self.kernels.rms_norm(x, self.weight, self.kind.eps, zero_centered=zero_centered)
