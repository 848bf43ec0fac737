"""Sites: the one label an operation carries besides its path. Recompute, FP8 and offload options are sets of sites."""

FP8_LINEARS = frozenset(
    {
        *("q_down", "q_up", "kv_down", "kv_up", "qkv", "attn_out"),
        *("dense_fc1", "dense_fc2", "expert_fc1", "expert_fc2", "shared_fc1", "shared_fc2", "latent"),
    }
)
"""Where linears multiply in FP8 in a run that does so: TransformerEngine's modules in a layer (Megatron-LM
core/models/gpt/gpt_layer_specs.py). Router, embedding, head and a vision tower stay in 16 bits."""

SITES = frozenset(
    {
        "embedding",
        "attn_norm",
        "q_down",
        "q_norm",
        "q_up",
        "kv_down",
        "kv_norm",
        "kv_up",
        "qkv",
        "qk_norm",
        "rope",
        "core_attn",
        "attn_out",
        "residual",
        "attn_res",
        "mlp_norm",
        "attn_post_norm",
        "mlp_post_norm",
        "conv",
        "scan",
        "index",
        "dense_fc1",
        "dense_act",
        "dense_fc2",
        "router",
        "dispatch",
        "expert_fc1",
        "moe_act",
        "expert_fc2",
        "combine",
        "latent",
        "shared_fc1",
        "shared_act",
        "shared_fc2",
        "shared_gate",
        "mtp_in",
        "final_norm",
        "head",
        "loss",
        "patch_embed",
        "vision_norm",
        "vision_qkv",
        "vision_core_attn",
        "vision_attn_out",
        "vision_fc1",
        "vision_act",
        "vision_fc2",
        "vision_merge",
        "projector_norm",
        "projector_fc1",
        "projector_act",
        "projector_fc2",
    }
)
