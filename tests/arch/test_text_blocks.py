"""Parameters of the text blocks, one layer at a time."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from archcalc.arch.attention.gqa import GQA
from archcalc.arch.attention.mla import MLA
from archcalc.arch.ffn.dense import DenseFFN
from archcalc.arch.ffn.moe import MoE
from archcalc.tape import Dim, Tape, Tensor, value
from archcalc.workload import Workload

ABSORBED, EXPANDED = (("mla", "absorbed"),), (("mla", "expanded"),)

K2_MLA = {
    "kind": "mla",
    "num_attention_heads": 64,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "attention_bias": False,
}
GQA_SECTION = {
    "kind": "gqa",
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "attention_bias": False,
    "attention_out_bias": False,
    "qk_norm": None,
}
MOE_SECTION = {
    "kind": "moe",
    "n_routed_experts": 6,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "moe_intermediate_size": 10,
    "hidden_act": "silu",
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
}


def counted(block: type[Any], section: dict[str, Any], hidden: int, **workload: Any) -> dict[str, int]:
    """Elements of each weight of one block, by path and suffix."""
    tape = Tape(Workload(**workload))
    with tape.segment("b", "backbone") as x:
        rows, features = (Dim("batch", 1), Dim("seq", 4)), (Dim("hidden_size", hidden),)
        block.model_validate(section).forward(tape, Tensor(rows, features, x.storage))
    return {f"{w.path}.{w.suffix}".removeprefix("b."): w.elements for w in tape.weights()}


def test_mla_of_kimi_k2_has_the_shapes_of_its_checkpoint() -> None:
    assert counted(MLA, K2_MLA, 7168) == {
        "q_a_proj.weight": 1536 * 7168,
        "q_a_layernorm.weight": 1536,
        "q_b_proj.weight": 12288 * 1536,  # 64 heads x (128 + 64)
        "kv_a_proj_with_mqa.weight": 576 * 7168,  # 512 + 64
        "kv_a_layernorm.weight": 512,
        "kv_b_proj.weight": 16384 * 512,  # 64 heads x (128 + 128)
        "o_proj.weight": 7168 * 8192,  # 64 heads x 128
    }


def test_mla_without_a_query_rank_projects_straight() -> None:
    weights = counted(MLA, K2_MLA | {"q_lora_rank": None}, 7168)
    assert weights["q_proj.weight"] == 12288 * 7168
    assert not [name for name in weights if name.startswith(("q_a", "q_b"))]


def test_mla_biases_stand_where_deepseek_v3_has_them() -> None:
    # modeling_deepseek.py: bias=config.attention_bias on q_a_proj, kv_a_proj_with_mqa and o_proj only
    plain, biased = counted(MLA, K2_MLA, 7168), counted(MLA, K2_MLA | {"attention_bias": True}, 7168)
    assert {name: biased[name] for name in biased.keys() - plain.keys()} == {
        "q_a_proj.bias": 1536,
        "kv_a_proj_with_mqa.bias": 576,
        "o_proj.bias": 7168,
    }


def test_absorbed_mla_uses_the_same_weights_as_expanded_mla() -> None:
    assert counted(MLA, K2_MLA, 7168, choices=ABSORBED) == counted(MLA, K2_MLA, 7168, choices=EXPANDED)


def test_gqa_takes_head_dim_as_given_and_never_divides_the_hidden_size() -> None:
    # hidden 100 is no multiple of 8 heads
    assert counted(GQA, GQA_SECTION, 100) == {
        "q_proj.weight": 8 * 16 * 100,
        "k_proj.weight": 2 * 16 * 100,
        "v_proj.weight": 2 * 16 * 100,
        "o_proj.weight": 100 * 8 * 16,
    }


@pytest.mark.parametrize(
    ("changes", "more"),
    [
        ({"attention_bias": True}, {"q_proj.bias": 128, "k_proj.bias": 32, "v_proj.bias": 32}),  # 8x16, 2x16, 2x16
        ({"attention_out_bias": True}, {"o_proj.bias": 100}),
        ({"qk_norm": "per_head"}, {"q_norm.weight": 16, "k_norm.weight": 16}),  # Qwen3: one weight a head dim
        ({"qk_norm": "full"}, {"q_norm.weight": 128, "k_norm.weight": 32}),  # OLMo 2: over all heads
    ],
    ids=["qkv bias", "out bias", "per head", "full"],
)
def test_gqa_options_add_their_weights_and_nothing_else(changes: dict[str, Any], more: dict[str, int]) -> None:
    assert counted(GQA, GQA_SECTION | changes, 100) == counted(GQA, GQA_SECTION, 100) | more


QWEN3_NEXT = GQA_SECTION | {
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "qk_norm": "per_head",
    "output_gate": "elementwise",
    "rotary_dim": 64,
}


def test_a_gate_for_each_feature_doubles_the_query_projection() -> None:
    # transformers, models/qwen3_next: 16 heads of 256, twice; 2 key-value heads; hidden 2048
    weights = counted(GQA, QWEN3_NEXT, 2048)
    assert weights == {
        "q_proj.weight": 2 * 4096 * 2048,
        "k_proj.weight": 512 * 2048,
        "v_proj.weight": 512 * 2048,
        "q_norm.weight": 256,
        "k_norm.weight": 256,
        "o_proj.weight": 2048 * 4096,
    }
    assert sum(weights.values()) == 27_263_488


def test_a_gate_for_each_head_is_a_projection_of_its_own() -> None:
    plain, gated = (counted(GQA, GQA_SECTION | {"output_gate": gate}, 100) for gate in (None, "per_head"))
    assert gated == plain | {"g_proj.weight": 8 * 100}


def test_how_many_features_turn_is_no_weight() -> None:
    assert counted(GQA, QWEN3_NEXT | {"rotary_dim": None}, 2048) == counted(GQA, QWEN3_NEXT, 2048)


@pytest.mark.parametrize(
    ("turned", "says"), [(7, "rotary_dim 7 is odd"), (18, "rotary_dim 18 is more than head_dim 16")]
)
def test_features_of_a_head_turn_in_pairs(turned: int, says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        GQA.model_validate(GQA_SECTION | {"rotary_dim": turned})


def test_mla_layers_of_kimi_linear_and_kimi_k3() -> None:
    linear = K2_MLA | {"num_attention_heads": 32, "q_lora_rank": None}
    assert sum(counted(MLA, linear, 2304).values()) == 29_114_880  # the public class, and the released header
    k3 = counted(MLA, K2_MLA | {"num_attention_heads": 96, "output_gate": "elementwise"}, 7168)
    assert k3["g_proj.weight"] == 96 * 128 * 7168
    assert sum(k3.values()) == 232_196_096  # the released header


@pytest.mark.parametrize("choices", [ABSORBED, EXPANDED])
def test_a_gate_of_latent_attention_costs_its_projection_only(choices: Any) -> None:
    def flops(section: dict[str, Any]) -> dict[str, int]:
        tape = Tape(Workload(choices=choices))
        with tape.segment("b", "backbone") as x:
            rows, features = (Dim("batch", 1), Dim("seq", 4)), (Dim("hidden_size", 70),)
            MLA.model_validate(section).forward(tape, Tensor(rows, features, x.storage))
        return {op.path: value(op.flops) for op in tape.ops("backbone") if op.flops}

    assert flops(K2_MLA | {"output_gate": "elementwise"}) == flops(K2_MLA) | {"b.g_proj": 2 * 4 * 70 * 64 * 128}


def test_equal_head_counts_make_plain_multi_head_attention() -> None:
    weights = counted(GQA, GQA_SECTION | {"num_key_value_heads": 8}, 100)
    assert weights["k_proj.weight"] == weights["q_proj.weight"] == 12_800  # 8 x 16 x 100


def dense(**changes: Any) -> dict[str, int]:
    section = {"kind": "dense", "intermediate_size": 30, "hidden_act": "silu", "gated": True, "mlp_bias": False}
    return counted(DenseFFN, section | changes, 8)


def test_a_gated_ffn_has_three_matrices_and_a_plain_one_two() -> None:
    assert dense() == {"gate_proj.weight": 240, "up_proj.weight": 240, "down_proj.weight": 240}  # 30 x 8
    assert dense(gated=False, hidden_act="gelu") == {"up_proj.weight": 240, "down_proj.weight": 240}


def test_ffn_biases_are_as_long_as_their_outputs() -> None:
    more = {"gate_proj.bias": 30, "up_proj.bias": 30, "down_proj.bias": 8}
    assert dense(mlp_bias=True) == dense() | more


def test_moe_counts_router_routed_and_shared_experts() -> None:
    assert counted(MoE, MOE_SECTION, 8) == {
        "gate.weight": 6 * 8,
        "gate.e_score_correction_bias": 6,
        "experts.{e}.gate_proj.weight": 6 * 10 * 8,
        "experts.{e}.up_proj.weight": 6 * 10 * 8,
        "experts.{e}.down_proj.weight": 6 * 8 * 10,
        "shared_experts.gate_proj.weight": 10 * 8,
        "shared_experts.up_proj.weight": 10 * 8,
        "shared_experts.down_proj.weight": 8 * 10,
    }


def test_the_router_has_a_correction_bias_only_where_it_balances_without_a_loss() -> None:
    for method in ("greedy", "group_limited_greedy"):
        assert "gate.e_score_correction_bias" not in counted(MoE, MOE_SECTION | {"topk_method": method}, 8)


def test_shared_experts_are_one_ffn_as_wide_as_all_of_them() -> None:
    weights = counted(MoE, MOE_SECTION | {"n_shared_experts": 3}, 8)
    assert weights["shared_experts.up_proj.weight"] == 3 * 10 * 8


def test_without_shared_experts_there_are_none_of_their_weights() -> None:
    assert not [name for name in counted(MoE, MOE_SECTION | {"n_shared_experts": 0}, 8) if "shared" in name]
