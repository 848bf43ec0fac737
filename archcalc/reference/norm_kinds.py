"""The kinds of layer norms that a spec can name, and the epsilon that goes with each. Plain data, no torch."""

from __future__ import annotations

from dataclasses import dataclass

from archcalc.reference.fields import Section

RMS = ("rms", "rms_zero_centered")
"""Root mean square: Llama's, and Gemma's, whose weight counts from 1."""

LAYER = ("layer", "layer_no_bias", "none")
"""LayerNorm with weight and bias, with a weight alone (Cohere), and without either (OLMo 1)."""

KINDS = RMS + LAYER

OLMO_EPS = 1e-5
"""Epsilon of the norm without parameters, fixed in transformers/models/olmo/modeling_olmo.py."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NormKind:
    """A norm without its features.

    Attributes:
        name: one of `KINDS`.
        eps: added to the mean square, or to the variance, before the root.
    """

    name: str
    eps: float


def norm_name(section: Section, key: str = "norm", default: str = "rms") -> str:
    """The kind that `key` names, one of `KINDS`."""
    return section.choice(key, *KINDS, default=default)


def norm_kind(backbone: Section, name: str) -> NormKind:
    """A kind with the backbone's epsilon: `rms_norm_eps` for `RMS`, `layer_norm_eps` for `LAYER`.

    Raises:
        InputError: when the epsilon is missing. `none` falls back on OLMo's.
    """
    if name in RMS:
        return NormKind(name=name, eps=backbone.number("rms_norm_eps"))
    return NormKind(name=name, eps=backbone.number("layer_norm_eps", OLMO_EPS if name == "none" else None))
