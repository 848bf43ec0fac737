"""A small config.json for each family, every size another number, so that no two can be mistaken for each other."""

from typing import Any

TEXT = {
    "vocab_size": 96,
    "hidden_size": 48,
    "intermediate_size": 40,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "attention_dropout": 0.0,
    "initializer_range": 0.02,
    "use_cache": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
HEAD = {"head_dim": 10}
BIAS = {"attention_bias": False}
MLP_BIAS = {"mlp_bias": False}
WINDOW = {"use_sliding_window": False, "sliding_window": 24, "max_window_layers": 3}

MOE = {"moe_intermediate_size": 14, "num_experts_per_tok": 2, "norm_topk_prob": True, "output_router_logits": False}
QWEN_MOE = {**MOE, "num_experts": 5, "decoder_sparse_step": 1, "mlp_only_layers": []}
LOCAL = {"num_local_experts": 5, "num_experts_per_tok": 2, "output_router_logits": False, "router_aux_loss_coef": 0.001}
DEEP_MOE = {
    **MOE,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "n_group": 2,
    "topk_group": 1,
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "moe_layer_freq": 1,
    "ep_size": 1,
    "num_nextn_predict_layers": 1,
}
MLA = {
    "q_lora_rank": 20,
    "kv_lora_rank": 18,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 10,
    "num_key_value_heads": 6,
    "attention_bias": False,
}
INDEXER = {"index_n_heads": 4, "index_head_dim": 16, "index_topk": 32}
DELTA = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 7,
    "linear_value_head_dim": 9,
    "linear_conv_kernel_dim": 4,
}
QWEN_NEXT = {**TEXT, **HEAD, **BIAS, **DELTA, "full_attention_interval": 2, "partial_rotary_factor": 0.4}

VISION = {
    "depth": 3,
    "hidden_size": 24,
    "intermediate_size": 28,
    "num_heads": 6,
    "in_channels": 3,
    "patch_size": 4,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
    "out_hidden_size": 48,
    "hidden_act": "gelu_pytorch_tanh",
}
QWEN3_VISION = {**VISION, "num_position_embeddings": 36, "deepstack_visual_indexes": [0, 2]}
QWEN35_VISION = {**VISION, "num_position_embeddings": 36, "deepstack_visual_indexes": []}
MROPE = {"rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}}
TOKENS = {
    "image_token_id": 5,
    "video_token_id": 6,
    "vision_start_token_id": 7,
    "vision_end_token_id": 8,
}


def text(*parts: dict[str, Any], without: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
    """TEXT, then the parts, then more, less the keys `without`."""
    merged: dict[str, Any] = {**TEXT}
    for part in (*parts, more):
        merged |= part
    return {key: value for key, value in merged.items() if key not in without}


def nested(model_type: str, inner: dict[str, Any], vision: dict[str, Any], **top: Any) -> dict[str, Any]:
    """A config with a text and a vision section."""
    named = {f"{model_type}_text": inner, f"{model_type}_vision": vision}
    sections = [{"model_type": name, **section} for name, section in named.items()]
    return {
        "model_type": model_type,
        "text_config": sections[0],
        "vision_config": sections[1],
        "tie_word_embeddings": False,
        **TOKENS,
        **top,
    }


def flat(model_type: str, inner: dict[str, Any], vision: dict[str, Any]) -> dict[str, Any]:
    """A config whose text keys stand at the top, as Qwen2-VL and Qwen2.5-VL were released."""
    return {**inner, "model_type": model_type, "vision_config": vision, **TOKENS}


QWEN2_VISION = {
    **{k: v for k, v in VISION.items() if k not in ("intermediate_size", "out_hidden_size")},
    "embed_dim": 24,
    "hidden_size": 48,
    "mlp_ratio": 2,
    "hidden_act": "quick_gelu",
}
QWEN25_VISION = {
    **VISION,
    "hidden_act": "silu",
    "window_size": 16,
    "fullatt_block_indexes": [1],
    "tokens_per_second": 2,
}
K25_VISION = {
    "hidden_size": 24,
    "intermediate_size": 28,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "patch_size": 4,
    "pos_emb_height": 6,
    "pos_emb_width": 4,
    "pos_emb_time": 2,
    "merge_kernel_size": [2, 2],
}
K25_RELEASED = {
    # the class reads none of the names that it does not know, and builds what they say in the release
    "vt_hidden_size": 1152,
    "vt_intermediate_size": 4304,
    "vt_num_hidden_layers": 27,
    "vt_num_attention_heads": 16,
    "init_pos_emb_height": 64,
    "init_pos_emb_width": 64,
    "init_pos_emb_time": 4,
    "patch_size": 14,
    "merge_kernel_size": [2, 2],
    "mm_hidden_size": 1152,
    "text_hidden_size": 48,
    "projector_hidden_act": "gelu",
    "projector_ln_eps": 1e-5,
    "merge_type": "sd2_tpool",
    "pos_emb_type": "divided_fixed",
    "video_attn_type": "spatial_temporal",
    "mm_projector_type": "patchmerger",
}
VL_TEXT = text(WINDOW, MROPE)
VL3_TEXT = text(
    HEAD, BIAS, rope_scaling={"mrope_section": [1, 2, 2], "mrope_interleaved": True, "rope_type": "default"}
)
DEEPSEEK = text(MLA, DEEP_MOE)

# name: config. A name is its model_type, and what is particular about a further one.
BASES: dict[str, dict[str, Any]] = {
    "arcee": text(BIAS, MLP_BIAS, hidden_act="relu2"),
    "deepseek_v2": text(
        MLA, DEEP_MOE, topk_method="greedy", scoring_func="softmax", without=("num_nextn_predict_layers",)
    ),
    "deepseek_v2 lite": text(MLA, DEEP_MOE, q_lora_rank=None, topk_method="greedy", scoring_func="softmax"),
    "deepseek_v3": DEEPSEEK,
    "deepseek_v3 without q_lora": DEEPSEEK | {"q_lora_rank": None},
    "deepseek_v32": text(MLA, DEEP_MOE, INDEXER),
    "dots1": text(BIAS, HEAD, DEEP_MOE, WINDOW, without=("num_nextn_predict_layers", "use_sliding_window")),
    "ernie4_5": text(HEAD, use_bias=False),
    "ernie4_5_moe": text(
        use_bias=False,
        moe_num_experts=5,
        moe_intermediate_size=14,
        moe_k=2,
        moe_num_shared_experts=2,
        moe_layer_start_index=1,
        moe_layer_end_index=3,
        moe_layer_interval=1,
    ),
    "gemma3_text": text(
        BIAS,
        HEAD,
        hidden_activation="gelu_pytorch_tanh",
        query_pre_attn_scalar=10,
        sliding_window=24,
        sliding_window_pattern=2,
        rope_local_base_freq=1000.0,
        without=("hidden_act",),
    ),
    "gemma3_text with layer_types": text(
        BIAS,
        HEAD,
        hidden_activation="gelu_pytorch_tanh",
        query_pre_attn_scalar=10,
        sliding_window=24,
        layer_types=["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
        without=("hidden_act",),
    ),
    "glm4": text(HEAD, attention_bias=True, partial_rotary_factor=0.4),
    "glm4_moe": text(HEAD, DEEP_MOE, attention_bias=True, use_qk_norm=True, partial_rotary_factor=0.4),
    "glm4_moe_lite": text(MLA, DEEP_MOE),
    "glm_moe_dsa": text(MLA, DEEP_MOE, INDEXER, index_topk_freq=2, index_skip_topk_offset=2),
    "glm_moe_dsa with indexer_types": text(MLA, DEEP_MOE, INDEXER, indexer_types=["full", "shared", "full", "shared"]),
    "granite": text(BIAS, MLP_BIAS, embedding_multiplier=12, logits_scaling=16, residual_multiplier=0.2),
    "granitemoe": text(BIAS, LOCAL, attention_multiplier=0.1),
    "internlm3": text(HEAD, qkv_bias=False, bias=False),
    "kimi_k25": {
        "model_type": "kimi_k25",
        "text_config": {"model_type": "kimi_k2", **DEEPSEEK},
        "vision_config": {"model_type": "kimi_k25_vision", **K25_VISION},
        "projection_hidden_size": 24,
        "tie_word_embeddings": False,
    },
    "kimi_k25 as released": {
        "model_type": "kimi_k25",
        "text_config": {"model_type": "kimi_k2", **DEEPSEEK},
        "vision_config": K25_RELEASED,
        "tie_word_embeddings": False,
    },
    "kimi_linear": text(
        MLA,
        q_lora_rank=None,
        moe_intermediate_size=14,
        num_experts=8,
        num_experts_per_token=2,
        num_shared_experts=1,
        num_expert_group=1,
        topk_group=1,
        moe_renormalize=True,
        moe_layer_freq=1,
        use_grouped_topk=True,
        moe_router_activation_func="sigmoid",
        routed_scaling_factor=2.446,
        first_k_dense_replace=1,
        num_nextn_predict_layers=0,
        model_max_length=512,
        mla_use_nope=True,
        head_dim=8,
        linear_attn_config={
            "full_attn_layers": [4],
            "kda_layers": [1, 2, 3],
            "head_dim": 9,
            "num_heads": 3,
            "short_conv_kernel_size": 4,
        },
    ),
    "kimi_linear with layer_types": text(
        MLA,
        DEEP_MOE,
        without=("first_k_dense_replace", "n_routed_experts", "head_dim"),
        num_experts=8,
        linear_head_dim=9,
        linear_num_heads=3,
        linear_conv_kernel_dim=4,
        layer_types=["linear_attention", "full_attention", "linear_attention", "full_attention"],
        mlp_layer_types=["dense", "sparse", "sparse", "dense"],
    ),
    "llama": text(BIAS, MLP_BIAS, HEAD, pretraining_tp=1),
    "llama old": text(without=("num_key_value_heads",), rope_scaling=None),
    "minimax_m2": text(
        HEAD,
        LOCAL,
        use_qk_norm=True,
        qk_norm_type="per_layer",
        rotary_dim=6,
        shared_intermediate_size=0,
        num_mtp_modules=3,
        mtp_transformer_layers=1,
        use_mtp=True,
        use_routing_bias=True,
    ),
    "mistral": text(HEAD, sliding_window=None),
    "mistral old": text(sliding_window=24),
    "mixtral": text(LOCAL, sliding_window=None, router_jitter_noise=0.0),
    "olmo2": text(BIAS),
    "olmoe": text(BIAS, num_experts=5, num_experts_per_tok=2, norm_topk_prob=False, clip_qkv=None),
    "phi3": text(
        original_max_position_embeddings=512, sliding_window=24, resid_pdrop=0.0, embd_pdrop=0.0, rope_scaling=None
    ),
    "phimoe": text(LOCAL, attention_bias=True, lm_head_bias=True, sliding_window=24),
    "qwen2": text(WINDOW),
    "qwen2 with windows": text(use_sliding_window=True, sliding_window=24, max_window_layers=3),
    "qwen2_moe": text(QWEN_MOE, WINDOW, shared_expert_intermediate_size=22, qkv_bias=True),
    "qwen2_vl": flat("qwen2_vl", VL_TEXT, QWEN2_VISION),
    "qwen2_vl nested": nested("qwen2_vl", VL_TEXT, QWEN2_VISION),
    "qwen2_5_vl": flat("qwen2_5_vl", VL_TEXT, QWEN25_VISION),
    "qwen2_5_vl nested": nested("qwen2_5_vl", VL_TEXT, QWEN25_VISION),
    "qwen3": text(HEAD, BIAS, WINDOW),
    "qwen3_moe": text(HEAD, BIAS, QWEN_MOE, WINDOW),
    "qwen3_next": QWEN_NEXT | QWEN_MOE | {"shared_expert_intermediate_size": 22},
    "qwen3_vl": nested("qwen3_vl", VL3_TEXT, QWEN3_VISION),
    "qwen3_vl_moe": nested("qwen3_vl_moe", VL3_TEXT | QWEN_MOE, QWEN3_VISION),
    "qwen3_5": nested("qwen3_5", QWEN_NEXT | {"attn_output_gate": True, "mtp_num_hidden_layers": 1}, QWEN35_VISION),
    "qwen3_5_text": QWEN_NEXT,
    "qwen3_5_moe": nested("qwen3_5_moe", QWEN_NEXT | QWEN_MOE | {"shared_expert_intermediate_size": 22}, QWEN35_VISION),
    "qwen3_5_moe_text": QWEN_NEXT | QWEN_MOE | {"shared_expert_intermediate_size": 22},
    "seed_oss": text(HEAD, MLP_BIAS, attention_bias=True, attention_out_bias=False),
    "smollm3": text(
        BIAS, MLP_BIAS, WINDOW, use_sliding_window=False, no_rope_layers=[1, 1, 1, 0], no_rope_layer_interval=4
    ),
    "smollm3 with windows": text(use_sliding_window=True, sliding_window=24, no_rope_layer_interval=2),
}
BASES = {name: {"model_type": name.split()[0]} | config for name, config in BASES.items()}
