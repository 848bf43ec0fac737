"""The norms are torch's own, with a short cut where there is no data.

On meta only shapes and the gradient's way matter, and a norm counts no FLOPs: there it is the product with
the weight alone. The statistics take torch some twenty slow data-less steps, forward and backward, and were
nearly half the time of a whole model's count.
"""

from __future__ import annotations

from torch import Tensor, nn


class RMSNorm(nn.RMSNorm):
    """Scale to unit root mean square (arXiv:1910.07467), times a learned weight; fp32 inside."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., features] -> the same."""
        return x * self.weight if x.is_meta else super().forward(x)


class LayerNorm(nn.LayerNorm):
    """Mean 0 and variance 1 (arXiv:1607.06450), times a learned weight, plus a learned bias."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., features] -> the same."""
        return x * self.weight + self.bias if x.is_meta else super().forward(x)
