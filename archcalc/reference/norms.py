"""The norms are torch's own, with a short cut where there is no data.

On meta only shapes and the gradient's way matter, and a norm counts no FLOPs: there it is the product with
the weight alone. The statistics take torch some twenty slow data-less steps, forward and backward, and were
nearly half the time of a whole model's count.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from archcalc.reference.factory import Factory
from archcalc.reference.norm_kinds import NormKind


class RMSNorm(nn.RMSNorm):
    """Scale to unit root mean square (arXiv:1910.07467), times a learned weight; fp32 inside."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., features] -> the same."""
        return x * self.weight if x.is_meta else super().forward(x)


class ZeroCenteredRMSNorm(nn.Module):
    """Scale to unit root mean square, times 1 + a learned weight, all in fp32 (transformers,
    models/gemma3/modeling_gemma3.py, `Gemma3RMSNorm`)."""

    def __init__(self, features: int, eps: float, at: Factory) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(features, **at))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """[..., features] -> the same."""
        if x.is_meta:
            return x * self.weight
        wide = x.float()
        unit = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return (unit * (1.0 + self.weight.float())).to(x.dtype)


class LayerNorm(nn.LayerNorm):
    """Mean 0 and variance 1 (arXiv:1607.06450), times a learned weight, plus a learned bias, if it has them."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., features] -> the same."""
        if not x.is_meta:
            return super().forward(x)
        scaled = x if self.weight is None else x * self.weight
        return scaled if self.bias is None else scaled + self.bias


def make_norm(kind: NormKind, features: int, at: Factory) -> nn.Module:
    """A norm of this kind over the last axis."""
    if kind.name == "rms":
        return RMSNorm(features, kind.eps, **at)
    if kind.name == "rms_zero_centered":
        return ZeroCenteredRMSNorm(features, kind.eps, at)
    weight, bias = kind.name != "none", kind.name == "layer"
    return LayerNorm(features, eps=kind.eps, elementwise_affine=weight, bias=bias, **at)
