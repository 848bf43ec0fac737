"""Activations of feed-forward layers, plain and gated, as public model code writes them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Relu2(nn.Module):
    """relu(x)² (Primer, arXiv:2109.08668; transformers, activations.py, `ReLUSquaredActivation`)."""

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        return functional.relu(x).square()


ACTIVATIONS: dict[str, nn.Module] = {
    "silu": nn.SiLU(),
    "gelu": nn.GELU(),
    "gelu_pytorch_tanh": nn.GELU(approximate="tanh"),
    "relu2": Relu2(),
}
"""By name; `gelu` is the exact one (erf)."""


class Glu:
    """act(gate) * up (arXiv:2002.05202).

    Attributes:
        act: what the gate goes through alone; None where gate and up are both changed.
    """

    def __init__(self, act: nn.Module | None) -> None:
        self.act = act

    def __call__(self, gate: Tensor, up: Tensor) -> Tensor:
        """Twice [..., F] -> [..., F]."""
        activated: Tensor = gate if self.act is None else self.act(gate)
        return activated * up


class SituGlu(Glu):
    """SiTU-GLU of Kimi K3 (modeling_kimi_linear.py, `SituAndMul`): beta tanh(gate/beta) sigmoid(gate) times
    linear_beta tanh(up/linear_beta), all in fp32. The betas are those of its config, activation_situ_beta and
    activation_situ_linear_beta."""

    BETA, LINEAR_BETA = 4.0, 25.0

    def __init__(self) -> None:
        super().__init__(None)

    def __call__(self, gate: Tensor, up: Tensor) -> Tensor:
        """Twice [..., F] -> [..., F]."""
        wide, linear = gate.float(), up.float()
        activated = self.BETA * torch.tanh(wide / self.BETA) * torch.sigmoid(wide)
        return (activated * (self.LINEAR_BETA * torch.tanh(linear / self.LINEAR_BETA))).to(gate.dtype)


GLUS: dict[str, Glu] = {**{name: Glu(act) for name, act in ACTIVATIONS.items()}, "situ": SituGlu()}
"""Gated activations by name."""
