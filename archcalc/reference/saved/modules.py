"""The two small modules that everything else is made of: in bf16 until a caller casts them (`dtype_of`)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from archcalc.reference.fields import Section
from archcalc.reference.norm_kinds import LAYER, NormKind, norm_kind
from archcalc.reference.saved.kernels import kernels_of
from archcalc.reference.saved.options import Options

BF16 = torch.bfloat16
META = torch.device("meta")


def linear(inner: int, outer: int, bias: bool, device: torch.device) -> nn.Linear:
    """A bf16 linear. It keeps its input, never its output; a bias keeps nothing."""
    return nn.Linear(inner, outer, bias=bias, device=device, dtype=BF16)


class Norm(nn.Module):
    """A norm of any kind: RMSNorm in the kernels of the options, LayerNorm as torch's own kernel in both profiles."""

    def __init__(self, features: int, kind: NormKind, options: Options, device: torch.device) -> None:
        super().__init__()
        self.features, self.kind = features, kind
        self.weight = None if kind.name == "none" else _vector(features, device)
        self.bias = _vector(features, device) if kind.name == "layer" else None
        self.kernels = kernels_of(options)

    def forward(self, x: Tensor) -> Tensor:
        """[..., features] -> the same."""
        if self.kind.name in LAYER:
            return functional.layer_norm(x, (self.features,), self.weight, self.bias, self.kind.eps)
        if self.kind.name == "rms_zero_centered":
            return self.kernels.zero_centered_rms_norm(x, self.weight, self.kind.eps)
        return self.kernels.rms_norm(x, self.weight, self.kind.eps)


def kind_of(backbone: Section, name: str) -> NormKind:
    """A norm's kind with the backbone's epsilon; one that it hasn't is 1e-6, for it changes values and no byte."""
    return norm_kind(backbone, name, 1e-6)


def _vector(features: int, device: torch.device) -> nn.Parameter:
    return nn.Parameter(torch.ones(features, device=device, dtype=BF16))


def dtype_of(section: Section) -> torch.dtype:
    """The dtype that a section's layers run in; bf16 where it has none."""
    if not section.has("dtype"):
        return BF16
    found: torch.dtype = getattr(torch, section.choice("dtype", "bfloat16", "float16", "float32"))
    return found


def owned(module: nn.Module) -> list[Tensor]:
    """Parameters and buffers: what a count of activations leaves out."""
    return [*module.parameters(), *module.buffers()]
