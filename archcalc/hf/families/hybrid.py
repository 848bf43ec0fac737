"""Qwen's hybrids of Gated DeltaNet and gated attention. Sources: transformers 5.24, models/qwen3_next/, qwen3_5/,
qwen3_5_moe/."""

from __future__ import annotations

from archcalc.hf import inverses, rules
from archcalc.hf.dialect import Dialect, Fixed, Must, Rule, Table
from archcalc.hf.families.common import BACKBONE, BIASED, DENSE, MOE
from archcalc.hf.families.moe import QWEN_SHARED
from archcalc.hf.patterns import interval, layers, named, sparse_step
from archcalc.hf.sections import sectioned

HYBRID = {"full_attention": "full", "linear_attention": "linear"}
MIXERS = named("layer_types", HYBRID, interval("full_attention_interval", 4, "full", "linear"))
LINEAR_SCOPE = {"linear": "linear_attn"}

CENTERED: Table = {
    **BACKBONE,
    "rope_scaling": Rule(sectioned(rules.rope_scaling, 0.25), inverses.rope_scaling),
    "norm": Fixed("rms_zero_centered", "its RMSNorm multiplies by 1 + weight"),
}

GATED_ATTENTION: Table = {
    **BIASED,
    "qk_norm": Fixed("per_head"),
    "output_gate": Fixed("elementwise", "always: q_proj makes a gate beside each query"),
    "rotary_dim": rules.partial(0.25),
}

DELTANET: Table = {
    "kind": Fixed("gated_deltanet"),
    "linear_num_key_heads": "linear_num_key_heads",
    "linear_num_value_heads": "linear_num_value_heads",
    "linear_key_head_dim": "linear_key_head_dim",
    "linear_value_head_dim": "linear_value_head_dim",
    "linear_conv_kernel_dim": "linear_conv_kernel_dim",
    "hidden_act": "hidden_act",
    "in_proj": Fixed("split"),
}

GATED: Must = {"attn_output_gate": (True,)}

QWEN3_5 = Dialect(
    model_type="qwen3_5_text",
    backbone={
        **CENTERED,
        "num_nextn_predict_layers": rules.mtp("mtp_num_hidden_layers"),
        "mtp_stored": rules.UNKNOWN,
        "mtp_layer": Fixed({"attention": "full", "ffn": "dense"}),
    },
    attention={"linear": DELTANET, "full": GATED_ATTENTION},
    ffn={"dense": DENSE},
    layers=layers(MIXERS, "dense", LINEAR_SCOPE),
    must={**GATED, "mtp_use_dedicated_embeddings": (False,)},
    harmless=frozenset({"mamba_ssm_dtype", "output_gate_type", "full_attention_interval"}),
)

QWEN3_5_MOE = Dialect(
    model_type="qwen3_5_moe_text",
    backbone={
        **CENTERED,
        "num_nextn_predict_layers": rules.mtp("mtp_num_hidden_layers"),
        "mtp_stored": rules.UNKNOWN,
        "mtp_layer": Fixed({"attention": "full", "ffn": "moe"}),
    },
    attention={"linear": DELTANET, "full": GATED_ATTENTION},
    ffn={"moe": {**MOE, **QWEN_SHARED, "norm_topk_prob": Fixed(True, "always")}},
    layers=layers(MIXERS, "moe", LINEAR_SCOPE),
    must={**GATED, "mtp_use_dedicated_embeddings": (False,), "norm_topk_prob": (True,), "decoder_sparse_step": (1,)},
    harmless=QWEN3_5.harmless | {"intermediate_size", "mlp_only_layers"},
)

HYBRID_TEXT = (
    QWEN3_5,
    QWEN3_5_MOE,
    Dialect(
        model_type="qwen3_next",
        backbone={
            **CENTERED,
            "num_nextn_predict_layers": rules.mtp("num_nextn_predict_layers"),
            "mtp_stored": rules.UNKNOWN,
            "mtp_layer": Fixed({"attention": "full", "ffn": "moe"}),
        },
        attention={"linear": {**DELTANET, "in_proj": Fixed("fused")}, "full": GATED_ATTENTION},
        ffn={"dense": DENSE, "moe": {**MOE, **QWEN_SHARED}},
        layers=layers(MIXERS, sparse_step, LINEAR_SCOPE),
        must=GATED,
        harmless=frozenset({"mamba_ssm_dtype", "full_attention_interval"}),
    ),
)
