"""Gemma 3 of Hugging Face transformers: norms around every mixer, local and global attention in turns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from archcalc.errors import InputError
from archcalc.reference.fields import Section
from archcalc.reference.hf_choice import Choice, refuse_keys, rope_parameters, sizes
from archcalc.reference.patterns import LayerKind

_OWN = ("sliding_window", "rope_parameters")
"""What the two attention sections may differ by."""


def gemma(backbone: Section, kinds: Sequence[LayerKind]) -> Choice:
    """`Gemma3ForCausalLM` for layers of attention and MLP, both with norms before and behind them.

    Raises:
        InputError: for anything that the class has no argument for.
    """
    if backbone.integer("num_nextn_predict_layers", 0):
        raise InputError("Gemma3ForCausalLM has no prediction modules")
    names = [kind[0].name for kind in kinds]
    sections = {name: backbone.section("attention").section(name) for name in dict.fromkeys(names)}
    types = {name: _layer_type(section) for name, section in sections.items()}
    if len(set(types.values())) != len(types):
        raise InputError("Gemma3ForCausalLM has one attention section with a window and one without")
    shared = [{key: value for key, value in each.plain().items() if key not in _OWN} for each in sections.values()]
    if any(each != shared[0] for each in shared):
        raise InputError("Gemma3ForCausalLM's two attention sections differ by window and rope only")
    attention = sections[names[0]]
    refuse_keys(attention, "rotary_dim", "output_gate")
    arguments = sizes(backbone, len(kinds)) | _attention(backbone, attention) | _mlp(backbone, kinds)
    windows = [section.integer("sliding_window") for section in sections.values() if section.has("sliding_window")]
    arguments |= {"sliding_window": windows[0]} if windows else {}
    arguments["layer_types"] = [types[name] for name in names]
    arguments["rope_parameters"] = {types[name]: _rope(backbone, section) for name, section in sections.items()}
    return Choice(model="Gemma3ForCausalLM", config="Gemma3TextConfig", arguments=arguments)


def _layer_type(section: Section) -> str:
    if section.choice("kind", "mla", "gqa") != "gqa":
        raise InputError("Gemma3ForCausalLM has grouped-query attention")
    return "sliding_attention" if section.has("sliding_window") else "full_attention"


def _attention(backbone: Section, attention: Section) -> dict[str, Any]:
    norm = attention.choice("qk_norm", "per_head", "full") if attention.has("qk_norm") else None
    bias = attention.flag("attention_bias")
    if norm != "per_head" or bias != attention.flag("attention_out_bias"):
        raise InputError("Gemma3ForCausalLM norms queries and keys head by head, and has all biases or none")
    heads, hidden = attention.integer("num_attention_heads"), backbone.integer("hidden_size")
    if hidden % heads:
        raise InputError(f"Gemma3TextConfig wants a hidden size that {heads} heads divide", value=hidden)
    head_dim = attention.integer("head_dim")
    return {
        "num_attention_heads": heads,
        "num_key_value_heads": attention.integer("num_key_value_heads"),
        "head_dim": head_dim,
        "attention_bias": bias,
        "query_pre_attn_scalar": head_dim,  # the scores' scale, which no size depends on
    }


def _mlp(backbone: Section, kinds: Sequence[LayerKind]) -> dict[str, Any]:
    names = {kind[1].name for kind in kinds}
    ffn = backbone.section("ffn").section(min(names))
    if len(names) > 1 or ffn.choice("kind", "dense", "moe") != "dense" or not ffn.flag("gated") or ffn.flag("mlp_bias"):
        raise InputError("Gemma3ForCausalLM has one kind of MLP, gated and without biases")
    return {"intermediate_size": ffn.integer("intermediate_size"), "hidden_activation": ffn.word("hidden_act")}


def _rope(backbone: Section, attention: Section) -> dict[str, Any]:
    section = attention.section("rope_parameters") if attention.has("rope_parameters") else backbone
    if not section.has("rope_theta"):
        raise InputError("Gemma3ForCausalLM rotates in every layer")
    return rope_parameters(section)
