"""FP8 as a format to keep a tensor in: e4m3 codes and an fp32 scale for each 1x128 tile (arXiv:2412.19437,
3.3.2).

Bytes of a [rows, last] tensor: rows * last + 4 * rows * ceil(last / 128). Compute stays in bf16.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

TILE = 128
LARGEST = 448.0
"""Largest finite e4m3 value."""


def store(x: Tensor) -> tuple[Tensor, Tensor]:
    """[..., last] -> codes of the same shape, scales [..., ceil(last/128)] fp32."""
    last = x.shape[-1]
    tiles = functional.pad(x.float(), (0, -last % TILE)).unflatten(-1, (-1, TILE))
    scales = tiles.abs().amax(-1).clamp_min(1e-12) / LARGEST
    codes = (tiles / scales[..., None]).flatten(-2)[..., :last].to(torch.float8_e4m3fn)
    return codes.contiguous(), scales


def load(codes: Tensor, scales: Tensor) -> Tensor:
    """The bf16 tensor again, each element off by at most 1/16 of itself."""
    last = codes.shape[-1]
    each = scales.repeat_interleave(TILE, dim=-1)[..., :last]
    return (codes.float() * each).to(torch.bfloat16)
