"""What a mixture keeps in eager code beside transformers' own blocks, on meta; and by hand where kernels differ."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from archcalc.reference import ffn
from archcalc.reference.factory import Factory
from archcalc.reference.fields import Section
from archcalc.reference.kernels.options import Options
from archcalc.reference.norm_kinds import NormKind
from archcalc.reference.storages import saved_bytes

pytestmark = pytest.mark.twin

transformers = pytest.importorskip("transformers")

META = torch.device("meta")
BATCH, ROWS = 2, 12
T = BATCH * ROWS
h, f, k, E, s, z = 64, 32, 2, 8, 48, 24
COMMON = {"hidden_size": h, "num_attention_heads": 4, "num_hidden_layers": 1}
ROUTED = {"num_experts_per_tok": k, "moe_intermediate_size": f}
MOE: dict[str, Any] = {
    "kind": "moe",
    "n_routed_experts": E,
    "n_shared_experts": 1,
    **ROUTED,
    "hidden_act": "silu",
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
}
NEMOTRON = MOE | {"gated": False, "hidden_act": "relu2", "shared_expert_intermediate_size": s}


def kept(block: nn.Module, run: Any = None) -> int:
    """Bytes that a block's forward keeps of T tokens, its input among them where it keeps that."""
    x = torch.empty(BATCH, ROWS, h, device=META, dtype=torch.bfloat16, requires_grad=True)
    return saved_bytes(lambda: (run or block)(x), [*block.parameters(), *block.buffers()])


def twin(section: dict[str, Any], **options: Any) -> int:
    how = Options(**({"kernels": "eager", "router_probs": "out"} | options))
    make = Factory(device=META, dtype=torch.bfloat16, options=how)
    return kept(ffn.MoE(Section(section, "moe"), h, NormKind(name="rms", eps=1e-5), make))


def public(model: str, block: str, **config: Any) -> nn.Module:
    made = transformers.CONFIG_MAPPING[model](**COMMON, **config)
    made._experts_implementation = "grouped_mm"
    module = import_module(f"transformers.models.{model}.modeling_{model}")
    with META:
        found: nn.Module = getattr(module, block)(made).to(torch.bfloat16)
    return found


@pytest.mark.parametrize("latent", [None, z])
def test_plain_experts_keep_the_same_bytes_on_a_latent_too_but_for_how_rows_are_summed_up(latent: int | None) -> None:
    # as of DeepSeek's in test_saved_transformers.py: no index_add source [R,w] bf16, but the inverse row map [R] int64,
    # and fp32 probabilities; w is the width that rows have
    rows, width = k * T, latent or h
    more = {"moe_shared_expert_intermediate_size": s, "n_group": 1, "topk_group": 1, "norm_topk_prob": True}
    sizes = {"n_routed_experts": E, "n_shared_experts": 1, "moe_latent_size": latent, **ROUTED, **more}
    theirs = public("nemotron_h", "NemotronHMoE", mlp_hidden_act="relu2", layers_block_type=["moe"], **sizes)
    ours = twin(NEMOTRON | {"routed_expert_hidden_size": latent})
    assert kept(theirs) == ours - 2 * rows * width + 8 * rows + 2 * rows


def test_a_gate_of_the_shared_expert_keeps_as_much_more_as_in_its_class() -> None:
    sizes = {"num_experts": E, "shared_expert_intermediate_size": s, **ROUTED}
    block: Any = public("qwen2_moe", "Qwen2MoeSparseMoeBlock", **sizes)

    def ungated(x: Tensor) -> Tensor:
        flat = x.view(-1, h)
        _, weights, chosen = block.gate(flat)
        out: Tensor = block.experts(flat, chosen, weights) + block.shared_expert(flat)
        return out

    gate = {"shared_expert_gate": True}
    more = twin(MOE | gate) - twin(MOE)
    assert more == kept(block) - kept(block, ungated) == 2 * T * h + 2 * T  # what it multiplies, and the sigmoid
    assert twin(MOE | gate, kernels="fused") - twin(MOE, kernels="fused") == more


def test_biases_of_experts_keep_the_number_of_each_rows_expert_in_eager_code_alone() -> None:
    biased = MOE | {"expert_bias": True, "router_bias": "trained"}
    assert twin(biased) - twin(MOE) == 8 * k * T
    assert twin(biased, kernels="fused") == twin(MOE, kernels="fused")
    # the probability multiplies what stands behind it in the activation, and down_proj's bias: that is looked up for it
    assert twin(biased, router_probs="act") - twin(MOE, router_probs="act") == 8 * k * T + 2 * k * T * h
    assert twin(biased, kernels="fused", router_probs="act") == twin(MOE, kernels="fused", router_probs="act")


def test_an_ungated_activation_without_a_kernel_for_probabilities_keeps_what_they_multiply() -> None:
    # Megatron-LM multiplies them in one kernel with SwiGLU and squared ReLU; elsewhere the product keeps its operand
    fused: dict[str, Any] = {"kernels": "fused", "router_probs": "act"}
    gelu = NEMOTRON | {"hidden_act": "gelu"}
    assert twin(gelu, **fused) - twin(NEMOTRON, **fused) == 2 * k * T * ROUTED["moe_intermediate_size"]
    assert twin(gelu, kernels="fused") == twin(NEMOTRON, kernels="fused")  # probabilities behind down_proj


def test_a_deterministic_sum_keeps_the_rows_that_it_adds_up() -> None:
    fused: dict[str, Any] = {"kernels": "fused", "router_probs": "act"}
    assert twin(MOE, **fused, deterministic=True) - twin(MOE, **fused) == 2 * k * T * h


def test_a_normed_latent_keeps_what_the_norm_keeps() -> None:
    latent = MOE | {"routed_expert_hidden_size": z}
    normed = latent | {"latent_moe_use_norm": True}
    # fused: what is added up goes into the norm and was kept before, for the projection up, which keeps the norm's
    # output now; one fp32 a token. Eager: a copy in fp32 and the normalised one in place of the norm's input.
    assert twin(normed, kernels="fused") - twin(latent, kernels="fused") == 2 * T * z + 4 * T
    assert twin(normed) - twin(latent) == 4 * T * z + 2 * T * z + 4 * T


def test_situ_keeps_gate_and_up_when_fused_and_six_wide_tensors_when_not() -> None:
    situ = MOE | {"hidden_act": "situ"}
    assert twin(situ, kernels="fused") == twin(MOE, kernels="fused")
    widths = k * T * f + T * f  # routed rows, and the shared expert's
    assert twin(situ) - twin(MOE) == (6 * 4 - 3 * 2) * widths  # gate, up and silu(gate) in bf16 are gone


@pytest.mark.parametrize("option", ["swiglu", "shared_experts", "moe"])
def test_regions_reach_plain_experts_and_gates(option: str) -> None:
    section = NEMOTRON | {"shared_expert_gate": True}
    fused = {"kernels": "fused", "router_probs": "act"}
    less = twin(section, **fused) - twin(section, **fused, recompute=frozenset({option}))
    shared = 2 * T * s  # up; relu² of it
    expected = {
        "swiglu": 2 * k * T * f + shared,  # what goes into both down projections is made again
        "shared_experts": 2 * shared + 2 * T * h + 2 * T,  # up, relu², the output and the gate's sigmoid
        "moe": twin(section, **fused) - 2 * T * h,  # only the input is left
    }
    assert less == expected[option]


def test_fp8_reaches_the_input_of_a_plain_activation() -> None:
    fused = {"kernels": "fused", "router_probs": "act"}
    less = twin(NEMOTRON, **fused) - twin(NEMOTRON, **fused, fp8=frozenset({"swiglu_input"}))
    # routed rows of 32 and shared ones of 48: 1 byte an element in place of 2, and 4 for a row's scale
    assert less == k * T * (f - 4) + T * (s - 4)


GRADED: dict[str, dict[str, Any]] = {
    "plain, on a normed latent": NEMOTRON | {"routed_expert_hidden_size": z, "latent_moe_use_norm": True},
    "situ": MOE | {"hidden_act": "situ"},
    "biases": MOE | {"expert_bias": True, "router_bias": "trained"},
    "a gate, and a bias that steers": MOE | {"shared_expert_gate": True, "correction_bias": "parameter"},
}
WAYS: tuple[dict[str, Any], ...] = (
    {},
    {"router_probs": "out"},
    {"recompute": frozenset({"swiglu", "moe_down_proj"}), "router_probs": "out"},
    {"recompute": frozenset({"shared_experts"})},
    {"recompute": frozenset({"moe"})},
)


def graded(section: dict[str, Any], **options: Any) -> dict[str, Tensor | None]:
    """Gradients on the CPU of weights that depend on nothing but their names."""
    how = Options(**({"kernels": "fused", "router_probs": "act"} | options))
    make = Factory(device=torch.device("cpu"), dtype=torch.float32, options=how)
    built = ffn.MoE(Section(section, "moe"), h, NormKind(name="rms", eps=1e-5), make)
    torch.manual_seed(7)
    with torch.no_grad():
        for name, weight in sorted(built.named_parameters()):
            noise = torch.randn(weight.shape)
            weight.copy_(1 + 0.1 * noise if "norm" in name else noise / weight.shape[-1] ** 0.5)
    torch.manual_seed(8)
    x = torch.randn(BATCH, ROWS, h).requires_grad_()
    (built(x).float() * torch.randn(BATCH, ROWS, h)).sum().backward()
    return {"x": x.grad, **{name: weight.grad for name, weight in built.named_parameters()}}


@pytest.mark.parametrize("section", GRADED.values(), ids=GRADED.keys())
def test_all_ways_to_run_it_give_the_gradients_of_plain_pytorch(section: dict[str, Any]) -> None:
    expected = graded(section, kernels="eager", router_probs="out")
    without = {"moe_statics.e_score_correction_bias"} if "correction_bias" in section else set()
    assert {name for name, gradient in expected.items() if gradient is None} == without
    for way in WAYS:
        found = graded(section, **way)
        for name, gradient in expected.items():
            if gradient is not None:
                ours = found[name]
                assert ours is not None
                # fp32 adds up in another order: six digits are equal
                assert (ours - gradient).norm() <= 1e-5 * gradient.norm(), (way, name)
