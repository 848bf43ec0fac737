"""Which public class of Hugging Face transformers a spec is, and its config. No download, no config file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from archcalc.errors import InputError
from archcalc.reference.fields import Section
from archcalc.reference.hf_choice import PLAIN_EXPERTS, Choice, refuse_keys, refuse_unlike, rope_parameters, sizes
from archcalc.reference.hf_gemma import gemma
from archcalc.reference.norm_kinds import norm_name
from archcalc.reference.patterns import LayerKind, layer_kinds, placement_of, plain_kind, prediction_kind

__all__ = ["Choice", "choose"]


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
    _refuse_other_towers(vision, projector)
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
    kinds = _plain_kinds(backbone)
    norms = norm_name(backbone), placement_of(backbone)
    if norms == ("rms_zero_centered", "sandwich"):
        return gemma(backbone, kinds)
    if norms != ("rms", "pre"):
        raise InputError(f"transformers has no class that the twin knows with norms {norms[0]}, {norms[1]}")
    attentions, ffns = ({kind[side].name for kind in kinds} for side in (0, 1))
    if len(attentions) != 1:
        raise InputError("transformers has no class with several attention sections")
    attention = backbone.section("attention").section(attentions.pop())
    refuse_keys(attention, "sliding_window", "rope_parameters", "rotary_dim", "output_gate", "index_topk")
    sections = {name: backbone.section("ffn").section(name) for name in ffns}
    sorts = {name: section.choice("kind", "dense", "moe") for name, section in sections.items()}
    by_kind = {sort: [name for name in sorts if sorts[name] == sort] for sort in ("dense", "moe")}
    if any(len(names) > 1 for names in by_kind.values()):
        raise InputError("transformers has no class with several ffn sections of a kind")
    dense = sections[by_kind["dense"][0]] if by_kind["dense"] else None
    moe = sections[by_kind["moe"][0]] if by_kind["moe"] else None
    if dense is not None and not dense.flag("gated"):
        raise InputError("transformers' classes for these attention types have gated MLPs only")
    _refuse_experts(moe)
    is_moe = [sorts[kind[1].name] == "moe" for kind in kinds]
    common = _common(backbone, len(kinds), dense, moe)
    if attention.choice("kind", "mla", "gqa") == "mla":
        return _deepseek(attention, dense, moe, is_moe, common)
    return _grouped(attention, dense, moe, is_moe, common)


def _refuse_experts(moe: Section | None) -> None:
    if moe is not None:
        refuse_keys(moe, "shared_expert_intermediate_size", "routed_expert_hidden_size")
        refuse_unlike(moe, PLAIN_EXPERTS)


def _plain_kinds(backbone: Section) -> list[LayerKind]:
    """Layers of one attention and one ffn, each with its residual, under the usual names."""
    refuse_keys(backbone, "position_embeddings", "embedding_norm", "attn_res_block_size")
    refuse_unlike(backbone, {"lm_head_bias": False})
    kinds = layer_kinds(backbone)
    for kind in dict.fromkeys(kinds):
        names = {step.side: step.name for step in kind}
        if len(names) != 2 or kind != plain_kind(backbone, names["attention"], names["ffn"]):
            raise InputError("transformers has no class that the twin knows with such steps in a layer")
    if backbone.integer("num_nextn_predict_layers", 0):
        _refuse_predictions(backbone, kinds)
    return kinds


def _refuse_predictions(backbone: Section, kinds: list[LayerKind]) -> None:
    if prediction_kind(backbone) != kinds[-1]:
        raise InputError("transformers' prediction modules have the last layer's kind")
    if backbone.section("attention").section(kinds[-1][0].name).has("indexer"):
        raise InputError("DeepseekV32ForCausalLM has no prediction modules in transformers")


def _common(backbone: Section, depth: int, dense: Section | None, moe: Section | None) -> dict[str, Any]:
    rope = rope_parameters(backbone)
    acts = {section.word("hidden_act") for section in (dense, moe) if section is not None}
    if len(acts) != 1:
        raise InputError("transformers has one hidden_act a model")
    if "situ" in acts:
        raise InputError("transformers has no activation situ")
    return sizes(backbone, depth) | {"rope_parameters": rope, "hidden_act": acts.pop()}


def _deepseek(
    attention: Section, dense: Section | None, moe: Section | None, is_moe: list[bool], common: dict[str, Any]
) -> Choice:
    name = "DeepseekV32" if attention.has("indexer") else "DeepseekV3"
    first = is_moe.index(True) if True in is_moe else len(is_moe)
    if not all(is_moe[first:]) or (dense is not None and dense.flag("mlp_bias")):
        raise InputError(f"{name}ForCausalLM has dense layers first, then experts, and no MLP biases")
    sizes = ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "kv_lora_rank", "num_attention_heads")
    arguments = common | {size: attention.integer(size) for size in sizes}
    arguments |= {
        "num_key_value_heads": attention.integer("num_attention_heads"),
        "q_lora_rank": attention.optional_integer("q_lora_rank"),
        "attention_bias": attention.flag("attention_bias"),
        "first_k_dense_replace": first,
    }
    if attention.has("indexer"):
        arguments |= _indexer(attention)
    if dense is not None:
        arguments["intermediate_size"] = dense.integer("intermediate_size")
    if moe is not None:
        if moe.word("scoring_func") != "sigmoid" or moe.word("topk_method") != "noaux_tc":
            raise InputError(f"{name}ForCausalLM routes by sigmoid scores with noaux_tc")
        counts = ("n_routed_experts", "num_experts_per_tok", "n_shared_experts", "moe_intermediate_size")
        arguments |= {count: moe.integer(count) for count in counts}
        arguments |= {group: moe.integer(group, 1) for group in ("n_group", "topk_group")}
        arguments["norm_topk_prob"] = moe.flag("norm_topk_prob")
        arguments["routed_scaling_factor"] = moe.number("routed_scaling_factor", 1.0)
    return Choice(model=f"{name}ForCausalLM", config=f"{name}Config", arguments=arguments)


def _indexer(attention: Section) -> dict[str, Any]:
    if not attention.has("q_lora_rank"):
        raise InputError("DeepseekV32ForCausalLM has a query latent")
    index = attention.section("indexer")
    return {size: index.integer(size) for size in ("index_n_heads", "index_head_dim", "index_topk")}


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


def _refuse_other_towers(vision: Section, projector: Section) -> None:
    """Raises InputError for anything but Kimi K2.5's tower and projector: the class has no arguments for it."""
    of_k3 = (
        vision.word("kind") != "moonvit3d",
        vision.word("norm_type", "layernorm") != "layernorm",
        vision.has("qkv_hidden_size"),
        not all(vision.flag(key, default=True) for key in ("attn_bias", "linear_bias", "patch_embed_proj_bias")),
        projector.word("kind") != "patch_merger",
        projector.word("mm_projector_type", "patchmerger") != "patchmerger",
    )
    if any(of_k3):
        raise InputError("the comparison with transformers knows no vision tower but Kimi K2.5's")
