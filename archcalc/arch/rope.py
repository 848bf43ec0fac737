"""Rotary position embedding, as a spec writes it. It changes no size: the cross-check's twin computes with it."""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, model_validator

from archcalc.errors import FieldError
from archcalc.section import About, Section, Size

Base = Annotated[float, Field(gt=1)]
"""Base of a rotary embedding: frequencies fall from 1 to about 1 / base (RoFormer, arXiv:2104.09864, section 3.2.2)."""

NEEDED: Mapping[str, tuple[str, ...]] = {
    "yarn": ("original_max_position_embeddings",),
    "llama3": ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
    "linear": (),
}
"""What a kind of scaling can't be computed without, beside `factor` (transformers, modeling_rope_utils.py)."""

READ: Mapping[str, tuple[str, ...]] = {
    "yarn": (*NEEDED["yarn"], "beta_fast", "beta_slow", "mscale", "mscale_all_dim"),
    "llama3": NEEDED["llama3"],
    "linear": (),
}
"""What a kind of scaling reads beside `factor`."""


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
    factor: Annotated[float, Field(ge=1)]
    original_max_position_embeddings: Size | None = None
    beta_fast: PositiveFloat | None = None
    beta_slow: PositiveFloat | None = None
    mscale: PositiveFloat | None = None
    mscale_all_dim: PositiveFloat | None = None
    low_freq_factor: PositiveFloat | None = None
    high_freq_factor: PositiveFloat | None = None

    @model_validator(mode="after")
    def _of_its_type(self) -> Self:
        for key in NEEDED[self.type]:
            if getattr(self, key) is None:
                raise FieldError(f"{key} is missing: {self.type} can't be computed without it", "type")
        for key in type(self).model_fields:
            if key not in ("type", "factor", *READ[self.type]) and getattr(self, key) is not None:
                raise FieldError(f"{key} is read by no scaling of type {self.type}", key, "type")
        for less, more in (("beta_slow", "beta_fast"), ("low_freq_factor", "high_freq_factor")):
            one, other = getattr(self, less), getattr(self, more)
            if one is not None and other is not None and one > other:
                raise FieldError(f"{less} {one} is more than {more} {other}: between the two lies a ramp", less, more)
        return self


class RopeParameters(Section):
    """The rotary embedding of one kind of attention, where it is not the backbone's."""

    about = About(
        "The rotary embedding of one kind of attention, where it is not the backbone's (Gemma 3's local layers)",
        rope_theta="Base of the rotary embedding; null: this attention does not rotate (Llama 4's NoPE layers)",
        rope_scaling="Stretching beyond the pretrained context; null: none",
    )

    rope_theta: Base | None
    rope_scaling: RopeScaling | None = None

    @model_validator(mode="after")
    def _something_to_scale(self) -> Self:
        check_scaling(self.rope_theta, self.rope_scaling)
        return self


def check_scaling(theta: float | None, scaling: RopeScaling | None) -> None:
    """Raises FieldError for a scaling of what does not rotate."""
    if theta is None and scaling is not None:
        raise FieldError("rope_scaling without rope_theta", "rope_scaling", "rope_theta")


def original_of(scaling: RopeScaling) -> int:
    """The context before it was stretched; 0 where nothing says it [tokens]."""
    return scaling.original_max_position_embeddings or 0
