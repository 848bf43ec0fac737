"""Models with multi-head latent attention: DeepSeek, Kimi, GLM. Sources: transformers 5.24, models/TYPE/; Kimi K3 has
no public class: its released header."""

from __future__ import annotations

from archcalc.hf import rules
from archcalc.hf.config import Config
from archcalc.hf.dialect import Dialect, Fixed, Key, Must, Table
from archcalc.hf.families.common import BACKBONE, DEEPSEEK_MOE, DENSE, EXPERTS_BY_NUMBER, MLA
from archcalc.hf.patterns import first_dense, first_layer_dense, indexers, kda, layers, named

WITH_MTP: Table = {**BACKBONE, "num_nextn_predict_layers": rules.mtp("num_nextn_predict_layers")}
SPARSE = {"dense": "dense", "sparse": "moe"}


def _qk_head_dim(config: Config) -> int:
    return config.integer("qk_nope_head_dim") + config.integer("qk_rope_head_dim")


ROUTING: Must = {
    "scoring_func": ("sigmoid",),
    "topk_method": ("noaux_tc",),
    "moe_layer_freq": (1,),
    "qk_head_dim": _qk_head_dim,
    "mlp_bias": (False,),
    "use_qk_norm": (False,),
}
FFN: dict[str, Table] = {"dense": DENSE, "moe": DEEPSEEK_MOE}
OWN_INDEX: Table = {
    "indexer": {"index_n_heads": "index_n_heads", "index_head_dim": "index_head_dim", "index_topk": "index_topk"}
}

DEEPSEEK_V3 = Dialect(
    model_type="deepseek_v3",
    backbone=WITH_MTP,
    attention={"mla": MLA},
    ffn=FFN,
    layers=layers("mla", first_dense()),
    must=ROUTING,
    harmless=frozenset({"num_key_value_heads", "head_dim", "ep_size"}),
)

K3_MOE: Table = {
    **DEEPSEEK_MOE,
    "n_routed_experts": "num_experts",
    "num_experts_per_tok": "num_experts_per_token",
    "n_shared_experts": Key("num_shared_experts", otherwise=0),
    "n_group": Key("num_expert_group", otherwise=1),
    "norm_topk_prob": "moe_renormalize",
}

KDA: Table = {
    "kind": Fixed("kda"),
    "num_heads": rules.inside("linear_attn_config", "num_heads", "linear_num_heads"),
    "head_dim": rules.inside("linear_attn_config", "head_dim", "linear_head_dim"),
    "short_conv_kernel_size": rules.inside("linear_attn_config", "short_conv_kernel_size", "linear_conv_kernel_dim"),
}

NO_ROPE: Table = {"rope_theta": Fixed(None, "no rotary embedding: mla_use_nope"), "rope_scaling": Fixed(None)}

SAME_EXPERTS: Must = {**ROUTING, "num_experts": lambda config: config.value("n_routed_experts")}
"""The class takes `num_experts` for the same."""

INDEXED = DEEPSEEK_V3.harmless | {"layer_types", "first_k_dense_replace"}
"""`layer_types` says indexed_attention (or deepseek_sparse_attention) of every layer, whatever else."""

KIMI_NAMES = (
    (r"\.mlp\.(?=experts|shared_experts|routed_expert|gate(\.|$))", ".block_sparse_moe."),
    *EXPERTS_BY_NUMBER,
)
"""Modules of Kimi Linear's and K3's mixtures, as their releases call them."""

KIMI_ALWAYS: Must = {"moe_router_activation_func": ("sigmoid",), "mla_use_nope": (True,), "moe_layer_freq": (1,)}

LATENT_TEXT = (
    DEEPSEEK_V3,
    DEEPSEEK_V3._replace(model_type="kimi_k2", class_type="deepseek_v3", architectures=("DeepseekV3ForCausalLM",)),
    Dialect(
        model_type="deepseek_v2",
        checks=(rules.check_heads,),
        backbone=WITH_MTP,
        attention={"mla": MLA},
        ffn={
            "dense": DENSE,
            "moe": {
                **DEEPSEEK_MOE,
                "scoring_func": Fixed("softmax"),
                "num_experts_per_tok": rules.assumed(
                    "num_experts_per_tok", 6, "the config has none; DeepSeek-V2 and V2-Lite have 6"
                ),
                "topk_method": rules.one_of("topk_method", "greedy", "group_limited_greedy"),
                "norm_topk_prob": Key("norm_topk_prob", otherwise=False),
            },
        },
        layers=layers("mla", first_dense()),
        must={"mlp_bias": (False,), "scoring_func": ("softmax",), "moe_layer_freq": (1,), "qk_head_dim": _qk_head_dim},
        harmless=DEEPSEEK_V3.harmless,
    ),
    Dialect(
        model_type="deepseek_v32",
        backbone=WITH_MTP,
        attention={"mla": {**MLA, **OWN_INDEX}},
        ffn=FFN,
        layers=layers("mla", named("mlp_layer_types", SPARSE, first_dense())),
        must=SAME_EXPERTS,
        harmless=INDEXED,
    ),
    Dialect(
        model_type="glm_moe_dsa",
        backbone={
            **WITH_MTP,
            "mtp_stored": rules.UNKNOWN,
            "mtp_layer": Fixed({"attention": "full", "ffn": "moe"}, "a layer with its own indexer"),
        },
        attention={"full": {**MLA, **OWN_INDEX}, "shared": {**MLA, "index_topk": "index_topk"}},
        ffn=FFN,
        layers=layers(indexers, named("mlp_layer_types", SPARSE, first_dense())),
        must=SAME_EXPERTS,
        harmless=INDEXED
        | {
            "indexer_rope_interleave",
            "first_k_dense_replace",
            "index_topk_freq",
            "index_skip_topk_offset",
            "index_topk_pattern",
        },
    ),
    Dialect(
        model_type="glm4_moe_lite",
        backbone={**WITH_MTP, "mtp_stored": rules.UNKNOWN},
        attention={"mla": MLA},
        ffn=FFN,
        layers=layers("mla", named("mlp_layer_types", SPARSE, first_layer_dense)),
        must={**ROUTING, "first_k_dense_replace": (1,)},
        harmless=DEEPSEEK_V3.harmless,
    ),
    Dialect(
        model_type="kimi_linear",
        backbone={
            **WITH_MTP,
            "tie_word_embeddings": Fixed(False, "KimiLinearForCausalLM never ties"),
            "max_position_embeddings": "model_max_length",
            **NO_ROPE,
        },
        attention={
            "full": MLA,
            "linear": {
                **KDA,
                "use_full_rank_gate": Fixed(False),
                "a_log_size": rules.inside("linear_attn_config", "num_heads", "linear_num_heads"),
            },
        },
        ffn={"dense": DENSE, "moe": K3_MOE},
        layers=layers(kda, named("mlp_layer_types", SPARSE, first_dense("first_k_dense_replace", 1))),
        must={**KIMI_ALWAYS, "tie_word_embeddings": (False,)},
        scope_names=KIMI_NAMES,
        harmless=DEEPSEEK_V3.harmless | {"use_grouped_topk", "rope_theta", "rope_parameters", "rope_scaling"},
    ),
)

KIMI_K3_TEXT = Dialect(
    model_type="kimi_k3_text",
    class_type="kimi_k3",
    backbone={
        **WITH_MTP,
        **NO_ROPE,
        "attn_res_block_size": "attn_res_block_size",
    },
    attention={
        "full": {
            **MLA,
            "attention_bias": Fixed(False),
            "output_gate": rules.when("mla_use_output_gate", "elementwise"),
        },
        "linear": {
            **KDA,
            "use_full_rank_gate": rules.inside("linear_attn_config", "use_full_rank_gate"),
            "a_log_size": rules.inside("linear_attn_config", "head_dim"),
        },
    },
    ffn={
        "dense": DENSE,
        "moe": {
            **K3_MOE,
            "topk_group": Key("topk_group", otherwise=1),
            "routed_expert_hidden_size": "routed_expert_hidden_size",
            "latent_moe_use_norm": "latent_moe_use_norm",
        },
    },
    layers=layers(kda, first_dense()),
    must=KIMI_ALWAYS,
    harmless=frozenset(
        {
            "num_key_value_heads",
            "head_dim",
            "rope_theta",
            "rope_scaling",
            "activation_situ_beta",
            "activation_situ_linear_beta",
            "use_grouped_topk",
        }
    ),
    scope_names=KIMI_NAMES,
    proof="the sum over Kimi K3's released header is the config's total: 2,779,931,754,752",
)
"""`text_config` of Kimi K3: it calls itself kimi_linear, and is more."""
