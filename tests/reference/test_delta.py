"""Gated DeltaNet and Kimi Delta Attention: the twin against the public classes, its kernels against each other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers.cache_utils import DynamicCache

from archcalc.reference.attention import Pass
from archcalc.reference.delta import Delta
from archcalc.reference.fields import Section
from archcalc.reference.kernels import delta as rule
from archcalc.reference.kernels.options import COUNTED, Options
from archcalc.reference.model import Model, TextModel, factory, new_cache
from tests.reference import tiny
from tests.reference.test_numbers import assert_same

pytestmark = pytest.mark.twin

SIZES: dict[str, Any] = {"vocab_size": 50, "hidden_size": 40, "num_hidden_layers": 1, "rms_norm_eps": 1e-5}
OTHERS = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 12}


def qwen3_next(section: dict[str, Any]) -> tuple[nn.Module, Any]:
    from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextGatedDeltaNet

    config = transformers.Qwen3NextConfig(**SIZES, **OTHERS, **sizes(section), layer_types=["linear_attention"])
    return Qwen3NextGatedDeltaNet(config, 0), config


def qwen3_5(section: dict[str, Any]) -> tuple[nn.Module, Any]:
    from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5GatedDeltaNet

    config = transformers.Qwen3_5TextConfig(**SIZES, **OTHERS, **sizes(section), layer_types=["linear_attention"])
    return Qwen3_5GatedDeltaNet(config, 0), config


def kimi_linear(section: dict[str, Any]) -> tuple[nn.Module, Any]:
    from transformers.models.kimi_linear.modeling_kimi_linear import KimiLinearDeltaAttention

    keys = ("head_dim", "num_heads", "short_conv_kernel_size")
    linear = {key: section[key] for key in keys} | {"kda_layers": [1], "full_attn_layers": []}
    config = transformers.KimiLinearConfig(**SIZES, **OTHERS, linear_attn_config=linear)
    return KimiLinearDeltaAttention(config, 0), config


def sizes(section: dict[str, Any]) -> dict[str, int]:
    return {key: value for key, value in section.items() if key.startswith("linear_")}


PUBLIC = {
    "Qwen3-Next": (qwen3_next, tiny.DELTA),
    "Qwen3-Next, as many key heads": (qwen3_next, tiny.DELTA | {"linear_num_key_heads": 6}),
    "Qwen3-Next, one key head": (qwen3_next, tiny.DELTA | {"linear_num_key_heads": 1, "linear_conv_kernel_dim": 3}),
    "Qwen3.5": (qwen3_5, tiny.DELTA | {"in_proj": "split"}),
    "Kimi-Linear": (kimi_linear, tiny.KDA),
    "Kimi-Linear, two taps": (kimi_linear, tiny.KDA | {"short_conv_kernel_size": 2, "head_dim": 5}),
}
CASES = pytest.mark.parametrize(("made", "section"), PUBLIC.values(), ids=PUBLIC.keys())


def as_public(ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """Kimi-Linear's class holds three convolutions in one, and its decays in a module of their own (transformers,
    conversion_mapping.py); Qwen's hold what the checkpoints hold."""
    left = dict(ours)
    if "q_conv1d.weight" not in left:
        return left
    convs = [left.pop(f"{name}_conv1d.weight") for name in "qkv"]
    moved = {name: left.pop(name) for name in ("f_a_proj.weight", "f_b_proj.weight", "dt_bias", "A_log")}
    moved["A_log"] = moved["A_log"].view(1, 1, -1, 1)
    return left | {"conv1d.weight": torch.cat(convs)} | {f"forget_gate.{name}": t for name, t in moved.items()}


def layer(section: dict[str, Any], options: Options = COUNTED) -> tuple[Model, Delta]:
    """A twin with random weights that has one such layer, and the mixer of that."""
    spec = tiny.text(section, [tiny.DENSE])
    twin = tiny.randomised(spec)
    if options is not COUNTED:
        backbone = Section(spec["backbone"], "backbone")
        other = TextModel(backbone, factory(backbone, "cpu", "float32", options))
        other.load_state_dict(twin.state_dict())
        twin = other
    mixer = twin.get_submodule("model.layers.0.self_attn")
    assert isinstance(mixer, Delta)
    return twin, mixer


def inputs(rows: int) -> Tensor:
    return torch.randn(2, rows, 40, generator=torch.Generator().manual_seed(5))


def both(made: Any, section: dict[str, Any]) -> tuple[Model, Delta, nn.Module, DynamicCache]:
    """Twin, its mixer, the public one with the same weights, and a cache for that."""
    twin, mixer = layer(section)
    theirs, config = made(section)
    theirs.load_state_dict(as_public(mixer.state_dict()))
    return twin, mixer, theirs.eval(), DynamicCache(config=config)


@CASES
@torch.no_grad()
def test_a_prompt_and_each_token_after_it_are_as_in_the_public_class(made: Any, section: dict[str, Any]) -> None:
    # 70 rows: more than a chunk of the public classes' 64; then three tokens, one at a time, on the states
    twin, mixer, theirs, held = both(made, section)
    x, cache = inputs(73), new_cache(twin, 2, 73)
    assert_same(mixer(x[:, :70], None, Pass(angles={}), 0), theirs(x[:, :70]))
    for start, end in ((0, 70), (70, 71), (71, 72), (72, 73)):
        now = mixer(x[:, start:end], None, Pass(angles={}, cache=cache), 0)
        assert_same(now, theirs(x[:, start:end], cache=held))
    assert_same(cache.states(0)["recurrence"], held.get_recurrent_state(0, state_idx=0))


@CASES
@torch.no_grad()
def test_our_states_have_the_elements_of_the_public_cache(made: Any, section: dict[str, Any]) -> None:
    # K columns of the convolutions' inputs, and a matrix a head
    twin, _, theirs, held = both(made, section)
    theirs(inputs(9), cache=held)
    of_theirs = held.get_recurrent_state(0, state_idx=0).numel() + held.get_conv_state(0, state_idx=0).numel()
    assert sum(t.numel() for t in new_cache(twin, 2, 9).states(0).values()) == of_theirs


@CASES
def test_kernels_give_the_same_numbers_and_gradients(made: Any, section: dict[str, Any]) -> None:
    # plain autograd through the recurrence against functions that keep what fla keeps, over more rows than a chunk
    found = []
    ways = (COUNTED, Options(kernels="eager", core="flash"), Options(kernels="fused", core="flash"))
    for options in ways:
        _, mixer = layer(section, options)
        x = inputs(67).requires_grad_()
        out = mixer(x, None, Pass(angles={}), 0)
        (out * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum().backward()
        found.append({"out": out, "x": x.grad} | {name: p.grad for name, p in mixer.named_parameters()})
    for other in found[1:]:
        assert other.keys() == found[0].keys()
        for name, value in found[0].items():
            assert torch.allclose(other[name], value, rtol=1e-3, atol=1e-4 * value.abs().max().item()), name


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("per_feature", [False, True])
def test_without_data_the_recurrence_counts_what_it_counts_with(rows: int, per_feature: bool) -> None:
    # 6 x 2 sequences x rows x 6 heads x 4 x 3: three products a token and head
    counted = []
    for device in ("cpu", "meta"):
        q, k = (torch.rand(2, rows, 3, 4, device=device) for _ in range(2))
        v, beta = torch.rand(2, rows, 6, 3, device=device), torch.rand(2, rows, 6, device=device)
        decay = -torch.rand(2, rows, 6, *([4] if per_feature else []), device=device)
        with FlopCounterMode(display=False) as counter:
            out, state = rule.recurrence(q, k, v, beta, decay)
        assert (out.shape, state.shape) == ((2, rows, 6, 3), (2, 6, 4, 3))
        counted.append(counter.get_total_flops())
    assert counted == [6 * 2 * rows * 6 * 4 * 3] * 2


@torch.no_grad()
def test_a_decay_for_each_feature_of_a_head_is_the_same_for_all_heads() -> None:
    # Kimi K3's A_log has an element for each of a head's features, not for each head
    raw, dt = torch.randn(2, 3, 5, 4), torch.zeros(20)
    by_feature = rule.decays(raw, torch.tensor([0.0, 1.0, 2.0, 3.0]), dt)
    by_hand = -torch.tensor([0.0, 1.0, 2.0, 3.0]).exp() * nn.functional.softplus(raw)
    assert torch.allclose(by_feature, by_hand)
    by_head = rule.decays(raw, torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0]), dt)
    assert torch.allclose(by_head[:, :, 1], -torch.tensor(1.0).exp() * nn.functional.softplus(raw[:, :, 1]))
