"""The eager profile: plain PyTorch operations, as public modeling code (Hugging Face `transformers`) writes
them.

What autograd keeps here is PyTorch's own decision, with one exception: storing an input in FP8 is nothing
that plain operations can do, so with `fp8` a function keeps the codes and, beside them, what the plain
operations would keep.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from archcalc.reference.saved import fp8 as tiles
from archcalc.reference.saved.grouped import GroupedLinear
from archcalc.reference.saved.kernels import activation


class Eager:
    """See `Kernels` for the shapes."""

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.float()
        unit = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
        return weight * unit.to(x.dtype)

    def zero_centered_rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.float()
        unit = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
        return (unit * (1.0 + weight.float())).type_as(x)

    def gated(self, gate_up: Tensor, probs: Tensor | None, act: str, *, fp8: bool) -> Tensor:
        if fp8:
            product: Tensor = _GatedFromFp8.apply(gate_up, act)
        else:
            gate, up = gate_up.chunk(2, dim=-1)
            product = activation(act)(gate) * up
        return product if probs is None else product * probs[:, None]

    def router_logits(self, x: Tensor, weight: Tensor) -> Tensor:
        return functional.linear(x.float(), weight.float())

    def grouped_linear(self, x: Tensor, weight: Tensor, ends: Tensor, *, fp8: bool) -> Tensor:
        aligned = weight.shape[1] % 8 == 0 and weight.shape[2] % 8 == 0  # rows of 16 bytes of bf16, as torch asks for
        if fp8 or not aligned or x.dtype != torch.bfloat16:
            out: Tensor = GroupedLinear.apply(x, weight, ends, fp8, True)
        else:
            out = torch._grouped_mm(x, weight.transpose(-2, -1), offs=ends)
        return out

    def permute(self, x: Tensor, weights: Tensor, order: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
        return x[token], weights.to(x.dtype).flatten()[order]

    def unpermute(self, rows: Tensor, token: Tensor, tokens: int) -> Tensor:
        return rows.new_zeros(tokens, rows.shape[-1]).index_add(0, token, rows)

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(logits.float(), labels)


class _GatedFromFp8(torch.autograd.Function):
    """act(gate) * up that keeps gate and up in FP8 and act(gate) in bf16."""

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor, act: str) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        activated = activation(act)(gate)
        ctx.save_for_backward(*tiles.store(gate_up), activated)
        ctx.act = act
        return activated * up

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        codes, scales, activated = ctx.saved_tensors
        gate, up = tiles.load(codes, scales).chunk(2, dim=-1)
        gate = gate.detach().requires_grad_()
        with torch.enable_grad():
            again = activation(ctx.act)(gate)
        (d_gate,) = torch.autograd.grad(again, gate, gradient * up)
        return torch.cat((d_gate, gradient * activated), dim=-1), None
