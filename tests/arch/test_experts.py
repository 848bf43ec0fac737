"""Mixtures of experts with gates, biases and latents: exact counts of one layer, what divides, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from archcalc.arch.ffn.dense import DenseFFN
from archcalc.arch.ffn.moe import MoE
from archcalc.calc.sharding import Shards, local_elements
from archcalc.tape import Dim, Op, Tape, Tensor, Weight, product, value
from archcalc.workload import Workload
from tests.arch.test_text_blocks import MOE_SECTION, counted

TOKENS = 4
K3: dict[str, Any] = MOE_SECTION | {
    "n_routed_experts": 896,
    "num_experts_per_tok": 16,
    "n_shared_experts": 2,
    "moe_intermediate_size": 3072,
    "hidden_act": "situ",
    "routed_expert_hidden_size": 3584,
    "latent_moe_use_norm": True,
}
ROUTED_ONLY = MOE_SECTION | {"n_shared_experts": 0}


def traced(section: dict[str, Any], hidden: int) -> Tape:
    tape = Tape(Workload())
    with tape.segment("b", "backbone") as x, tape.scope("", purposes=MoE.purposes):
        rows, features = (Dim("batch", 1), Dim("seq", TOKENS, "seq")), (Dim("hidden_size", hidden),)
        MoE.model_validate(section).forward(tape, Tensor(rows, features, x.storage))
    return tape


def flops(section: dict[str, Any], hidden: int) -> dict[str, int]:
    return {op.path.removeprefix("b."): value(op.flops) for op in traced(section, hidden).ops("backbone") if op.flops}


def op(tape: Tape, path: str) -> Op:
    return next(each for each in tape.ops("backbone") if each.path == f"b.{path}")


def weight(tape: Tape, name: str) -> Weight:
    return next(w for w in tape.weights() if f"{w.path}.{w.suffix}" == f"b.{name}")


# ------------------------------------------------------------------------------------------------------ parameters


def test_a_mixture_of_kimi_k3_has_the_parameters_of_its_header() -> None:
    parts = counted(MoE, K3, 7168)
    assert parts.pop("gate.e_score_correction_bias") == 896  # a buffer
    assert parts == {
        "gate.weight": 896 * 7168,  # the router sees the hidden state
        "routed_expert_down_proj.weight": 3584 * 7168,
        "routed_expert_norm.weight": 3584,
        "routed_expert_up_proj.weight": 7168 * 3584,
        "experts.{e}.gate_proj.weight": 896 * 3072 * 3584,
        "experts.{e}.up_proj.weight": 896 * 3072 * 3584,
        "experts.{e}.down_proj.weight": 896 * 3584 * 3072,
        "shared_experts.gate_proj.weight": 6144 * 7168,  # 2 x 3072, on the hidden state too
        "shared_experts.up_proj.weight": 6144 * 7168,
        "shared_experts.down_proj.weight": 7168 * 6144,
    }
    assert sum(parts.values()) == 29_784_935_936  # header of moonshotai/Kimi-K3, summed over its rows of one layer


def test_a_shared_expert_may_have_a_width_a_gate_and_a_name_of_its_own() -> None:
    own = {"shared_expert_intermediate_size": 7, "shared_expert_gate": True, "shared_name": "shared_expert"}
    parts = counted(MoE, MOE_SECTION | own, 5)
    assert {name: n for name, n in parts.items() if "shared" in name} == {
        "shared_expert.gate_proj.weight": 7 * 5,
        "shared_expert.up_proj.weight": 7 * 5,
        "shared_expert.down_proj.weight": 5 * 7,
        "shared_expert_gate.weight": 5,
    }


def test_biases_of_experts_are_as_long_as_their_outputs_and_there_is_one_of_each_expert() -> None:
    parts = counted(MoE, ROUTED_ONLY | {"expert_bias": True, "router_bias": "trained", "topk_method": "greedy"}, 5)
    assert {name: n for name, n in parts.items() if name.endswith("bias")} == {
        "gate.bias": 6,
        "experts.{e}.gate_proj.bias": 6 * 10,
        "experts.{e}.up_proj.bias": 6 * 10,
        "experts.{e}.down_proj.bias": 6 * 5,
    }


def test_plain_experts_have_two_matrices_routed_and_shared_alike() -> None:
    parts = counted(MoE, MOE_SECTION | {"gated": False, "hidden_act": "relu2"}, 5)
    assert not [name for name in parts if "gate_proj" in name]
    assert parts["experts.{e}.up_proj.weight"] == parts["experts.{e}.down_proj.weight"] == 6 * 10 * 5
    assert parts["shared_experts.up_proj.weight"] == parts["shared_experts.down_proj.weight"] == 10 * 5


def test_a_steering_bias_that_is_a_parameter_counts_and_is_not_trained() -> None:
    buffer, parameter = (
        weight(traced(MOE_SECTION | {"correction_bias": kind}, 5), f"{module}.e_score_correction_bias")
        for kind, module in (("buffer", "gate"), ("parameter", "moe_statics"))
    )
    assert (buffer.trainable, parameter.trainable) == (False, True)
    assert not buffer.trained
    assert not parameter.trained  # transformers, ernie4_5_moe: requires_grad=False
    assert (buffer.shape, parameter.shape) == ((6,), (1, 6))
    assert buffer.dtype == parameter.dtype == "float32"


@pytest.mark.parametrize(
    "section",
    [
        K3,
        MOE_SECTION | {"correction_bias": "parameter", "shared_expert_gate": True, "shared_name": "shared_expert"},
        MOE_SECTION | {"expert_bias": True, "router_bias": "trained", "gated": False},
    ],
)
def test_every_weight_says_what_it_is_for(section: dict[str, Any]) -> None:
    assert [w.path for w in traced(section, 8).weights() if not w.about] == []


# ----------------------------------------------------------------------------------------- FLOPs, rows, activations


def test_a_latent_is_made_once_a_token_and_the_experts_work_on_it() -> None:
    # 4 tokens, 2 of 6 experts, hidden 12, latent 7, width 10; 2 FLOPs a multiply-add
    assert flops(ROUTED_ONLY | {"routed_expert_hidden_size": 7}, 12) == {
        "gate": 2 * 4 * 12 * 6,
        "routed_expert_down_proj": 2 * 4 * 12 * 7,
        "experts.{e}.gate_proj": 2 * 4 * 2 * 7 * 10,
        "experts.{e}.up_proj": 2 * 4 * 2 * 7 * 10,
        "experts.{e}.down_proj": 2 * 4 * 2 * 10 * 7,
        "routed_expert_up_proj": 2 * 4 * 7 * 12,
    }


def test_a_gate_of_the_shared_expert_costs_one_logit_a_token() -> None:
    more = flops(MOE_SECTION | {"shared_expert_gate": True}, 12)
    assert more.pop("shared_expert_gate") == 2 * 4 * 12
    assert more == flops(MOE_SECTION, 12)


def test_biases_cost_no_flops() -> None:
    assert flops(MOE_SECTION | {"expert_bias": True, "router_bias": "trained"}, 12) == flops(MOE_SECTION, 12)


@pytest.mark.parametrize(("latent", "width"), [(None, 12), (7, 7)])
def test_rows_travel_to_the_experts_as_wide_as_these_work(latent: int | None, width: int) -> None:
    tape = traced(MOE_SECTION | {"routed_expert_hidden_size": latent}, 12)
    sent, returned = op(tape, "dispatch").outputs[0], op(tape, "combine").inputs[0]
    assert product(sent.features) == product(returned.features) == width
    assert product(sent.rows) == product(returned.rows) == 4 * 2


# -------------------------------------------------------------------------------------------------- what divides


def test_devices_divide_what_an_axis_divides_and_hold_the_rest_whole() -> None:
    more = {"expert_bias": True, "router_bias": "trained", "shared_expert_gate": True, "latent_moe_use_norm": True}
    tape = traced(MOE_SECTION | more | {"routed_expert_hidden_size": 7}, 12)
    shards = Shards(tp=2, ep=3, etp=2)
    held = {f"{w.path}.{w.suffix}".removeprefix("b."): local_elements(w, shards) for w in tape.weights()}
    assert held == {
        "gate.weight": 6 * 12,
        "gate.bias": 6,
        "gate.e_score_correction_bias": 6,
        "routed_expert_down_proj.weight": 7 * 12,
        "experts.{e}.gate_proj.weight": 2 * 5 * 7,  # 2 of 6 experts, half of their width of 10
        "experts.{e}.gate_proj.bias": 2 * 5,
        "experts.{e}.up_proj.weight": 2 * 5 * 7,
        "experts.{e}.up_proj.bias": 2 * 5,
        "experts.{e}.down_proj.weight": 2 * 7 * 5,
        "experts.{e}.down_proj.bias": 2 * 7,  # the output is whole on both
        "routed_expert_norm.weight": 7,
        "routed_expert_up_proj.weight": 12 * 7,
        "shared_experts.gate_proj.weight": 5 * 12,
        "shared_experts.up_proj.weight": 5 * 12,
        "shared_experts.down_proj.weight": 12 * 5,
        "shared_expert_gate.weight": 12,
    }


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_shared_experts": 0, "shared_expert_gate": True}, "shared_expert_gate needs shared experts"),
        ({"n_shared_experts": 0, "shared_expert_intermediate_size": 5}, "shared_expert_intermediate_size needs"),
        ({"n_shared_experts": 0, "shared_name": "shared_expert"}, "shared_name needs shared experts"),
        ({"latent_moe_use_norm": True}, "latent_moe_use_norm needs a latent"),
        ({"topk_method": "greedy", "correction_bias": "parameter"}, "correction_bias needs a bias"),
        ({"gated": False, "hidden_act": "situ"}, "situ works on gate and up"),
    ],
)
def test_a_key_that_nobody_would_read_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        MoE.model_validate(MOE_SECTION | changes)


def test_a_plain_ffn_has_no_activation_of_gate_and_up() -> None:
    section = {"kind": "dense", "intermediate_size": 3, "hidden_act": "situ", "mlp_bias": False}
    assert DenseFFN.model_validate(section | {"gated": True}).gated
    with pytest.raises(ValidationError, match="needs gated: true"):
        DenseFFN.model_validate(section | {"gated": False})
