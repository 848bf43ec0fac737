"""Plain PyTorch operations, as public modeling code (Hugging Face `transformers`) writes them.

What autograd keeps here is PyTorch's own decision, with one exception: storing an input in FP8 is nothing
that plain operations can do, so with FP8 a function keeps the codes and, beside them, what the plain
operations would keep.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from archcalc.reference.activations import Glu
from archcalc.reference.kernels import delta
from archcalc.reference.kernels import fp8 as tiles
from archcalc.reference.kernels.grouped import GroupedLinear

Activation = Callable[[Tensor], Tensor]


class Eager:
    """The operations that kernels decide; all else (linears, rope, adds, top-k) is plain PyTorch however it is run.

    Legend: T tokens, R routed rows, K experts a token, E experts, F features, W hidden size, V vocabulary.
    """

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float, *, zero_centered: bool) -> Tensor:
        """RMSNorm over the last axis, [..., F] -> the same (arXiv:1910.07467).

        Zero-centred, the factor is 1 + weight, and all is done in fp32 (transformers,
        models/gemma3/modeling_gemma3.py, `Gemma3RMSNorm`).
        """
        wide = x.float()
        unit = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
        return (unit * (1.0 + weight.float())).type_as(x) if zero_centered else weight * unit.to(x.dtype)

    def layer_norm(self, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
        """LayerNorm over the last axis, [..., F] -> the same (arXiv:1607.06450): a kernel of torch's own."""
        return functional.layer_norm(x, x.shape[-1:], weight, bias, eps)

    def gated(self, gate: Tensor, up: Tensor, probs: Tensor | None, glu: Glu, *, fp8: bool) -> Tensor:
        """act(gate) * up [* probs]: twice [..., F], [R] -> [..., F] (arXiv:2002.05202); `fp8` keeps both in FP8, where
        they are kept at all."""
        in_fp8 = fp8 and glu.act is not None
        product: Tensor = _GatedFromFp8.apply(gate, up, glu.act) if in_fp8 else glu(gate, up)
        return product if probs is None else product * probs[:, None]

    def short_conv(self, x: Tensor, held: Tensor | None, weight: Tensor, act: Activation) -> Tensor:
        """A causal convolution of each channel, activated; see `delta.short_conv`."""
        return delta.short_conv(x, held, weight, act)

    def decays(self, raw: Tensor, a_log: Tensor, dt_bias: Tensor) -> Tensor:
        """Logs of what a state keeps of a row; see `delta.decays`."""
        return delta.decays(raw, a_log, dt_bias)

    def gated_norm(self, x: Tensor, gate: Tensor, weight: Tensor, eps: float, *, sigmoid: bool) -> Tensor:
        """RMSNorm times a gate's activation; see `delta.gated_norm`."""
        return delta.gated_norm(x, gate, weight, eps, sigmoid=sigmoid)

    def activated(self, x: Tensor, probs: Tensor | None, act: Activation, *, fp8: bool) -> Tensor:
        """act(x) [* probs]: [..., F], [R] -> [..., F]; `fp8` keeps x in FP8."""
        out: Tensor = Activated.apply(x, None, act, True) if fp8 else act(x)
        return out if probs is None else out * probs[:, None]

    def router_logits(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """[T,W], [E,W], [E] or None -> [T,E] fp32."""
        return functional.linear(x.float(), weight.float(), None if bias is None else bias.float())

    def expert_bias(
        self, rows: Tensor, bias: Tensor, expert: Tensor, ends: Tensor, probs: Tensor | None = None
    ) -> Tensor:
        """Rows [R,out] plus their experts' biases [E,out] [* probs]; the experts of the rows [R] int64, and `ends` as
        in `grouped_linear` (transformers, integrations/moe.py, looks the biases up)."""
        return rows + (bias[expert] if probs is None else bias[expert] * probs[:, None])

    def gate_output(self, x: Tensor, logits: Tensor) -> Tensor:
        """x * sigmoid(logits), [..., H, F] and [..., H, F or 1] -> [..., H, F] (transformers,
        models/qwen3_next/modeling_qwen3_next.py, `Qwen3NextAttention`)."""
        return x * torch.sigmoid(logits)

    def grouped_linear(self, x: Tensor, weight: Tensor, ends: Tensor, codes: tuple[Tensor, ...]) -> Tensor:
        """[R,in] sorted by expert, [E,out,in], one past the last row of each expert [E] int32 -> [R,out]; with
        `codes`, x in FP8, those are kept in its place."""
        aligned = weight.shape[1] % 8 == 0 and weight.shape[2] % 8 == 0  # rows of 16 bytes of bf16, as torch asks for
        if codes or not aligned or x.dtype != torch.bfloat16:
            out: Tensor = GroupedLinear.apply(x, weight, ends, True, *codes)
        else:
            out = torch._grouped_mm(x, weight.transpose(-2, -1), offs=ends)
        return out

    def permute(self, x: Tensor, weights: Tensor, order: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
        """x [T,W], weights [T,K], order and token [R] int64 -> rows [R,W] and their probabilities [R]."""
        return x[token], weights.to(x.dtype).flatten()[order]

    def unpermute(self, rows: Tensor, token: Tensor, tokens: int) -> Tensor:
        """[R,W] -> [T,W], each token the sum of its rows."""
        return rows.new_zeros(tokens, rows.shape[-1]).index_add(0, token, rows)

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean loss over tokens of [T,V] logits, computed in fp32."""
        return functional.cross_entropy(logits.float(), labels)


class Activated(torch.autograd.Function):
    """act(x) [* probs] that keeps x, or its FP8 codes, and the probabilities (Megatron-LM,
    core/fusions/fused_weighted_squared_relu.py)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, probs: Tensor | None, act: Activation, fp8: bool) -> Tensor:
        kept = tiles.store(x) if fp8 else (x,)
        ctx.save_for_backward(probs, *kept)
        ctx.act, ctx.fp8 = act, fp8
        return _activated(x, probs, act)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        probs, *kept = ctx.saved_tensors
        x = tiles.load(*kept) if ctx.fp8 else kept[0]
        given = (x,) if probs is None else (x, probs)
        inputs = [tensor.detach().requires_grad_() for tensor in given]
        with torch.enable_grad():
            out = _activated(inputs[0], None if probs is None else inputs[1], ctx.act)
        d_x, *d_probs = torch.autograd.grad(out, inputs, gradient)
        return d_x, d_probs[0] if d_probs else None, None, None


def _activated(x: Tensor, probs: Tensor | None, act: Activation) -> Tensor:
    out = act(x.float())
    return (out if probs is None else out * probs[:, None]).to(x.dtype)


class _GatedFromFp8(torch.autograd.Function):
    """act(gate) * up that keeps gate and up in FP8 and act(gate) in bf16."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, act: Activation) -> Tensor:
        activated = act(gate)
        ctx.save_for_backward(*tiles.store(torch.cat((gate, up), dim=-1)), activated)
        ctx.act = act
        return activated * up

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        codes, scales, activated = ctx.saved_tensors
        gate, up = tiles.load(codes, scales).chunk(2, dim=-1)
        gate = gate.detach().requires_grad_()
        with torch.enable_grad():
            again = ctx.act(gate)
        (d_gate,) = torch.autograd.grad(again, gate, gradient * up)
        return d_gate, gradient * activated, None
