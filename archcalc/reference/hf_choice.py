"""A public class of transformers with its config, and the parts of a config that several classes share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from archcalc.errors import InputError
from archcalc.reference.fields import Section


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A public class by name, and the keyword arguments of its config class.

    Attributes:
        model: class name in transformers, such as `DeepseekV3ForCausalLM`.
        config: its config class's name.
        arguments: keyword arguments of the config.
        multimodal: whether it is Kimi K2.5's class, with vision tower and projector.
    """

    model: str
    config: str
    arguments: dict[str, Any]
    multimodal: bool = False


def rope_parameters(section: Section) -> dict[str, Any]:
    """transformers' form of a section's `rope_theta` and `rope_scaling`.

    Raises:
        InputError: when nothing rotates.
    """
    if not section.has("rope_theta"):
        raise InputError(f"transformers has no class that the twin knows without rotation: {section.where}.rope_theta")
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": section.number("rope_theta")}
    scaling = section.optional_section("rope_scaling")
    if scaling is not None:
        values = scaling.plain()
        rope |= {"rope_type": values.pop("type", None) or values.pop("rope_type"), **values}
    return rope


def sizes(backbone: Section, depth: int) -> dict[str, Any]:
    """What every text config has, but for rope and activation."""
    return {
        "vocab_size": backbone.integer("vocab_size"),
        "hidden_size": backbone.integer("hidden_size"),
        "num_hidden_layers": depth,
        "max_position_embeddings": backbone.integer("max_position_embeddings", 4096),
        "rms_norm_eps": backbone.number("rms_norm_eps"),
        "tie_word_embeddings": backbone.flag("tie_word_embeddings"),
    }


PLAIN_EXPERTS: dict[str, object] = {
    "gated": True,
    "expert_bias": False,
    "router_bias": "none",
    "correction_bias": "buffer",
    "shared_expert_gate": False,
    "shared_name": "shared_experts",
    "latent_moe_use_norm": False,
}
"""What the known classes' experts are like."""


def refuse_unlike(section: Section, plain: dict[str, object]) -> None:
    """Refuse keys with other values than those that the known classes have built in.

    Raises:
        InputError: naming the first of them.
    """
    for key, value in section.plain().items():
        if key in plain and value != plain[key]:
            raise InputError(f"transformers has no class that the twin knows with {section.where}.{key} {value}")


def refuse_keys(section: Section, *keys: str) -> None:
    """Refuse keys that no class which the twin knows has an argument for.

    Raises:
        InputError: naming the first that has a value.
    """
    for key in keys:
        if section.has(key):
            raise InputError(f"transformers has no class that the twin knows with {section.where}.{key}")
