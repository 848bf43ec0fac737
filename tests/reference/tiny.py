"""Tiny architectures, as the plain mappings a spec file gives, and random weights for them."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch

from archcalc.reference.model import Model, build

IMAGE, VIDEO = 163605, 163840
"""Placeholder ids of Kimi K2.5's public tokenizer config, as transformers' class defaults to them."""

MLA: dict[str, Any] = {
    "kind": "mla",
    "num_attention_heads": 4,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 6,
    "attention_bias": False,
}
GQA: dict[str, Any] = {
    "kind": "gqa",
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 10,
    "attention_bias": False,
    "attention_out_bias": False,
    "qk_norm": None,
}
DELTA: dict[str, Any] = {
    "kind": "gated_deltanet",
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
    "linear_key_head_dim": 10,
    "linear_value_head_dim": 7,
    "linear_conv_kernel_dim": 4,
    "hidden_act": "silu",
    "in_proj": "fused",
}
KDA: dict[str, Any] = {
    "kind": "kda",
    "num_heads": 3,
    "head_dim": 8,
    "short_conv_kernel_size": 4,
    "use_full_rank_gate": False,
    "a_log_size": 3,
}
DENSE: dict[str, Any] = {
    "kind": "dense",
    "intermediate_size": 36,
    "hidden_act": "silu",
    "gated": True,
    "mlp_bias": False,
}
MOE: dict[str, Any] = {
    "kind": "moe",
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "n_shared_experts": 1,
    "moe_intermediate_size": 24,
    "hidden_act": "silu",
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.827,
}
YARN: dict[str, Any] = {
    "type": "yarn",
    "factor": 8.0,
    "original_max_position_embeddings": 16,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}
LLAMA3: dict[str, Any] = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
VISION: dict[str, Any] = {
    "kind": "moonvit3d",
    "vt_hidden_size": 32,
    "vt_num_hidden_layers": 2,
    "vt_num_attention_heads": 2,
    "vt_intermediate_size": 44,
    "in_channels": 3,
    "patch_size": 4,
    "init_pos_emb_height": 8,
    "init_pos_emb_width": 8,
    "init_pos_emb_time": 4,
    "pos_emb_type": "divided_fixed",
    "merge_kernel_size": [2, 2],
    "merge_type": "sd2_tpool",
    "video_attn_type": "spatial_temporal",
    "layer_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "dtype": "bfloat16",
    "in_patch_limit": 64,
    "in_patch_limit_each_frame": 16,
    "patch_limit_on_one_side": 16,
    "temporal_merge_kernel_size": 4,
}
PROJECTOR: dict[str, Any] = {
    "kind": "patch_merger",
    "mm_hidden_size": 32,
    "text_hidden_size": 40,
    "projector_hidden_act": "gelu",
    "projector_ln_eps": 1e-5,
    "use_postshuffle_norm": False,
    "dtype": "bfloat16",
}


def text(
    attention: dict[str, Any], ffns: list[dict[str, Any]], rope: dict[str, Any] | None = None, /, **more: Any
) -> dict[str, Any]:
    """A text-only spec: one layer for each ffn section, all with the same attention."""
    backbone = {
        "hidden_size": 40,
        "vocab_size": 50,
        "num_hidden_layers": len(ffns),
        "max_position_embeddings": 128,
        "tie_word_embeddings": False,
        "num_nextn_predict_layers": 0,
        "rms_norm_eps": 1e-5,
        "dtype": "bfloat16",
        "rope_theta": 50000.0,
        "rope_scaling": rope,
        "layers": [{"count": 1, "attention": "only", "ffn": ffn["kind"]} for ffn in ffns],
        "attention": {"only": attention},
        "ffn": {ffn["kind"]: ffn for ffn in ffns},
    }
    return deepcopy({"kind": "spec", "name": "tiny", "backbone": backbone | more})


LOCAL: dict[str, Any] = GQA | {
    "qk_norm": "per_head",
    "sliding_window": 7,
    "rope_parameters": {"rope_theta": 10000.0, "rope_scaling": None},
}
GLOBAL: dict[str, Any] = GQA | {"qk_norm": "per_head"}
GELU: dict[str, Any] = DENSE | {"hidden_act": "gelu_pytorch_tanh"}
INDEXER: dict[str, Any] = {"index_n_heads": 8, "index_head_dim": 10, "index_topk": 9}
SPARSE: dict[str, Any] = MLA | {"indexer": INDEXER}


def gemma(**more: Any) -> dict[str, Any]:
    """Gemma 3 in small: two layers with a window, one without, twice, and one with; norms around every mixer."""
    steps = [
        {"count": 2, "attention": "local", "ffn": "dense"},
        {"count": 1, "attention": "global", "ffn": "dense"},
    ]
    given: dict[str, Any] = {
        "norm": "rms_zero_centered",
        "norm_placement": "sandwich",
        "num_hidden_layers": 7,
        "layers": [{"repeat": 2, "layers": steps}, {"count": 1, "attention": "local", "ffn": "dense"}],
        "attention": {"local": LOCAL, "global": GLOBAL},
    }
    return text(GQA, [GELU], {"rope_type": "linear", "factor": 8.0}, **(given | more))


def k25(**more: Any) -> dict[str, Any]:
    """Kimi K2.5 in small: a dense layer, two with experts, YaRN, vision tower and projector."""
    spec = text(MLA, [DENSE, MOE, MOE], YARN, **more)
    return spec | deepcopy({"vision": VISION, "projector": PROJECTOR})


def randomised(spec: dict[str, Any], seed: int = 0) -> Model:
    """The twin on CPU in float32 with random weights, norms and the router's bias included."""
    model = build(spec, device="cpu", dtype="float32")
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator)
        centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        tensor.copy_(centre + noise * (tensor.shape[-1] ** -0.5 if tensor.dim() > 1 else 0.2))
    return model.eval()


def ids(batch: int, rows: int, seed: int = 1) -> torch.Tensor:
    """Random text ids."""
    return torch.randint(0, 50, (batch, rows), generator=torch.Generator().manual_seed(seed))
