"""Rotary position embedding, as a spec writes it. It changes no size: the cross-check's twin computes with it."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveFloat

from archcalc.arch.block import Real, Section, Size


class RopeScaling(Section):
    """Rotary scaling beyond the pretrained context; keys as in Hugging Face configs. It changes no size."""

    type: Literal["yarn", "llama3", "linear"]
    factor: Real
    original_max_position_embeddings: Size | None = None
    beta_fast: PositiveFloat | None = None
    beta_slow: PositiveFloat | None = None
    mscale: PositiveFloat | None = None
    mscale_all_dim: PositiveFloat | None = None
    low_freq_factor: PositiveFloat | None = None
    high_freq_factor: PositiveFloat | None = None
