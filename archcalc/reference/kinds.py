"""The kinds of attention, by the name that a spec gives them."""

from __future__ import annotations

from archcalc.errors import InputError
from archcalc.reference.attention import Attention
from archcalc.reference.delta import KDA, GatedDeltaNet
from archcalc.reference.factory import Factory
from archcalc.reference.fields import Section
from archcalc.reference.gqa import GQA
from archcalc.reference.mla import MLA
from archcalc.reference.norm_kinds import norm_kind, norm_name
from archcalc.reference.rope import Rope

ATTENTIONS: dict[str, type[Attention]] = {"mla": MLA, "gqa": GQA, "gated_deltanet": GatedDeltaNet, "kda": KDA}
"""Kind -> class. `add_attention` adds one."""


def add_attention(kind: str, made: type[Attention]) -> None:
    """Make a kind known.

    Raises:
        InputError: when it is known already.
    """
    if kind in ATTENTIONS:
        raise InputError(f"the attention kind {kind} is {ATTENTIONS[kind].__name__} already", value=kind)
    ATTENTIONS[kind] = made


def attention_class(section: Section) -> type[Attention]:
    """The class of an attention section."""
    return ATTENTIONS[section.choice("kind", *ATTENTIONS)]


def make_attention(section: Section, backbone: Section, rope: Rope | None, make: Factory) -> Attention:
    """An attention section as a module.

    Args:
        section: it.
        backbone: the spec's section around it.
        rope: what `attention_class(section).rotation` gives.

    Raises:
        InputError: for a missing or unknown key, naming it.
    """
    kind = attention_class(section)
    softmax = 1.0 if rope is None else rope.softmax
    norm = norm_kind(backbone, norm_name(backbone))
    made = kind(section, backbone.integer("hidden_size"), norm, softmax, make)
    section.finish()
    return made
