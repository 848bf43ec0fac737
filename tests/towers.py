"""Vision towers and projectors of public models, as the sections that a spec file has."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

QWEN: dict[str, Any] = {
    "kind": "vit",
    "names": "qwen2_vl",
    "prefix": "visual",
    "text_prefix": "model",
    "hidden_size": 1280,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "head_dim": 80,
    "intermediate_size": 5120,
    "hidden_act": "quick_gelu",
    "gated": False,
    "attention_bias": True,
    "mlp_bias": True,
    "norm": "layer",
    "norm_eps": 1e-6,
    "in_channels": 3,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "patch_embed_bias": False,
    "rope_theta": 10000.0,
    "spatial_merge_size": 2,
    "processor": {
        "kind": "smart_resize",
        "min_pixels": 3136,
        "max_pixels": 12845056,
        "video_min_pixels": 100352,
        "video_max_pixels": 602112,
        "video_pixels": "per_frame",
    },
    "dtype": "bfloat16",
}
MERGER: dict[str, Any] = {
    "kind": "merger",
    "names": "qwen2_vl",
    "prefix": "visual.merger",
    "mm_hidden_size": 1280,
    "intermediate_size": 5120,
    "text_hidden_size": 1536,
    "norm": "layer",
    "projector_hidden_act": "gelu",
    "projector_ln_eps": 1e-6,
    "projector_bias": True,
    "dtype": "bfloat16",
}
WINDOWS = QWEN | {
    "intermediate_size": 3420,
    "hidden_act": "silu",
    "gated": True,
    "norm": "rms",
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
}
QWEN3 = QWEN | {
    "names": "qwen3_vl",
    "prefix": "model.visual",
    "text_prefix": "model.language_model",
    "hidden_size": 1152,
    "num_hidden_layers": 27,
    "head_dim": 72,
    "intermediate_size": 4304,
    "hidden_act": "gelu_pytorch_tanh",
    "patch_size": 16,
    "patch_embed_bias": True,
    "num_position_embeddings": 2304,
    "interpolate_pos_encoding": True,
    "processor": {
        "kind": "smart_resize",
        "min_pixels": 65536,
        "max_pixels": 16777216,
        "video_min_pixels": 4096,
        "video_max_pixels": 25165824,
        "video_pixels": "per_video",
    },
}
MERGER3 = MERGER | {
    "names": "qwen3_vl",
    "prefix": "model.visual.merger",
    "mm_hidden_size": 1152,
    "intermediate_size": 4608,
}
SIGLIP: dict[str, Any] = QWEN | {
    "names": "clip",
    "prefix": "vision_tower.vision_model",
    "text_prefix": "language_model.model",
    "hidden_size": 1152,
    "num_hidden_layers": 27,
    "head_dim": 72,
    "intermediate_size": 4304,
    "hidden_act": "gelu_pytorch_tanh",
    "temporal_patch_size": 1,
    "patch_embed_bias": True,
    "num_position_embeddings": 729,
    "post_norm": True,
    "rope_theta": None,
    "spatial_merge_size": 1,
    "processor": {"kind": "fixed", "image_size": 384},
}
CLIP = SIGLIP | {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "head_dim": 64,
    "intermediate_size": 4096,
    "hidden_act": "quick_gelu",
    "norm_eps": 1e-5,
    "patch_embed_bias": False,
    "num_position_embeddings": 577,
    "class_token": True,
    "pre_norm": True,
    "processor": {"kind": "fixed", "image_size": 336},
}
LLAVA = MERGER | {
    "names": "llava",
    "prefix": "multi_modal_projector",
    "mm_hidden_size": 1024,
    "intermediate_size": 4096,
    "text_hidden_size": 4096,
    "norm": None,
    "projector_ln_eps": None,
}
MOON: dict[str, Any] = {
    "kind": "moonvit3d",
    "vt_hidden_size": 1024,
    "vt_num_hidden_layers": 27,
    "vt_num_attention_heads": 12,
    "vt_intermediate_size": 4096,
    "qkv_hidden_size": 1536,
    "norm_type": "rmsnorm",
    "attn_bias": False,
    "linear_bias": False,
    "patch_embed_proj_bias": False,
    "in_channels": 3,
    "patch_size": 14,
    "init_pos_emb_height": 64,
    "init_pos_emb_width": 64,
    "init_pos_emb_time": 4,
    "pos_emb_type": "divided_fixed",
    "merge_kernel_size": [2, 2],
    "merge_type": "sd2_tpool",
    "video_attn_type": "spatial_temporal",
    "layer_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "dtype": "bfloat16",
    "in_patch_limit": 16384,
    "in_patch_limit_each_frame": 4096,
    "patch_limit_on_one_side": 512,
    "temporal_merge_kernel_size": 4,
}
MOON_MERGER: dict[str, Any] = {
    "kind": "patch_merger",
    "mm_projector_type": "patchmergerv2",
    "mm_hidden_size": 1024,
    "text_hidden_size": 7168,
    "projector_hidden_act": "gelu",
    "projector_ln_eps": 1e-5,
    "use_postshuffle_norm": False,
    "dtype": "bfloat16",
}
TOWERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "qwen2-vl-2b": (QWEN, MERGER),
    "qwen2.5-vl-3b": (WINDOWS, MERGER | {"text_hidden_size": 2048, "norm": "rms"}),
    "qwen3-vl-8b": (QWEN3 | {"deepstack_visual_indexes": [8, 16, 24]}, MERGER3 | {"text_hidden_size": 4096}),
    "qwen3.5-27b": (QWEN3, MERGER3 | {"text_hidden_size": 5120}),
    "siglip-so400m": (SIGLIP, LLAVA | {"mm_hidden_size": 1152}),
    "clip-l-336": (CLIP, LLAVA),
    "kimi-k3": (MOON, MOON_MERGER),
}
"""Sizes: the config.json and preprocessor_config.json of Qwen2-VL-2B, Qwen2.5-VL-3B, Qwen3-VL-8B, Qwen3.5-27B,
siglip-so400m-patch14-384, clip-vit-large-patch14-336 and Kimi-K3; the bounds of Qwen2-VL's and Qwen2.5-VL's videos are
the defaults of transformers' Qwen2VLVideoProcessor, K3's patch limits those of K2.5. The two squares stand before
LLaVA-1.5's projector."""


def beside(text: dict[str, Any], name: str, /, **vision: Any) -> dict[str, Any]:
    """A spec with a tower and its projector beside a text model of the hidden size that they lead to."""
    tower, projector = deepcopy(TOWERS[name])
    backbone = deepcopy(text["backbone"]) | {"hidden_size": projector["text_hidden_size"]}
    return text | {"backbone": backbone, "vision": tower | vision, "projector": projector}


def small(name: str, /, **vision: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same tower with few and narrow layers: 4 of 24 features in 3 heads; its projector makes 40."""
    tower, projector = deepcopy(TOWERS[name])
    sizes = {"num_hidden_layers": 4, "hidden_size": 24, "num_attention_heads": 3, "head_dim": 8, "patch_size": 4}
    given = sizes | {"intermediate_size": 48} | vision
    merged = 24 * tower["spatial_merge_size"] ** 2
    for key, less in (("fullatt_block_indexes", [1, 3]), ("deepstack_visual_indexes", [2, 0]), ("window_size", 16)):
        if tower.get(key):
            given.setdefault(key, less)
    if "interpolate_pos_encoding" in tower:
        given.setdefault("num_position_embeddings", 25)
    elif tower.get("num_position_embeddings"):
        given.setdefault("num_position_embeddings", 36 + bool(tower.get("class_token")))
        given.setdefault("processor", {"kind": "fixed", "image_size": 24})
    if tower["processor"]["kind"] == "smart_resize":
        bounds = {"min_pixels": 512, "max_pixels": 4096, "video_min_pixels": 256, "video_max_pixels": 2048}
        given.setdefault("processor", tower["processor"] | bounds)
    return tower | given, projector | {"mm_hidden_size": 24, "intermediate_size": merged, "text_hidden_size": 40}
