"""Tables that several families share: the usual backbone, attention and feed-forward of transformers' classes."""

from __future__ import annotations

from archcalc.hf import inverses, rules
from archcalc.hf.dialect import Fixed, Key, Rule, Table

BACKBONE: Table = {
    "hidden_size": "hidden_size",
    "vocab_size": "vocab_size",
    "num_hidden_layers": "num_hidden_layers",
    "max_position_embeddings": "max_position_embeddings",
    "tie_word_embeddings": "tie_word_embeddings",
    "num_nextn_predict_layers": Fixed(0),
    "rms_norm_eps": "rms_norm_eps",
    "dtype": Rule(rules.dtype),
    "rope_theta": Rule(rules.rope_theta, inverses.rope_theta),
    "rope_scaling": Rule(rules.rope_scaling, inverses.rope_scaling),
}

GQA: Table = {
    "kind": Fixed("gqa"),
    "num_attention_heads": "num_attention_heads",
    "num_key_value_heads": Rule(rules.kv_heads, inverses.same("num_key_value_heads")),
    "head_dim": Rule(rules.head_dim, inverses.same("head_dim")),
    "attention_bias": Fixed(False),
    "attention_out_bias": Fixed(False),
    "qk_norm": Fixed(None),
}

BIASED: Table = {**GQA, "attention_bias": "attention_bias", "attention_out_bias": "attention_bias"}
"""Biases on all four projections, or on none."""

SLIDING: Table = {"sliding_window": "sliding_window"}

DENSE: Table = {
    "kind": Fixed("dense"),
    "intermediate_size": "intermediate_size",
    "hidden_act": "hidden_act",
    "gated": Fixed(True),
    "mlp_bias": Fixed(False),
}

MOE: Table = {
    "kind": Fixed("moe"),
    "n_routed_experts": "num_experts",
    "num_experts_per_tok": "num_experts_per_tok",
    "n_shared_experts": Fixed(0),
    "moe_intermediate_size": "moe_intermediate_size",
    "hidden_act": "hidden_act",
    "scoring_func": Fixed("softmax"),
    "topk_method": Fixed("greedy"),
    "n_group": Fixed(1),
    "topk_group": Fixed(1),
    "norm_topk_prob": "norm_topk_prob",
    "routed_scaling_factor": Fixed(1.0),
}
"""Plain softmax routing without shared experts."""

DEEPSEEK_MOE: Table = {
    **MOE,
    "n_routed_experts": "n_routed_experts",
    "n_shared_experts": Key("n_shared_experts", otherwise=0),
    "scoring_func": Fixed("sigmoid"),
    "topk_method": Fixed("noaux_tc", "its e_score_correction_bias is a buffer, not a parameter"),
    "n_group": Key("n_group", otherwise=1),
    "topk_group": Key("topk_group", otherwise=1),
    "routed_scaling_factor": "routed_scaling_factor",
}

MLA: Table = {
    "kind": Fixed("mla"),
    "num_attention_heads": rules.every_head(),
    "q_lora_rank": "q_lora_rank",
    "kv_lora_rank": "kv_lora_rank",
    "qk_nope_head_dim": "qk_nope_head_dim",
    "qk_rope_head_dim": "qk_rope_head_dim",
    "v_head_dim": "v_head_dim",
    "attention_bias": "attention_bias",
}

EXPERTS_BY_NUMBER = (
    (r"\.(\d+|\*|\{e\})\.gate_proj", r".\1.w1"),
    (r"\.(\d+|\*|\{e\})\.down_proj", r".\1.w2"),
    (r"\.(\d+|\*|\{e\})\.up_proj", r".\1.w3"),
)
"""An expert's matrices as Mixtral's checkpoint calls them (transformers, conversion_mapping.py)."""
