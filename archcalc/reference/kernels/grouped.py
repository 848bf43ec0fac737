"""One product per expert over rows sorted by expert.

Legend: R rows, E experts, I and O features in and out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from archcalc.reference.kernels import fp8


class GroupedLinear(torch.autograd.Function):
    """Keeps the rows [R,I], or in their place their FP8 codes and scales, and the weight. The split of the rows is
    a list of host integers in TransformerEngine's grouped linear; plain PyTorch keeps it as a tensor, which
    `keep_ends` imitates."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, ends: Tensor, keep_ends: bool, *codes: Tensor) -> Tensor:
        ctx.codes = len(codes)
        ctx.ends = None if keep_ends else ends
        ctx.save_for_backward(weight, *(codes or (x,)), *([ends] if keep_ends else []))
        if x.is_meta:  # without data there is nothing to multiply, and no alignment to ask for
            return x.new_empty(x.shape[0], weight.shape[1])
        out: Tensor = torch._grouped_mm(x, weight.transpose(-2, -1), offs=ends)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        weight, *kept = ctx.saved_tensors
        ends = kept.pop() if ctx.ends is None else ctx.ends
        x = fp8.load(*kept) if ctx.codes else kept[0]
        gradient = gradient.contiguous()
        d_x = torch._grouped_mm(gradient, weight, offs=ends)
        d_weight = torch._grouped_mm(gradient.transpose(0, 1), x, offs=ends)  # [O,R] x [R,I] -> [E,O,I]
        return d_x, d_weight, None, None, *[None] * ctx.codes
