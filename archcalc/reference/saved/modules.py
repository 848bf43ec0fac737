"""The two small modules that everything else is made of: in bf16 until a caller casts them (`dtype_of`)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from archcalc.reference.fields import Section
from archcalc.reference.saved.kernels import kernels_of
from archcalc.reference.saved.options import Options

BF16 = torch.bfloat16
META = torch.device("meta")


def linear(inner: int, outer: int, bias: bool, device: torch.device) -> nn.Linear:
    """A bf16 linear. It keeps its input, never its output; a bias keeps nothing."""
    return nn.Linear(inner, outer, bias=bias, device=device, dtype=BF16)


class Norm(nn.Module):
    """RMSNorm in the kernels of the options."""

    def __init__(self, features: int, eps: float, options: Options, device: torch.device) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features, device=device, dtype=BF16))
        self.eps = eps
        self.kernels = kernels_of(options)

    def forward(self, x: Tensor) -> Tensor:
        """[..., features] -> the same."""
        return self.kernels.rms_norm(x, self.weight, self.eps)


def dtype_of(section: Section) -> torch.dtype:
    """The dtype that a section's layers run in; bf16 where it has none."""
    if not section.has("dtype"):
        return BF16
    found: torch.dtype = getattr(torch, section.choice("dtype", "bfloat16", "float16", "float32"))
    return found


def owned(module: nn.Module) -> list[Tensor]:
    """Parameters and buffers: what a count of activations leaves out."""
    return [*module.parameters(), *module.buffers()]
