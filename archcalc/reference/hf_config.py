"""Which public class of Hugging Face transformers a spec is, and its config. No download, no config file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from archcalc.errors import InputError
from archcalc.reference.decoder import layer_patterns
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


def choose(spec: Mapping[str, object]) -> Choice:
    """The class for a spec.

    Raises:
        InputError: when no public class has this architecture.
    """
    root = Section(spec, "spec")
    text = _text(root.section("backbone"))
    if root.optional_section("vision") is None:
        return text
    if text.model != "DeepseekV3ForCausalLM":
        raise InputError("transformers has no class with this vision tower and another text model than DeepSeek-V3's")
    vision, projector = root.section("vision"), root.section("projector")
    if projector.flag("use_postshuffle_norm"):
        raise InputError("transformers' projector normalises before the merge only")
    arguments = {
        "text_config": {"model_type": "deepseek_v3", **text.arguments},
        "vision_config": _vision(vision),
        "projection_hidden_size": projector.integer("mm_hidden_size"),
        "projection_layer_norm_eps": projector.number("projector_ln_eps"),
        "tie_word_embeddings": text.arguments["tie_word_embeddings"],  # the class's own default is True
    }
    names = ("Kimi_K25ForConditionalGeneration", "Kimi_K25Config")
    return Choice(model=names[0], config=names[1], arguments=arguments, multimodal=True)


def _text(backbone: Section) -> Choice:
    patterns = layer_patterns(backbone)
    attentions, ffns = ({pattern[side] for pattern in patterns} for side in (0, 1))
    if len(attentions) != 1:
        raise InputError("transformers has no class with several attention sections")
    attention = backbone.section("attention").section(attentions.pop())
    sections = {name: backbone.section("ffn").section(name) for name in ffns}
    kinds = {name: section.choice("kind", "dense", "moe") for name, section in sections.items()}
    by_kind = {kind: [name for name in kinds if kinds[name] == kind] for kind in ("dense", "moe")}
    if any(len(names) > 1 for names in by_kind.values()):
        raise InputError("transformers has no class with several ffn sections of a kind")
    dense = sections[by_kind["dense"][0]] if by_kind["dense"] else None
    moe = sections[by_kind["moe"][0]] if by_kind["moe"] else None
    if dense is not None and not dense.flag("gated"):
        raise InputError("transformers' classes for these attention types have gated MLPs only")
    is_moe = [kinds[pattern[1]] == "moe" for pattern in patterns]
    common = _common(backbone, len(patterns), dense, moe)
    if attention.choice("kind", "mla", "gqa") == "mla":
        return _deepseek(attention, dense, moe, is_moe, common)
    return _grouped(attention, dense, moe, is_moe, common)


def _common(backbone: Section, depth: int, dense: Section | None, moe: Section | None) -> dict[str, Any]:
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": backbone.number("rope_theta")}
    scaling = backbone.optional_section("rope_scaling")
    if scaling is not None:
        values = scaling.plain()
        rope |= {"rope_type": values.pop("type", None) or values.pop("rope_type"), **values}
    acts = {section.word("hidden_act") for section in (dense, moe) if section is not None}
    if len(acts) != 1:
        raise InputError("transformers has one hidden_act a model")
    return {
        "vocab_size": backbone.integer("vocab_size"),
        "hidden_size": backbone.integer("hidden_size"),
        "num_hidden_layers": depth,
        "max_position_embeddings": backbone.integer("max_position_embeddings", 4096),
        "rms_norm_eps": backbone.number("rms_norm_eps"),
        "tie_word_embeddings": backbone.flag("tie_word_embeddings"),
        "rope_parameters": rope,
        "hidden_act": acts.pop(),
    }


def _deepseek(
    attention: Section, dense: Section | None, moe: Section | None, is_moe: list[bool], common: dict[str, Any]
) -> Choice:
    first = is_moe.index(True) if True in is_moe else len(is_moe)
    if not all(is_moe[first:]) or (dense is not None and dense.flag("mlp_bias")):
        raise InputError("DeepseekV3ForCausalLM has dense layers first, then experts, and no MLP biases")
    sizes = ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "kv_lora_rank", "num_attention_heads")
    arguments = common | {size: attention.integer(size) for size in sizes}
    arguments |= {
        "num_key_value_heads": attention.integer("num_attention_heads"),
        "q_lora_rank": attention.optional_integer("q_lora_rank"),
        "attention_bias": attention.flag("attention_bias"),
        "first_k_dense_replace": first,
    }
    if dense is not None:
        arguments["intermediate_size"] = dense.integer("intermediate_size")
    if moe is not None:
        if moe.word("scoring_func") != "sigmoid" or moe.word("topk_method") != "noaux_tc":
            raise InputError("DeepseekV3ForCausalLM routes by sigmoid scores with noaux_tc")
        counts = ("n_routed_experts", "num_experts_per_tok", "n_shared_experts", "moe_intermediate_size")
        arguments |= {count: moe.integer(count) for count in counts}
        arguments |= {group: moe.integer(group, 1) for group in ("n_group", "topk_group")}
        arguments["norm_topk_prob"] = moe.flag("norm_topk_prob")
        arguments["routed_scaling_factor"] = moe.number("routed_scaling_factor", 1.0)
    return Choice(model="DeepseekV3ForCausalLM", config="DeepseekV3Config", arguments=arguments)


def _grouped(
    attention: Section, dense: Section | None, moe: Section | None, is_moe: list[bool], common: dict[str, Any]
) -> Choice:
    norm = attention.choice("qk_norm", "per_head", "full") if attention.has("qk_norm") else None
    bias, out_bias = attention.flag("attention_bias"), attention.flag("attention_out_bias")
    arguments = common | {size: attention.integer(size) for size in ("num_attention_heads", "num_key_value_heads")}
    arguments |= {"head_dim": attention.integer("head_dim"), "attention_bias": bias}
    mlp_bias = dense is not None and dense.flag("mlp_bias")
    if moe is not None:
        arguments |= _qwen_experts(moe)
        fits = all(is_moe) and norm == "per_head" and bias == out_bias
        name = "Qwen3Moe" if fits else None
    elif norm is None and bias == out_bias:
        name, arguments["mlp_bias"] = "Llama", mlp_bias
    elif norm is None and bias and not mlp_bias:
        name = "Qwen2"
    else:
        name = "Qwen3" if norm == "per_head" and bias == out_bias and not mlp_bias else None
    if name is None:
        raise InputError("transformers has no class that the twin knows with this attention and ffn")
    if dense is not None:
        arguments["intermediate_size"] = dense.integer("intermediate_size")
    return Choice(model=f"{name}ForCausalLM", config=f"{name}Config", arguments=arguments)


def _qwen_experts(moe: Section) -> dict[str, Any]:
    plain = moe.word("scoring_func") == "softmax" and moe.word("topk_method") == "greedy"
    if not plain or moe.integer("n_shared_experts", 0) or moe.number("routed_scaling_factor", 1.0) != 1.0:
        raise InputError("Qwen3MoeForCausalLM routes by plain softmax scores and has no shared experts")
    return {
        "num_experts": moe.integer("n_routed_experts"),
        "num_experts_per_tok": moe.integer("num_experts_per_tok"),
        "moe_intermediate_size": moe.integer("moe_intermediate_size"),
        "norm_topk_prob": moe.flag("norm_topk_prob"),
        "mlp_only_layers": [],
        "decoder_sparse_step": 1,
    }


def _vision(vision: Section) -> dict[str, Any]:
    names = {
        "patch_size": "patch_size",
        "pos_emb_height": "init_pos_emb_height",
        "pos_emb_width": "init_pos_emb_width",
        "pos_emb_time": "init_pos_emb_time",
        "num_attention_heads": "vt_num_attention_heads",
        "num_hidden_layers": "vt_num_hidden_layers",
        "hidden_size": "vt_hidden_size",
        "intermediate_size": "vt_intermediate_size",
    }
    if vision.integer("in_channels", 3) != 3 or vision.number("layer_norm_eps", 1e-5) != 1e-5:
        raise InputError("transformers' vision tower has 3 channels and a LayerNorm epsilon of 1e-5")
    arguments: dict[str, Any] = {theirs: vision.integer(ours) for theirs, ours in names.items()}
    arguments["merge_kernel_size"] = list(vision.pair("merge_kernel_size"))
    arguments["rope_parameters"] = {"rope_type": "axial", "rope_theta": vision.number("rope_theta", 10000.0)}
    return arguments
