"""Which of the twin's weights train: `requires_grad` of each, and low-rank adapters beside its linear layers.

What a frozen weight or an input without a gradient saves is for torch to say; nothing is worked out here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from archcalc.reference.experts import StackedLinear
from archcalc.reference.factory import Factory
from archcalc.reference.model import TextModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What of a text model trains.

    Attributes:
        embedding, head: whether these do. Tied, they are one matrix.
        layers: whether the layers' own weights and the last norm do.
        rank: of adapters beside the layers' linear layers, 0 for none.
        entry: whether what comes into a layer and into the last norm requires a gradient.
    """

    embedding: bool = True
    head: bool = True
    layers: bool = True
    rank: int = 0
    entry: bool = True

    def prepare(self, model: TextModel, make: Factory) -> None:
        """Mark the model's parameters, and hang the adapters in."""
        backbone = model.model
        for weight in backbone.parameters():
            weight.requires_grad_(self.layers)
        for module in (backbone.embed_tokens, backbone.embed_positions):
            if module is not None:
                module.requires_grad_(self.embedding)
        for weight in model.lm_head.parameters():
            weight.requires_grad_(self.head)
        if self.rank:
            for module in [each for layer in backbone.layers for each in layer.modules()]:
                if isinstance(module, nn.Linear):
                    _beside(module, self.rank, make)
                elif isinstance(module, StackedLinear):
                    _beside_experts(module, self.rank, make)


def _beside(linear: nn.Linear, rank: int, make: Factory) -> None:
    """W x + B (A x) * scale (PEFT, tuners/lora/layer.py, `Linear.forward`, without dropout)."""
    linear.lora_A = make.linear(linear.in_features, rank)
    linear.lora_B = make.linear(rank, linear.out_features)

    def add(module: Any, given: tuple[Any, ...], out: Tensor) -> Tensor:
        delta = module.lora_B(module.lora_A(given[0])) * 2.0
        return out + delta.view_as(out)

    linear.register_forward_hook(add)


def _beside_experts(experts: StackedLinear, rank: int, make: Factory) -> None:
    """The same of each expert's own matrix."""
    number, outer, inner = experts.weight.shape
    experts.lora_A = nn.Parameter(torch.empty(number, rank, inner, **make.at))
    experts.lora_B = nn.Parameter(torch.empty(number, outer, rank, **make.at))

    def add(module: Any, given: tuple[Any, ...], out: Tensor) -> Tensor:
        rows, _, ends, *codes = given[:4]
        low = module.kernels.grouped_linear(rows, module.lora_A, ends, codes[0] if codes else ())
        delta: Tensor = module.kernels.grouped_linear(low, module.lora_B, ends, ())
        return out + delta * 2.0

    experts.register_forward_hook(add)
