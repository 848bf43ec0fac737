"""Mixtures of experts under grouped-query attention. Sources: transformers 5.24, models/TYPE/."""

from __future__ import annotations

from archcalc.hf import rules
from archcalc.hf.config import Config
from archcalc.hf.dialect import Dialect, Fixed, Key, Rule, Table
from archcalc.hf.families.common import BACKBONE, BIASED, DEEPSEEK_MOE, DENSE, EXPERTS_BY_NUMBER, GQA, MOE, SLIDING
from archcalc.hf.families.dense import HALF, QWEN3_ATTENTION
from archcalc.hf.patterns import (
    LAYER_TYPES,
    alternating_windows,
    depth,
    ernie,
    every_window,
    every_window_if_used,
    first_dense,
    layers,
    named,
    sparse_step,
    types_of,
    upper_windows,
)

MIXTRAL_NAMES = (
    (r"\.mlp\.", ".block_sparse_moe."),
    *EXPERTS_BY_NUMBER,
)
"""Mixtral's checkpoint calls its experts' matrices so (transformers, conversion_mapping.py)."""

LOCAL_MOE: Table = {
    **MOE,
    "n_routed_experts": "num_local_experts",
    "moe_intermediate_size": "intermediate_size",
    "norm_topk_prob": Fixed(True),
}
"""Every expert as wide as `intermediate_size` says."""

QWEN_SHARED: Table = {
    "n_shared_experts": Fixed(1),
    "shared_expert_intermediate_size": "shared_expert_intermediate_size",
    "shared_expert_gate": Fixed(True, "a sigmoid gate on the shared expert"),
    "shared_name": Fixed("shared_expert"),
}

ROTARY: Table = {"rotary_dim": rules.partial(key_of_its_own=True)}

NOAUX: Table = {
    "scoring_func": Fixed("sigmoid"),
    "topk_method": Fixed("noaux_tc", "its e_score_correction_bias is a buffer, not a parameter"),
}

DOTS_WINDOWS = named("layer_types", LAYER_TYPES, upper_windows)


def _windows_used(config: Config) -> bool:
    """`use_sliding_window`, which dots1's class ignores: it may say anything where no layer slides."""
    return "sliding" in DOTS_WINDOWS(config) or config.data["use_sliding_window"]


QWEN2_MOE_ATTENTION: Table = {**GQA, "attention_bias": "qkv_bias"}
QKV_BIASED: Table = {**GQA, "attention_bias": "attention_bias"}

MOE_TEXT = (
    Dialect(
        model_type="mixtral",
        backbone=BACKBONE,
        attention={"full": GQA, "sliding": {**GQA, **SLIDING}},
        ffn={"moe": LOCAL_MOE},
        layers=layers(every_window, "moe"),
        must={"layer_types": types_of(every_window)},
        scope_names=MIXTRAL_NAMES,
    ),
    Dialect(
        model_type="qwen2_moe",
        backbone=BACKBONE,
        attention={"full": QWEN2_MOE_ATTENTION, "sliding": {**QWEN2_MOE_ATTENTION, **SLIDING}},
        ffn={"dense": DENSE, "moe": {**MOE, **QWEN_SHARED}},
        layers=layers(alternating_windows, sparse_step),
    ),
    Dialect(
        model_type="qwen3_moe",
        backbone=BACKBONE,
        attention={"full": QWEN3_ATTENTION, "sliding": {**QWEN3_ATTENTION, **SLIDING}},
        ffn={"dense": DENSE, "moe": MOE},
        layers=layers(every_window_if_used, sparse_step),
        must={"use_qk_norm": (True,), "layer_types": types_of(every_window_if_used)},
    ),
    Dialect(
        model_type="minimax_m2",
        backbone={
            **BACKBONE,
            "num_nextn_predict_layers": rules.mtp("num_mtp_modules"),
            "mtp_stored": rules.UNKNOWN,
        },
        attention={"full": {**GQA, "qk_norm": Fixed("full", "over all heads at once, always"), **ROTARY}},
        ffn={"moe": {**LOCAL_MOE, **NOAUX}},
        layers=layers("full", "moe"),
        must={
            "use_qk_norm": (True,),
            "qk_norm_type": ("per_layer",),
            "use_routing_bias": (True,),
            "scoring_func": ("sigmoid",),
            "shared_intermediate_size": (0,),
            "mtp_transformer_layers": (1,),
            "attn_type_list": lambda config: [1] * depth(config),
        },
        harmless=frozenset({"use_mtp"}),
        scope_names=MIXTRAL_NAMES,
    ),
    Dialect(
        model_type="glm4_moe",
        backbone={
            **BACKBONE,
            "num_nextn_predict_layers": rules.mtp("num_nextn_predict_layers"),
            "mtp_stored": rules.UNKNOWN,
        },
        attention={"full": {**QKV_BIASED, "qk_norm": rules.when("use_qk_norm", "per_head"), **HALF}},
        ffn={"dense": DENSE, "moe": DEEPSEEK_MOE},
        layers=layers("full", first_dense()),
        must={
            "scoring_func": ("sigmoid",),
            "topk_method": ("noaux_tc",),
            "moe_layer_freq": (1,),
            "decoder_sparse_step": (1,),
        },
    ),
    Dialect(
        model_type="dots1",
        backbone=BACKBONE,
        attention={"full": QWEN3_ATTENTION, "sliding": {**QWEN3_ATTENTION, **SLIDING}},
        ffn={"dense": DENSE, "moe": DEEPSEEK_MOE},
        layers=layers(DOTS_WINDOWS, first_dense()),
        must={
            "scoring_func": ("noaux_tc", "sigmoid"),
            "topk_method": ("noaux_tc",),
            "moe_layer_freq": (1,),
            "use_sliding_window": _windows_used,
        },
    ),
    Dialect(
        model_type="granitemoe",
        backbone=BACKBONE,
        attention={"full": BIASED},
        ffn={"moe": LOCAL_MOE},
        layers=layers("full", "moe"),
        scope_names=(
            (r"\.mlp\.gate$", ".block_sparse_moe.router.layer"),
            (r"\.mlp\.experts\.(\d+|\*|\{e\})\.(gate|up)_proj", ".block_sparse_moe.input_linear"),
            (r"\.mlp\.experts\.(\d+|\*|\{e\})\.down_proj", ".block_sparse_moe.output_linear"),
        ),
    ),
    Dialect(
        model_type="olmoe",
        backbone=BACKBONE,
        attention={
            "full": {
                **BIASED,
                "head_dim": Rule(rules.even_head_dim),
                "qk_norm": Fixed("full", "over all heads at once"),
            }
        },
        ffn={"moe": {**MOE, "moe_intermediate_size": "intermediate_size"}},
        layers=layers("full", "moe"),
        must={"mlp_bias": (False,)},
    ),
    Dialect(
        model_type="phimoe",
        backbone={
            **{key: source for key, source in BACKBONE.items() if key != "rms_norm_eps"},
            "norm": Fixed("layer", "LayerNorm, with weight and bias"),
            "layer_norm_eps": "rms_norm_eps",
            "lm_head_bias": "lm_head_bias",
        },
        attention={"full": BIASED, "sliding": {**BIASED, **SLIDING}},
        ffn={"moe": {**LOCAL_MOE, "norm_topk_prob": Fixed(False, "sparsemixer")}},
        layers=layers(every_window, "moe"),
        must={"layer_types": types_of(every_window)},
        scope_names=MIXTRAL_NAMES,
    ),
    Dialect(
        model_type="ernie4_5_moe",
        backbone=BACKBONE,
        attention={"full": GQA},
        ffn={
            "dense": DENSE,
            "moe": {
                **MOE,
                "n_routed_experts": "moe_num_experts",
                "num_experts_per_tok": "moe_k",
                "n_shared_experts": Key("moe_num_shared_experts", otherwise=0),
                "topk_method": Fixed("noaux_tc"),
                "correction_bias": Fixed("parameter", "moe_statics: a parameter of the class, without gradient"),
                "norm_topk_prob": Fixed(True),
            },
        },
        layers=layers("full", ernie),
        must={"use_bias": (False,)},
    ),
)
