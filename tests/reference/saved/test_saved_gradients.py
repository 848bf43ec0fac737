"""Layers that recompute must give the gradients of those that don't: real values, tiny sizes, on CPU."""

import pytest
import torch

from archcalc.reference.fields import Section
from archcalc.reference.kernels.cores import View, flash
from archcalc.reference.kernels.eager import Eager
from archcalc.reference.kernels.fp8 import load, store
from archcalc.reference.kernels.fused import Fused
from archcalc.reference.kernels.options import RECOMPUTE, Options
from archcalc.reference.kernels.recompute import Region, checkpointed
from archcalc.reference.model import TextModel, factory
from archcalc.reference.saved import head_loss
from archcalc.reference.storages import saved_bytes, saved_storages
from tests.reference.saved.tiny import BACKBONE, farthest, gradients, layer, layer_gradients

pytestmark = pytest.mark.twin

PROFILES = [("fused", "act"), ("fused", "out"), ("eager", "act"), ("eager", "out")]
LAYERS = [*(("mla", "moe", *profile) for profile in PROFILES), ("gqa", "dense", "fused", "act")]
SETS = [*({name} for name in RECOMPUTE), set(RECOMPUTE[:4]), set(RECOMPUTE[:-1]), set(RECOMPUTE)]


@pytest.mark.parametrize(("attention", "ffn", "kernels", "router_probs"), LAYERS)
def test_every_recompute_option_gives_the_same_gradients_bit_by_bit(attention, ffn, kernels, router_probs):
    profile = {"kernels": kernels, "router_probs": router_probs}
    plain = layer_gradients(attention, ffn, **profile)
    assert all(gradient.abs().sum() > 0 for gradient in plain.values())
    for names in SETS:
        again = layer_gradients(attention, ffn, recompute=frozenset(names), **profile)
        assert farthest(again, plain)[0] == 0, names


def test_recomputing_the_unfused_core_gives_the_same_gradients():
    plain = layer_gradients("mla", "dense", core="unfused")
    again = layer_gradients("mla", "dense", core="unfused", recompute=frozenset({"core_attn", "mla_up_proj"}))
    assert farthest(again, plain)[0] == 0


@pytest.mark.parametrize(
    ("attention", "ffn", "router_probs"),
    [("mla", "moe", "act"), ("mla", "moe", "out"), ("gqa", "dense", "act")],
)
def test_both_profiles_compute_the_same_layer(attention, ffn, router_probs):
    # They round to bf16 (8 bits of mantissa, 0.4 % a rounding) at different places, some ten times in a row.
    fused = layer_gradients(attention, ffn, kernels="fused", router_probs=router_probs)
    eager = layer_gradients(attention, ffn, kernels="eager", router_probs=router_probs)
    assert farthest(fused, eager)[0] < 0.04


@pytest.mark.parametrize(("kernels", "router_probs"), PROFILES)
def test_fp8_storage_moves_gradients_by_no_more_than_its_rounding(kernels, router_probs):
    # e4m3 has 3 bits of mantissa: an element is off by at most 1/16, on average by about 1/40. The router is left out
    # where its probabilities multiply inside the activation, whose input is what is rounded: they are normalised, so
    # its gradient is a difference of experts' outputs, and the rounding of both adds up.
    profile = {"kernels": kernels, "router_probs": router_probs}
    names = frozenset({"moe_up_proj_input", "swiglu_input"})
    stored, in_region = {"fp8": names}, {"fp8": names, "recompute": frozenset({"swiglu"})}
    found = [layer_gradients("mla", "moe", **profile, **more) for more in ({}, stored, in_region)]
    if router_probs == "act":
        for each in found:
            del each["layer.mlp.gate.weight"]
    assert 0 < farthest(found[1], found[0])[0] < 1 / 16
    assert 0 < farthest(found[2], found[0])[0] < 1 / 16


def test_a_region_that_recomputes_another_function_is_caught():
    plain = layer("mla", "dense", Options())
    wrong = layer("mla", "dense", Options(recompute=frozenset({"layernorm"})))
    before, norm = gradients(plain), wrong.layer.input_layernorm
    calls = []

    class Drifting(Fused):
        def rms_norm(self, x, weight, eps, **kind):
            calls.append(x)
            return super().rms_norm(x, weight, eps if len(calls) == 1 else 0.5, **kind)

    norm.kernels = Drifting()
    distance, _ = farthest(gradients(wrong), before)
    assert len(calls) == 2
    assert distance > 6e-3


def test_a_layer_that_keeps_what_it_should_not_is_caught():
    built = layer("mla", "dense", Options())
    x = torch.randn(2, 6, 64).bfloat16().requires_grad_()
    right = saved_bytes(lambda: built(x), built.parameters())
    built.layer.input_layernorm.kernels = Eager()  # one norm that makes fp32 copies in a layer that calls itself fused
    # + 4Th fp32 copy + 2Th x/rms - 2Th bf16 x, with T = 12 and h = 64
    assert saved_bytes(lambda: built(x), built.parameters()) - right == 4 * 12 * 64


def test_a_region_whose_outputs_are_never_given_back_says_so():
    x = torch.ones(3, requires_grad=True)
    region = Region(lambda x: x * 2, active=True)
    with pytest.raises(RuntimeError, match="never computed again"):
        region(x).sin().sum().backward()


def test_a_region_empties_its_outputs_and_fills_them_in_backward():
    x = torch.rand(3, requires_grad=True)
    region = Region(torch.exp, active=True)
    middle = region(x)
    out = middle.sin()
    region.discard_after(out)
    assert middle.untyped_storage().nbytes() == 0
    out.sum().backward()
    assert torch.equal(middle.detach(), x.detach().exp())
    assert torch.allclose(x.grad, (x.exp().cos() * x.exp()).detach())


def test_a_checkpoint_keeps_its_input_alone():
    x = torch.rand(3, requires_grad=True)

    def inner(x):
        return x.exp().sin().cos()  # kept: exp's result, which is sin's input too, and cos's input

    assert saved_bytes(lambda: checkpointed(False, inner, x)) == 2 * 3 * 4
    assert saved_bytes(lambda: checkpointed(True, inner, x)) == 3 * 4


def test_flash_core_agrees_with_torchs_attention_for_shared_heads_and_uneven_widths():
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 5, heads, width) for heads, width in ((4, 16), (2, 16), (2, 24)))
    inputs = [tensor.requires_grad_() for tensor in (q, k, v)]
    weights = torch.randn(2, 5, 4, 24)
    ours = torch.autograd.grad((flash(q, k, v, 16**-0.5, View()) * weights).sum(), inputs)
    heads_first = [tensor.transpose(1, 2) for tensor in inputs]
    attention = torch.ops.aten.scaled_dot_product_attention
    out = attention(*heads_first, is_causal=True, enable_gqa=True)
    theirs = torch.autograd.grad((out.transpose(1, 2) * weights).sum(), inputs)
    for our, their in zip(ours, theirs, strict=True):
        assert torch.allclose(our, their, atol=1e-5)


def test_flash_core_keeps_what_torchs_own_fused_attention_keeps():
    # PyTorch's cuDNN operation on meta: q, k, v, out, log-sum-exp, and two scalars for dropout.
    shapes = ((64, 192), (64, 192), (64, 128))
    given = {"device": "meta", "dtype": torch.bfloat16, "requires_grad": True}
    q, k, v = (torch.empty(1, 256, *shape, **given) for shape in shapes)
    cudnn = torch.ops.aten._scaled_dot_product_cudnn_attention
    heads_first = [tensor.transpose(1, 2) for tensor in (q, k, v)]
    theirs = saved_storages(lambda: cudnn(*heads_first, None, True, 0.0, True)[0])
    ours = saved_storages(lambda: flash(q, k, v, 192**-0.5, View()))
    assert sorted(each.bytes for each in theirs if each.shape != ()) == sorted(each.bytes for each in ours)


@pytest.mark.parametrize("kernels", ["fused", "eager"])
def test_the_chunked_loss_gives_the_gradients_of_the_whole_one(kernels):
    torch.manual_seed(0)
    labels = torch.randint(96, (2_050,))  # three chunks, the last of 2 tokens
    x = torch.randn(2_050, 64).bfloat16()
    found = []
    for loss in ("kernels", "chunked"):
        torch.manual_seed(1)
        options, section = Options(kernels=kernels), Section(BACKBONE, "backbone")
        model = TextModel(section, factory(section, "cpu", options=options), kinds=[])
        fresh = x.clone().requires_grad_()
        value = head_loss(model, fresh, labels, loss)
        value.backward()
        found.append((value.item(), {"x": fresh.grad, "head": model.lm_head.weight.grad}))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-4)
    # Chunks add the weight's gradient up in bf16, a rounding of 0.4 % each.
    assert farthest(found[1][1], found[0][1])[0] < 6e-3


def test_fp8_storage_is_off_by_at_most_a_sixteenth_and_rounds_tiles_up():
    torch.manual_seed(0)
    x = torch.randn(3, 200).bfloat16()
    codes, scales = store(x)
    assert (codes.untyped_storage().nbytes(), scales.untyped_storage().nbytes()) == (3 * 200, 3 * 2 * 4)
    # half a unit in the last of 3 bits, 1/16; bf16's rounding of the result, 1/256; subnormals near zero
    error = (load(codes, scales).float() - x.float()).abs()
    assert bool((error <= x.float().abs() * (1 / 16 + 1 / 256) + x.float().abs().amax() / 448 / 512).all())
