"""Autograd functions that keep what the kernels of Megatron-LM and TransformerEngine keep.

Each class names the public code that it follows. Values are computed the plain way; only what is kept is
imitated.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from archcalc.reference.activations import ACTIVATIONS, Glu
from archcalc.reference.kernels import delta
from archcalc.reference.kernels import fp8 as tiles
from archcalc.reference.kernels.eager import Activated, Activation, Eager
from archcalc.reference.kernels.grouped import GroupedLinear


class Fused(Eager):
    """See `Eager` for the shapes."""

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float, *, zero_centered: bool) -> Tensor:
        return _RMSNorm.apply(x, weight, eps, 1.0 if zero_centered else 0.0)

    def gated(self, gate: Tensor, up: Tensor, probs: Tensor | None, glu: Glu, *, fp8: bool) -> Tensor:
        return _Gated.apply(gate, up, probs, glu, fp8)

    def short_conv(self, x: Tensor, held: Tensor | None, weight: Tensor, act: Activation) -> Tensor:
        return delta.fused_conv(x, held, weight, act)

    def decays(self, raw: Tensor, a_log: Tensor, dt_bias: Tensor) -> Tensor:
        return delta.fused_decays(raw, a_log, dt_bias)

    def gated_norm(self, x: Tensor, gate: Tensor, weight: Tensor, eps: float, *, sigmoid: bool) -> Tensor:
        return delta.fused_gated_norm(x, gate, weight, eps, sigmoid=sigmoid)

    def activated(self, x: Tensor, probs: Tensor | None, act: Activation, *, fp8: bool) -> Tensor:
        if probs is None or act is ACTIVATIONS["relu2"]:
            return Activated.apply(x, probs, act, fp8)
        out: Tensor = Activated.apply(x, None, act, fp8)
        return (out * probs[:, None]).to(x.dtype)

    def router_logits(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _RouterLogits.apply(x, weight, bias)

    def expert_bias(
        self, rows: Tensor, bias: Tensor, expert: Tensor, ends: Tensor, probs: Tensor | None = None
    ) -> Tensor:
        return _ExpertBias.apply(rows, bias, probs, ends)

    def gate_output(self, x: Tensor, logits: Tensor) -> Tensor:
        return _GatedOutput.apply(x, logits)

    def grouped_linear(self, x: Tensor, weight: Tensor, ends: Tensor, codes: tuple[Tensor, ...]) -> Tensor:
        return GroupedLinear.apply(x, weight, ends, False, *codes)

    def permute(self, x: Tensor, weights: Tensor, order: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
        return _Permute.apply(x, weights, order, token)

    def unpermute(self, rows: Tensor, token: Tensor, tokens: int) -> Tensor:
        return _Unpermute.apply(rows, token, tokens)

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        losses: Tensor = _CrossEntropy.apply(logits, labels)
        return losses.mean()


class _RMSNorm(torch.autograd.Function):
    """Keeps x and 1/rms in fp32 (TransformerEngine, normalization/rmsnorm: `rsigma`). With `zero_centered_gamma` the
    weight counts from 1, inside the kernel: nothing more is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, centre: float) -> Tensor:
        wide = x.float()
        rstd = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(x, weight, rstd)
        ctx.centre = centre
        return (wide * rstd * (weight.float() + centre)).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight, rstd = ctx.saved_tensors
        unit, slope = x.float() * rstd, gradient.float()
        scaled = slope * (weight.float() + ctx.centre)
        d_x = rstd * (scaled - unit * (scaled * unit).mean(-1, keepdim=True))
        d_weight = (slope * unit).flatten(0, -2).sum(0)
        return d_x.to(x.dtype), d_weight.to(weight.dtype), None, None


class _Gated(torch.autograd.Function):
    """Keeps its inputs, and computes act(gate) again in backward (Megatron-LM,
    core/fusions/fused_bias_swiglu.py; with probabilities: `WeightedSwiGLUFunction`)."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, probs: Tensor | None, glu: Glu, fp8: bool) -> Tensor:
        kept = tiles.store(torch.cat((gate, up), dim=-1)) if fp8 else (gate, up)
        ctx.save_for_backward(probs, *kept)
        ctx.glu, ctx.fp8 = glu, fp8
        return _gated(gate, up, probs, glu)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        probs, *kept = ctx.saved_tensors
        gate, up = tiles.load(*kept).chunk(2, dim=-1) if ctx.fp8 else kept
        given = (gate, up) if probs is None else (gate, up, probs)
        inputs = [tensor.detach().requires_grad_() for tensor in given]
        with torch.enable_grad():
            out = _gated(inputs[0], inputs[1], None if probs is None else inputs[2], ctx.glu)
        d_gate, d_up, *d_probs = torch.autograd.grad(out, inputs, gradient)
        return d_gate, d_up, d_probs[0] if d_probs else None, None, None


def _gated(gate: Tensor, up: Tensor, probs: Tensor | None, glu: Glu) -> Tensor:
    product = glu(gate.float(), up.float())
    return (product if probs is None else product * probs[:, None]).to(gate.dtype)


class _GatedOutput(torch.autograd.Function):
    """Keeps its inputs, and computes the sigmoid again in backward (Megatron-LM, core/transformer/attention.py,
    `_apply_output_gate`, which torch's compiler fuses)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, logits: Tensor) -> Tensor:
        ctx.save_for_backward(x, logits)
        return (x * torch.sigmoid(logits.float())).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, logits = ctx.saved_tensors
        open_ = torch.sigmoid(logits.float())
        slope = gradient.float() * x.float() * open_ * (1 - open_)
        d_logits = slope if logits.shape == x.shape else slope.sum(-1, keepdim=True)
        return (gradient * open_).to(x.dtype), d_logits.to(logits.dtype)


class _RouterLogits(torch.autograd.Function):
    """Keeps the bf16 input and weight, casts both to fp32 on the way (Megatron-LM,
    `RouterGatingLinearFunction`)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.biased = bias is not None
        return functional.linear(x.float(), weight.float(), None if bias is None else bias.float())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        d_bias = gradient.sum(0).to(weight.dtype) if ctx.biased else None
        return (gradient @ weight.float()).to(x.dtype), (gradient.T @ x.float()).to(weight.dtype), d_bias


class _ExpertBias(torch.autograd.Function):
    """Keeps the probabilities, where it is given them, and the bias: the split of the rows is a list of host integers
    (Megatron-LM, core/transformer/moe/experts.py, `TEGroupedMLP._apply_bias`)."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, bias: Tensor, probs: Tensor | None, ends: Tensor) -> Tensor:
        ctx.ends = ends
        ctx.save_for_backward(bias, probs)
        added = bias[_expert_of_each(rows, ends)]
        return rows + (added if probs is None else added * probs[:, None]).to(rows.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        bias, probs = ctx.saved_tensors
        expert = _expert_of_each(gradient, ctx.ends)
        wide = gradient.float()
        d_probs = None if probs is None else (wide * bias[expert].float()).sum(-1).to(probs.dtype)
        scaled = wide if probs is None else wide * probs[:, None]
        d_bias = wide.new_zeros(bias.shape).index_add(0, expert, scaled)
        return gradient, d_bias.to(bias.dtype), d_probs, None


def _expert_of_each(rows: Tensor, ends: Tensor) -> Tensor:
    """The expert of each of the rows [R], from where the experts' rows end [E]."""
    return torch.searchsorted(ends, torch.arange(len(rows), device=ends.device, dtype=ends.dtype), right=True)


class _Permute(torch.autograd.Function):
    """Keeps two row maps, whose token each row is and where it stood in the [T,K] table; neither input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor, order: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(order, token)
        ctx.shapes = x.shape, weights.shape
        return x[token], weights.flatten()[order]

    @staticmethod
    def backward(ctx: Any, d_rows: Tensor, d_probs: Tensor) -> Any:
        order, token = ctx.saved_tensors
        tokens, table = ctx.shapes
        d_x = d_rows.new_zeros(tokens).index_add(0, token, d_rows)
        d_weights = d_probs.new_zeros(table.numel()).index_copy(0, order, d_probs).view(table)
        return d_x, d_weights, None, None


class _Unpermute(torch.autograd.Function):
    """Keeps the row map that `_Permute` kept: the same storage."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, token: Tensor, tokens: int) -> Tensor:
        ctx.save_for_backward(token)
        return rows.new_zeros(tokens, rows.shape[-1]).index_add(0, token, rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (token,) = ctx.saved_tensors
        return gradient[token], None, None


class _CrossEntropy(torch.autograd.Function):
    """Keeps the fp32 softmax, a mask of targets outside this rank's vocabulary, and the targets
    (Megatron-LM, core/tensor_parallel/cross_entropy.py)."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        wide = logits.float()
        wide = wide - wide.amax(-1, keepdim=True)
        picked = wide.gather(-1, labels[:, None])[:, 0]
        softmax = wide.exp()
        total = softmax.sum(-1, keepdim=True)
        softmax = softmax / total
        elsewhere = (labels < 0) | (labels >= logits.shape[-1])
        ctx.save_for_backward(softmax, elsewhere, labels.clone())
        ctx.dtype = logits.dtype
        return total[:, 0].log() - picked

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        softmax, elsewhere, labels = ctx.saved_tensors
        here = torch.where(elsewhere, 0.0, 1.0)[:, None]
        d_logits = softmax.scatter_add(-1, labels[:, None], -here) * gradient[:, None]
        return d_logits.to(ctx.dtype), None
