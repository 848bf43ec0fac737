"""One product per expert over rows sorted by expert.

Legend: R rows, E experts, I and O features in and out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from archcalc.reference.kernels import fp8


class GroupedLinear(torch.autograd.Function):
    """Keeps the rows [R,I], or in their place their FP8 codes and scales, where the weight has a gradient, and the
    weight. The split of the rows is
    a list of host integers in TransformerEngine's grouped linear; plain PyTorch keeps it as a tensor, which
    `keep_ends` imitates."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, ends: Tensor, keep_ends: bool, *codes: Tensor) -> Tensor:
        ctx.codes = len(codes)
        ctx.ends = None if keep_ends else ends
        rows = (codes or (x,)) if ctx.needs_input_grad[1] else ()
        ctx.save_for_backward(weight, *rows, *([ends] if keep_ends else []))
        if x.is_meta:  # without data there is nothing to multiply, and no alignment to ask for
            return x.new_empty(x.shape[0], weight.shape[1])
        out: Tensor = torch._grouped_mm(x, weight.transpose(-2, -1), offs=ends)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        weight, *kept = ctx.saved_tensors
        ends = kept.pop() if ctx.ends is None else ctx.ends
        gradient = gradient.contiguous()
        d_x = torch._grouped_mm(gradient, weight, offs=ends)
        if not kept:  # a frozen weight (TransformerEngine, pytorch/module/grouped_linear.py)
            return d_x, None, None, None, *[None] * ctx.codes
        x = fp8.load(*kept) if ctx.codes else kept[0]
        d_weight = torch._grouped_mm(gradient.transpose(0, 1), x, offs=ends)  # [O,R] x [R,I] -> [E,O,I]
        return d_x, d_weight, None, None, *[None] * ctx.codes
