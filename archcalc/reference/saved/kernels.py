"""The operations that a kernel profile decides, behind one interface.

Legend: T tokens, R routed rows, K experts a token, E experts, F features, W hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor
from torch.nn import functional

from archcalc.errors import InputError
from archcalc.reference.saved.options import Options


class Kernels(Protocol):
    """One profile's operations. All else (linears, rope, adds, top-k) is plain PyTorch in both profiles."""

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """RMSNorm over the last axis, [..., F] -> the same (arXiv:1910.07467)."""

    def zero_centered_rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """RMSNorm whose factor is 1 + weight, all in fp32 (Gemma), [..., F] -> the same."""

    def gated(self, gate_up: Tensor, probs: Tensor | None, act: str, *, fp8: bool) -> Tensor:
        """act(gate) * up [* probs]: [R,2F], [R] -> [R,F]; `fp8` keeps gate_up in FP8 (arXiv:2002.05202)."""

    def router_logits(self, x: Tensor, weight: Tensor) -> Tensor:
        """[T,W] bf16, [E,W] bf16 -> [T,E] fp32."""

    def grouped_linear(self, x: Tensor, weight: Tensor, ends: Tensor, *, fp8: bool) -> Tensor:
        """[R,in] sorted by expert, [E,out,in], last row of each expert [E] int32 -> [R,out]."""

    def permute(self, x: Tensor, weights: Tensor, order: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
        """x [T,W], weights [T,K], order and token [R] int64 -> rows [R,W] and their probabilities [R]."""

    def unpermute(self, rows: Tensor, token: Tensor, tokens: int) -> Tensor:
        """[R,W] -> [T,W], each token the sum of its rows."""

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean loss over tokens of [T,V] bf16 logits, computed in fp32."""


def kernels_of(options: Options) -> Kernels:
    """The profile that the options name."""
    from archcalc.reference.saved.eager import Eager
    from archcalc.reference.saved.fused import Fused

    return Fused() if options.fused else Eager()


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """`silu`, `gelu` (erf) or `gelu_pytorch_tanh`.

    Raises:
        InputError: for another name.
    """
    known: dict[str, Callable[[Tensor], Tensor]] = {
        "silu": functional.silu,
        "gelu": functional.gelu,
        "gelu_pytorch_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    }
    if name not in known:
        raise InputError(f"hidden_act: {name} is none of {', '.join(known)}", value=name)
    return known[name]
