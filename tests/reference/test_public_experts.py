"""Mixtures of experts beside transformers' own classes: as many parameters and buffers as each, and the twin's weights
in the class give the same output."""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple

import pytest
import torch
import transformers
from torch import nn

from archcalc.arch.decoder import Decoder
from archcalc.arch.ffn.moe import MoE
from archcalc.calc.params import count
from archcalc.reference import ffn
from archcalc.reference.factory import Factory
from archcalc.reference.fields import Section
from archcalc.reference.model import build
from archcalc.reference.norm_kinds import NormKind
from archcalc.tape import Dim, Tape, Tensor
from archcalc.workload import Workload
from tests.reference import tiny

pytestmark = pytest.mark.twin

HIDDEN, WIDTH, EXPERTS, CHOSEN, SHARED = 20, 13, 6, 3, 17  # no width is a multiple of another
SIGMOID = tiny.MOE | {"n_routed_experts": EXPERTS, "num_experts_per_tok": CHOSEN, "moe_intermediate_size": WIDTH}
SOFTMAX = SIGMOID | {"scoring_func": "softmax", "topk_method": "greedy", "routed_scaling_factor": 1.0}
ALONE = {"n_shared_experts": 0}
ONE_GATED = {
    "shared_expert_gate": True,
    "shared_expert_intermediate_size": SHARED,
    "shared_name": "shared_expert",
}
COMMON = {"hidden_size": HIDDEN, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 32}
LOCAL = {"num_local_experts": EXPERTS, "num_experts_per_tok": CHOSEN, "intermediate_size": WIDTH}
ROUTED = {"num_experts_per_tok": CHOSEN, "moe_intermediate_size": WIDTH, "norm_topk_prob": True}
DEEPSEEK = {"n_routed_experts": EXPERTS, "n_shared_experts": 1, "routed_scaling_factor": 2.827, **ROUTED}


class Family(NamedTuple):
    """A public class: its model type, its block, its config beside `COMMON`, and the spec's section."""

    model: str
    block: str
    config: dict[str, Any]
    section: dict[str, Any]
    same: bool = True
    """Whether its output is the twin's: not where its router or its activation is another."""


NEMOTRON = {**DEEPSEEK, "moe_shared_expert_intermediate_size": SHARED, "layers_block_type": ["moe"]}
PLAIN = SIGMOID | {"gated": False, "hidden_act": "relu2", "shared_expert_intermediate_size": SHARED}
FAMILIES = {
    "qwen2_moe": Family(
        "qwen2_moe",
        "Qwen2MoeSparseMoeBlock",
        {"num_experts": EXPERTS, "shared_expert_intermediate_size": SHARED, **ROUTED},
        SOFTMAX | ONE_GATED,
    ),
    "qwen3_next": Family(
        "qwen3_next",
        "Qwen3NextSparseMoeBlock",
        {"num_experts": EXPERTS, "shared_expert_intermediate_size": SHARED, **ROUTED},
        SOFTMAX | ONE_GATED,
    ),
    "ernie4_5_moe": Family(
        "ernie4_5_moe",
        "Ernie4_5_MoeSparseMoeBlock",
        {
            "moe_num_experts": EXPERTS,
            "moe_k": CHOSEN,
            "moe_num_shared_experts": 2,
            "moe_intermediate_size": WIDTH,
        },
        SOFTMAX | {"topk_method": "noaux_tc", "correction_bias": "parameter", "n_shared_experts": 2},
    ),
    "gpt_oss": Family(
        "gpt_oss",
        "GptOssMLP",
        {"head_dim": 4, **LOCAL},
        SOFTMAX | ALONE | {"expert_bias": True, "router_bias": "trained"},
        same=False,  # clamped SwiGLU
    ),
    "dots1": Family(
        "dots1", "Dots1MoE", {"n_group": 3, "topk_group": 2, **DEEPSEEK}, SIGMOID | {"n_group": 3, "topk_group": 2}
    ),
    "glm4_moe": Family("glm4_moe", "Glm4MoeMoE", {"n_group": 1, "topk_group": 1, **DEEPSEEK}, SIGMOID),
    "phimoe": Family("phimoe", "PhimoeSparseMoeBlock", LOCAL, SOFTMAX | ALONE, same=False),  # sparsemixer
    "granitemoe": Family("granitemoe", "GraniteMoeMoE", LOCAL, SOFTMAX | ALONE),
    "mixtral": Family("mixtral", "MixtralSparseMoeBlock", LOCAL, SOFTMAX | ALONE),
    "minimax_m2": Family(
        "minimax_m2", "MiniMaxM2SparseMoeBlock", LOCAL, SIGMOID | ALONE | {"routed_scaling_factor": 1.0}
    ),
    "nemotron_h": Family("nemotron_h", "NemotronHMoE", {"mlp_hidden_act": "relu2", **NEMOTRON}, PLAIN),
    "nemotron_h with a latent": Family(
        "nemotron_h",
        "NemotronHMoE",
        {"mlp_hidden_act": "relu2", "moe_latent_size": 9, **NEMOTRON},
        PLAIN | {"routed_expert_hidden_size": 9},
    ),
}


def public(family: Family) -> nn.Module:
    """The class's block, in fp32 on the CPU."""
    module = import_module(f"transformers.models.{family.model}.modeling_{family.model}")
    config = transformers.CONFIG_MAPPING[family.model](**COMMON, **family.config)
    config._experts_implementation = "eager"
    block: nn.Module = getattr(module, family.block)(config)
    return block.eval()


def counted(section: dict[str, Any]) -> tuple[int, int]:
    """Parameters and buffers of a section by archcalc."""
    tape = Tape(Workload())
    with tape.segment("b", "backbone") as x:
        rows = (Dim("batch", 1), Dim("seq", 4))
        MoE.model_validate(section).forward(tape, Tensor(rows, (Dim("hidden_size", HIDDEN),), x.storage))
    sums = {flag: sum(w.elements for w in tape.weights() if w.trainable is flag) for flag in (True, False)}
    return sums[True], sums[False]


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())
def test_a_layer_has_as_many_parameters_and_buffers_as_the_public_class(family: Family) -> None:
    block = public(family)
    found = tuple(sum(t.numel() for t in tensors) for tensors in (block.parameters(), block.buffers()))
    assert counted(family.section) == found


RENAMED: list[tuple[str, tuple[str, ...]]] = [
    ("gate.weight", ("gate.weight", "router.weight")),
    ("gate.e_score_correction_bias", ("gate.e_score_correction_bias", "e_score_correction_bias")),
    ("moe_statics.e_score_correction_bias", ("gate.moe_statics.e_score_correction_bias",)),
    ("routed_expert_down_proj.weight", ("fc1_latent_proj.weight",)),
    ("routed_expert_up_proj.weight", ("fc2_latent_proj.weight",)),
]


def as_public(ours: dict[str, torch.Tensor], names: set[str]) -> dict[str, torch.Tensor]:
    """The twin's weights under the names that a class has: gate and up of all experts are one there."""
    left = {name.removesuffix(".weight") if ".proj" in name else name: t for name, t in ours.items()}
    theirs: dict[str, torch.Tensor] = {}
    experts = {
        part: left.pop(f"experts.{part}_proj.weight")
        for part in ("gate", "up", "down")
        if f"experts.{part}_proj.weight" in left
    }
    theirs["experts.down_proj"] = experts["down"]
    if "gate" in experts:
        theirs["experts.gate_up_proj"] = torch.cat((experts["gate"], experts["up"]), dim=1)
    else:
        theirs["experts.up_proj"] = experts["up"]
    for name, tensor in left.items():
        choices = next((new for old, new in RENAMED if old == name), (name,))
        theirs[next(new for new in choices if new in names)] = tensor
    return theirs


def twin(section: dict[str, Any]) -> ffn.MoE:
    """The twin's layer in fp32 on the CPU, all weights random, the bias of its choice too."""
    made = Factory(device=torch.device("cpu"), dtype=torch.float32)
    layer = ffn.MoE(Section(section, "moe"), HIDDEN, NormKind(name="rms", eps=1e-5), made)
    torch.manual_seed(1)
    with torch.no_grad():
        for tensor in layer.state_dict().values():
            tensor.copy_(torch.randn(tensor.shape) * 0.3)
    return layer.eval()


@pytest.mark.parametrize(
    "family", [f for f in FAMILIES.values() if f.same], ids=[k for k, f in FAMILIES.items() if f.same]
)
@torch.no_grad()
def test_the_twins_weights_in_the_public_class_give_the_same_output(family: Family) -> None:
    ours, theirs = twin(family.section), public(family)
    theirs.load_state_dict(as_public(ours.state_dict(), set(theirs.state_dict())))
    x = torch.randn(2, 5, HIDDEN, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(ours(x), theirs(x), atol=1e-5)


@pytest.mark.parametrize(
    "name", ["gate.bias", "experts.gate_proj.bias", "experts.up_proj.bias", "experts.down_proj.bias"]
)
@torch.no_grad()
def test_each_bias_reaches_the_output(name: str) -> None:
    layer = twin(FAMILIES["gpt_oss"].section)
    x = torch.randn(1, 4, HIDDEN, generator=torch.Generator().manual_seed(2))
    before = layer(x)
    layer.get_parameter(name)[..., 0] += 3.0
    assert not torch.allclose(layer(x), before, atol=1e-3)


@torch.no_grad()
def test_situ_is_the_gated_activation_of_kimi_k3() -> None:
    # beta 4 and linear_beta 25 (its config): for small inputs both tanh are the identity, for large ones they bound
    from math import exp, tanh

    layer = twin(SIGMOID | {"hidden_act": "situ"})
    glu = layer.experts.inner.region().function
    gate, up = torch.tensor([[0.5, -2.0, 100.0]]), torch.tensor([[3.0, 50.0, -1000.0]])
    by_hand = [
        4 * tanh(g / 4) / (1 + exp(-g)) * 25 * tanh(u / 25)
        for g, u in zip(gate[0].tolist(), up[0].tolist(), strict=True)
    ]
    assert torch.allclose(glu(gate, up), torch.tensor([by_hand]), rtol=1e-5)
    assert glu(gate, up)[0, 2] == pytest.approx(-100.0)


@pytest.mark.parametrize("bias", [True, False])
def test_a_head_has_a_bias_where_phimoe_has_one(bias: bool) -> None:
    sizes = {"num_key_value_heads": 1, "attention_bias": True, "tie_word_embeddings": False, "lm_head_bias": bias}
    with torch.device("meta"):
        public_model = transformers.PhimoeForCausalLM(transformers.PhimoeConfig(**COMMON, **LOCAL, **sizes))
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": HIDDEN // 2}
    attention = tiny.GQA | heads | {"attention_bias": True, "attention_out_bias": True}
    more = {"hidden_size": HIDDEN, "vocab_size": 32, "norm": "layer", "layer_norm_eps": 1e-5, "rms_norm_eps": None}
    spec = tiny.text(attention, [FAMILIES["phimoe"].section], lm_head_bias=bias, **more)
    tape = Tape(Workload())
    Decoder.model_validate(spec["backbone"]).forward(tape)
    total = sum(p.numel() for p in public_model.parameters())
    assert count(tape).total == total
    assert sum(p.numel() for p in build(spec).parameters()) == total
