"""Rotary position embedding, as a spec writes it. It changes no size: the cross-check's twin computes with it."""

from typing import Literal, Self

from pydantic import PositiveFloat, model_validator

from archcalc.arch.block import Real
from archcalc.errors import FieldError
from archcalc.section import About, Section, Size


class RopeScaling(Section):
    """Rotary scaling beyond the pretrained context; keys as in Hugging Face configs. It changes no size."""

    about = About(
        "Rotary scaling beyond the pretrained context; keys as in Hugging Face configs. It changes no size",
        type="`yarn` (arXiv:2309.00071), `llama3` or `linear`",
        factor="How much longer the context gets",
        original_max_position_embeddings="Context of pretraining [tokens]",
        beta_fast="YaRN: rotations over the original context above which a feature is not stretched",
        beta_slow="YaRN: rotations below which it is stretched in full",
        mscale="YaRN: factor of attention's temperature",
        mscale_all_dim="YaRN: the same for all features (DeepSeek-V2)",
        low_freq_factor="Llama 3: wavelengths above original context / this are stretched in full",
        high_freq_factor="Llama 3: wavelengths below original context / this are not stretched",
    )

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
    """The rotary embedding of one kind of attention, where it is not the backbone's."""

    about = About(
        "The rotary embedding of one kind of attention, where it is not the backbone's (Gemma 3's local layers)",
        rope_theta="Base of the rotary embedding; null: this attention does not rotate (Llama 4's NoPE layers)",
        rope_scaling="Stretching beyond the pretrained context; null: none",
    )

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
