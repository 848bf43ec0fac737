"""Dense text models: Llama and its relatives. Sources: transformers 5.24, models/TYPE/configuration_TYPE.py and
modeling_TYPE.py."""

from __future__ import annotations

from archcalc.hf import inverses, rules
from archcalc.hf.dialect import Dialect, Fixed, Rule, Table
from archcalc.hf.families.common import BACKBONE, BIASED, DENSE, GQA, SLIDING
from archcalc.hf.patterns import (
    LAYER_TYPES,
    every_window,
    interval,
    layers,
    named,
    smollm,
    types_of,
    windows_if_used,
)

PLAIN = layers("full", "dense")
WINDOWS = windows_if_used("layer_types", LAYER_TYPES)

PARTIAL: Table = {"rotary_dim": rules.partial()}
HALF: Table = {"rotary_dim": rules.partial(0.5)}
WITHOUT_ROPE: Table = {"rope_parameters": {"rope_theta": Fixed(None, "no_rope_layers: this layer does not rotate")}}

LLAMA = Dialect(
    model_type="llama",
    backbone=BACKBONE,
    attention={"full": BIASED},
    ffn={"dense": {**DENSE, "mlp_bias": "mlp_bias"}},
    layers=PLAIN,
    checks=(rules.check_heads,),
)

QWEN2_ATTENTION: Table = {**GQA, "attention_bias": Fixed(True, "Qwen2's q, k and v always have one")}
QWEN3_ATTENTION: Table = {**BIASED, "qk_norm": Fixed("per_head")}
GEMMA_ATTENTION: Table = {**QWEN3_ATTENTION, "head_dim": Rule(rules.head_dim, inverses.scaled_head_dim)}

DENSE_TEXT = (
    LLAMA,
    LLAMA._replace(model_type="internlm3", checks=(rules.check_heads, rules.check_biases)),
    Dialect(
        model_type="mistral",
        backbone=BACKBONE,
        attention={"full": GQA, "sliding": {**GQA, **SLIDING}},
        ffn={"dense": DENSE},
        layers=layers(every_window, "dense"),
        must={"attention_bias": (False,), "mlp_bias": (False,), "layer_types": types_of(every_window)},
    ),
    Dialect(
        model_type="qwen2",
        backbone=BACKBONE,
        attention={"full": QWEN2_ATTENTION, "sliding": {**QWEN2_ATTENTION, **SLIDING}},
        ffn={"dense": DENSE},
        layers=layers(WINDOWS, "dense"),
        must={"attention_bias": (True,), "qkv_bias": (True,), "use_qk_norm": (False,), "use_mrope": (False,)},
    ),
    Dialect(
        model_type="qwen3",
        backbone=BACKBONE,
        attention={"full": QWEN3_ATTENTION, "sliding": {**QWEN3_ATTENTION, **SLIDING}},
        ffn={"dense": DENSE},
        layers=layers(WINDOWS, "dense"),
        must={"use_qk_norm": (True,)},
    ),
    Dialect(
        model_type="smollm3",
        backbone=BACKBONE,
        attention={
            "full": BIASED,
            "sliding": {**BIASED, **SLIDING},
            "full_nope": {**BIASED, **WITHOUT_ROPE},
            "sliding_nope": {**BIASED, **SLIDING, **WITHOUT_ROPE},
        },
        ffn={"dense": {**DENSE, "mlp_bias": "mlp_bias"}},
        layers=layers(smollm, "dense"),
    ),
    Dialect(
        model_type="seed_oss",
        backbone=BACKBONE,
        attention={"full": {**BIASED, "attention_out_bias": "attention_out_bias"}},
        ffn={"dense": {**DENSE, "mlp_bias": "mlp_bias"}},
        layers=PLAIN,
    ),
    LLAMA._replace(model_type="granite", checks=()),
    Dialect(
        model_type="arcee",
        checks=(rules.check_heads,),
        backbone=BACKBONE,
        attention={"full": BIASED},
        ffn={"dense": {**DENSE, "gated": Fixed(False, "two matrices"), "mlp_bias": "mlp_bias"}},
        layers=PLAIN,
    ),
    Dialect(
        model_type="ernie4_5",
        backbone=BACKBONE,
        attention={"full": {**GQA, "attention_bias": "use_bias", "attention_out_bias": "use_bias"}},
        ffn={"dense": {**DENSE, "mlp_bias": "use_bias"}},
        layers=PLAIN,
    ),
    Dialect(
        model_type="olmo2",
        backbone={**BACKBONE, "norm_placement": Fixed("post", "a norm behind attention and feed-forward, none before")},
        attention={"full": {**BIASED, "qk_norm": Fixed("full", "over all heads at once")}},
        ffn={"dense": DENSE},
        layers=PLAIN,
        must={"mlp_bias": (False,)},
    ),
    Dialect(
        model_type="glm4",
        backbone={**BACKBONE, "norm_placement": Fixed("sandwich")},
        attention={"full": {**GQA, "attention_bias": "attention_bias", **HALF}},
        ffn={"dense": DENSE},
        layers=PLAIN,
        norm_names={
            "attention": {"output_norm": "post_self_attn_layernorm"},
            "ffn": {"input_norm": "post_attention_layernorm", "output_norm": "post_mlp_layernorm"},
        },
    ),
    Dialect(
        model_type="phi3",
        backbone=BACKBONE,
        attention={"full": {**GQA, **PARTIAL}, "sliding": {**GQA, **PARTIAL, **SLIDING}},
        ffn={"dense": DENSE},
        layers=layers(every_window, "dense"),
        must={"attention_bias": (False,), "mlp_bias": (False,), "layer_types": types_of(every_window)},
        scope_names=(
            (r"self_attn\.[qkv]_proj", "self_attn.qkv_proj"),
            (r"mlp\.(gate|up)_proj", "mlp.gate_up_proj"),
        ),
    ),
    Dialect(
        model_type="mimo",
        backbone={**BACKBONE, "num_nextn_predict_layers": rules.mtp("num_nextn_predict_layers")},
        attention={"full": QWEN2_ATTENTION, "sliding": {**QWEN2_ATTENTION, **SLIDING}},
        ffn={"dense": DENSE},
        layers=layers(WINDOWS, "dense"),
        must={"attention_bias": (True,), "use_mrope": (False,)},
        proof="the sum over MiMo-7B's released header is the config's total: 7,622,619,136",
    ),
    Dialect(
        model_type="gemma3_text",
        checks=(rules.check_heads,),
        backbone={
            **BACKBONE,
            "norm": Fixed("rms_zero_centered", "Gemma3RMSNorm multiplies by 1 + weight"),
            "norm_placement": Fixed("sandwich", "a norm before and one after attention and feed-forward"),
            "rope_theta": rules.theta_of("full_attention", "rope_theta", 1_000_000.0),
        },
        attention={
            "full": GEMMA_ATTENTION,
            "sliding": {
                **GEMMA_ATTENTION,
                **SLIDING,
                "rope_parameters": {
                    "rope_theta": rules.theta_of("sliding_attention", "rope_local_base_freq", 10_000.0),
                    "rope_scaling": Fixed(None),
                },
            },
        },
        ffn={"dense": {**DENSE, "hidden_act": "hidden_activation"}},
        layers=layers(
            named("layer_types", LAYER_TYPES, interval("sliding_window_pattern", 6, "full", "sliding")), "dense"
        ),
        must={"use_bidirectional_attention": (False,)},
    ),
)
