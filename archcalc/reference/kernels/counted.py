"""Plain operations whose FLOPs torch counts by its own rules, and that cost little where there is no data.

On meta only shapes and the gradient's way matter, and a norm counts no FLOPs: there it is the product with
the weight alone. The statistics take torch some twenty slow data-less steps, forward and backward, and were
nearly half the time of a whole model's count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor

from archcalc.reference.kernels import delta
from archcalc.reference.kernels.eager import Activation, Eager


class Counted(Eager):
    """See `Eager` for the shapes."""

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float, *, zero_centered: bool) -> Tensor:
        return x * weight if x.is_meta else super().rms_norm(x, weight, eps, zero_centered=zero_centered)

    def layer_norm(self, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
        if not x.is_meta:
            return super().layer_norm(x, weight, bias, eps)
        scaled = x if weight is None else x * weight
        return scaled if bias is None else scaled + bias

    def short_conv(self, x: Tensor, held: Tensor | None, weight: Tensor, act: Activation) -> Tensor:
        return delta.counted_conv(x, held, weight, act)

    def gated_norm(self, x: Tensor, gate: Tensor, weight: Tensor, eps: float, *, sigmoid: bool) -> Tensor:
        if x.is_meta:
            return x * weight * gate
        return super().gated_norm(x, gate, weight, eps, sigmoid=sigmoid)

    def grouped_linear(self, x: Tensor, weight: Tensor, ends: Tensor, codes: tuple[Tensor, ...]) -> Tensor:
        """Neighbours with equal counts share one batched product, so torch counts exactly 2*R*in*out FLOPs by
        its own rule for `bmm`: nothing has to be registered, as it would for `_grouped_mm`, which torch
        counts as zero. Without data the load is balanced.
        """
        counts = balanced(len(x), len(weight)) if x.is_meta else ends.diff(prepend=ends.new_zeros(1)).tolist()
        blocks = list(runs(counts))
        row_blocks = x.split([number * each for number, each in blocks])
        matrices = weight.split([number for number, _ in blocks])
        pieces = [
            torch.bmm(block.view(number, each, -1), matrix.transpose(1, 2)).flatten(0, 1)
            for (number, each), block, matrix in zip(blocks, row_blocks, matrices, strict=True)
            if each
        ]
        return torch.cat(pieces)


def runs(values: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(how many, value) for each run of equal neighbours."""
    return ((len(list(same)), value) for value, same in groupby(values))


def balanced(rows: int, experts: int) -> list[int]:
    """Rows of each expert when no two differ by more than one; they add up to `rows`."""
    each, extra = divmod(rows, experts)
    return [each + 1] * extra + [each] * (experts - extra)
