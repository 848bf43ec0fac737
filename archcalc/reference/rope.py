"""Rotary position embedding (RoFormer, arXiv:2104.09864) with the published ways to stretch it.

YaRN: arXiv:2309.00071, with the mscale pair of DeepSeek's public modeling code. linear: arXiv:2306.15595. llama3: the
frequency rule that came with Llama 3.1. Legend: N rows, D rotated features, H heads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from archcalc.errors import InputError
from archcalc.reference.fields import Section

Angles: TypeAlias = Tensor
"""amplitude * exp(i angle) of each row and pair: complex64 [N, D/2]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """What a scaling rule makes of the plain frequencies.

    Attributes:
        frequencies: [D/2] radians a position, fp32.
        amplitude: factor on the rotated features.
        softmax: factor on the attention scores' scale, for attention types that ask for it (MLA).
    """

    frequencies: Tensor
    amplitude: float = 1.0
    softmax: float = 1.0


class Rope(nn.Module):
    """Angles for absolute positions. Its frequencies are a derived buffer, never in a checkpoint.

    Args:
        dim: rotated features of a head [elements], even.
        theta: base of the geometric series.
        scaling: the spec's `rope_scaling` section, or None.

    Raises:
        InputError: an odd `dim`: features turn in pairs.
    """

    frequencies: Tensor

    def __init__(self, dim: int, theta: float, scaling: Section | None, device: torch.device) -> None:
        super().__init__()
        if dim % 2:
            raise InputError(f"rotary embedding turns features in pairs, and {dim} of a head is odd", value=dim)
        exponents = torch.arange(0, dim, 2, dtype=torch.float32) / dim
        stretch = stretched(1.0 / theta**exponents, dim, theta, scaling)
        self.amplitude = stretch.amplitude
        self.softmax = stretch.softmax
        self.register_buffer("frequencies", stretch.frequencies.to(device), persistent=False)

    def forward(self, positions: Tensor) -> Angles:
        """[N] positions -> [N, D/2]."""
        angles = positions.to(torch.float32)[:, None] * self.frequencies
        return torch.polar(torch.full_like(angles, self.amplitude), angles)


def rope_of(section: Section, dim: int, device: torch.device) -> Rope | None:
    """The rotary embedding that a section says, the backbone or an attention's own; None if `rope_theta` is null.

    Raises:
        InputError: a `rope_scaling` without anything to stretch.
    """
    if section.has("rope_theta"):
        return Rope(dim, section.number("rope_theta"), section.optional_section("rope_scaling"), device)
    if section.has("rope_scaling"):
        raise InputError(f"{section.where}.rope_scaling stretches nothing: rope_theta is null")
    return None


def own_rope(attention: Section, dim: int, device: torch.device) -> Rope | None:
    """The rotary embedding of an attention section with `rope_parameters`; None if their `rope_theta` is null.

    Raises:
        InputError: an unknown key of theirs, or a `rope_scaling` without anything to stretch.
    """
    section = attention.section("rope_parameters")
    made = rope_of(section, dim, device)
    section.finish()
    return made


def stretched(plain: Tensor, dim: int, theta: float, scaling: Section | None) -> Stretch:
    """The frequencies under the spec's scaling rule.

    Raises:
        InputError: for a rule that is neither default, yarn nor llama3, or for a key that the rule doesn't
            have.
    """
    if scaling is None:
        return Stretch(frequencies=plain)
    rule = scaling.choice("rope_type" if scaling.has("rope_type") else "type", "default", "linear", "yarn", "llama3")
    if rule == "yarn":
        result = _yarn(plain, dim, theta, scaling)
    elif rule == "llama3":
        result = _llama3(plain, scaling)
    elif rule == "linear":
        result = Stretch(frequencies=plain / scaling.number("factor"))
    else:
        result = Stretch(frequencies=plain)
    scaling.finish()
    return result


def _yarn(plain: Tensor, dim: int, theta: float, scaling: Section) -> Stretch:
    factor = scaling.number("factor")
    original = scaling.integer("original_max_position_embeddings")

    def feature_that_turns(
        times: float,
    ) -> float:  # index of the pair that turns so often within the original context
        return dim * math.log(original / (times * 2 * math.pi)) / (2 * math.log(theta))

    low = max(math.floor(feature_that_turns(scaling.number("beta_fast", 32.0))), 0)
    high = min(math.ceil(feature_that_turns(scaling.number("beta_slow", 1.0))), dim - 1)
    width = high - low if high != low else 0.001
    slow = ((torch.arange(dim // 2, dtype=torch.float32) - low) / width).clamp(0, 1)
    mscale, mscale_all_dim = scaling.number("mscale", 1.0), scaling.number("mscale_all_dim", 0.0)
    return Stretch(
        frequencies=plain / factor * slow + plain * (1 - slow),
        amplitude=_mscale(factor, mscale) / _mscale(factor, mscale_all_dim),
        softmax=_mscale(factor, mscale_all_dim) ** 2,
    )


def _mscale(factor: float, weight: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0


def _llama3(plain: Tensor, scaling: Section) -> Stretch:
    factor = scaling.number("factor")
    low, high = scaling.number("low_freq_factor"), scaling.number("high_freq_factor")
    turns = scaling.integer("original_max_position_embeddings") * plain / (2 * math.pi)
    keep = ((turns - low) / (high - low)).clamp(0, 1)  # 1: a fast pair, left alone; 0: a slow one, divided
    return Stretch(frequencies=plain * keep + plain / factor * (1 - keep))


def rotate_unfused(x: Tensor, angles: Angles, *, pairs: bool = False) -> Tensor:
    """[..., N, H, D] -> the same, without a kernel: cos and sin in x's dtype, made for this tensor alone, which the two
    products keep; `pairs` are first put into halves (Megatron-LM, core/models/common/embeddings/rope_utils.py,
    `_apply_rotary_pos_emb_bshd`)."""
    turning = 2 * angles.shape[-1]
    turned, rest = x[..., :turning], x[..., turning:]
    if pairs:
        turned = torch.cat((turned[..., 0::2], turned[..., 1::2]), dim=-1)
    cos, sin = (torch.cat((part, part), dim=-1).to(x.dtype)[:, None] for part in (angles.real, angles.imag))
    first, second = turned.chunk(2, dim=-1)
    turned = turned * cos + torch.cat((-second, first), dim=-1) * sin
    return torch.cat((turned, rest), dim=-1)


def rotate_pairs(x: Tensor, angles: Angles) -> Tensor:
    """[..., N, H, D] -> the same; features (0, 1), (2, 3), ... turn together (DeepSeek, MoonViT
    checkpoints)."""
    turned = _turned(x.unflatten(-1, (-1, 2)).unbind(-1), angles)
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)


def rotate_halves(x: Tensor, angles: Angles) -> Tensor:
    """[..., N, H, D] -> the same; feature i turns with feature i + D/2 (Llama's public modeling code)."""
    turned = _turned(x.chunk(2, dim=-1), angles)
    return torch.cat((turned.real, turned.imag), dim=-1).to(x.dtype)


def rotate_first(x: Tensor, angles: Angles) -> Tensor:
    """[..., N, H, D] -> the same; of a head the first features turn, as many as there are angles for, by halves; the
    others are put beside them as they are (transformers, models/minimax_m2, `apply_rotary_pos_emb`)."""
    turning = 2 * angles.shape[-1]
    if turning == x.shape[-1]:
        return rotate_halves(x, angles)
    return torch.cat((rotate_halves(x[..., :turning], angles), x[..., turning:]), dim=-1)


def _turned(parts: Sequence[Tensor], angles: Angles) -> Tensor:
    """Real and imaginary parts [..., N, H, D/2] -> complex64. For backward only the angles are kept, as by public
    code the cosines and sines; `torch.complex` would keep its operands."""
    return torch.view_as_complex(torch.stack(parts, dim=-1).float()) * angles[:, None]
