"""Rotary position embedding, as a spec writes it. It changes no size: the cross-check's twin computes with it."""

from typing import Literal, Self

from pydantic import PositiveFloat, model_validator

from archcalc.arch.block import Real
from archcalc.errors import FieldError
from archcalc.section import Section, Size


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


class RopeParameters(Section):
    """The rotary embedding of one kind of attention, where it is not the backbone's (Gemma 3's local layers).

    `rope_theta` is null where this attention does not rotate at all (Llama 4's NoPE layers).
    """

    rope_theta: Real | None
    rope_scaling: RopeScaling | None = None

    @model_validator(mode="after")
    def _something_to_scale(self) -> Self:
        check_scaling(self.rope_theta, self.rope_scaling)
        return self


def check_scaling(theta: float | None, scaling: RopeScaling | None) -> None:
    """Raises FieldError for a scaling of what does not rotate."""
    if theta is None and scaling is not None:
        raise FieldError("rope_scaling without rope_theta", "rope_scaling", "rope_theta")
