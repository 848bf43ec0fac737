"""Layers with other norms, places and arrangements: terms written out, bytes a token. h hidden, n query heads and g
key heads of d features, f width of the MLP."""

from typing import Any

import pytest
import torch

from archcalc.errors import InputError
from archcalc.reference.kernels.cores import CORES, View
from archcalc.reference.kernels.options import Options
from archcalc.reference.saved import measure
from tests.reference.saved import tiny

pytestmark = pytest.mark.twin

T = 64
h, n, g, d, f, V = 640, 8, 2, 80, 1536, 1000
HEADS = {"kind": "gqa", "num_attention_heads": n, "num_key_value_heads": g, "head_dim": d}
MLP = {"kind": "dense", "intermediate_size": f, "hidden_act": "silu", "gated": True}

CORE = 2 * n * d + 2 * g * d + 2 * g * d + 2 * n * d + 4 * n  # q, k, v, out, log-sum-exp
ACT = 4 * f + 2 * f  # gate and up, their product
X = 2 * h
RSTD = 4
LN = 4 + 4  # mean and 1/deviation in fp32

PARALLEL = [{"attention": "gqa"}, {"ffn": "dense", "arrangement": "parallel"}]
SHARED = [{"attention": "gqa"}, {"ffn": "dense", "arrangement": "parallel", "norm_placement": "none"}]


def backbone(steps=None, heads=None, **more):
    layer = {"attention": "gqa", "ffn": "dense"} if steps is None else {"steps": steps}
    spec: dict[str, Any] = {
        "hidden_size": h,
        "vocab_size": V,
        "num_hidden_layers": 1,
        "dtype": "bfloat16",
        "rope_theta": 1e4,
        "rms_norm_eps": 1e-6,
    }
    spec |= {"layers": [{"count": 1, **layer}], "ffn": {"dense": MLP}, "layer_norm_eps": 1e-5}
    return spec | {"attention": {"gqa": HEADS | (heads or {})}} | more


def kept(spec, **options):
    return measure({"backbone": spec}, seq=T, **options)["model.layers.0"]


PRE = 2 * (X + RSTD + X) + CORE + ACT


@pytest.mark.parametrize(
    ("spec", "plain", "recomputed"),
    [
        # before each mixer: its input, rstd, its output; recomputed: the input alone
        (backbone(), PRE, 2 * X + CORE + ACT),
        # behind it: x, which the mixer reads, and the mixer's output, which the norm reads; never recomputed
        (backbone(norm_placement="post"), 2 * X + CORE + ACT + 2 * (X + RSTD), 2 * X + CORE + ACT + 2 * (X + RSTD)),
        # both
        (backbone(norm_placement="sandwich"), PRE + 2 * (X + RSTD), 2 * X + CORE + ACT + 2 * (X + RSTD)),
        # nowhere: what each mixer reads
        (backbone(norm_placement="none"), 2 * X + CORE + ACT, 2 * X + CORE + ACT),
        # side by side: one x for both norms
        (backbone(PARALLEL), X + 2 * (RSTD + X) + CORE + ACT, X + CORE + ACT),
        # and one norm for both mixers
        (backbone(SHARED), X + RSTD + X + CORE + ACT, X + CORE + ACT),
        # a single step
        (backbone(PARALLEL[:1]), X + RSTD + X + CORE, X + CORE),
    ],
    ids=["pre", "post", "sandwich", "none", "parallel", "shared", "attention alone"],
)
def test_a_layer_keeps_what_its_steps_read(spec, plain, recomputed):
    assert kept(spec) == plain * T
    assert kept(spec, recompute=frozenset({"layernorm"})) == recomputed * T
    assert kept(spec, recompute=frozenset({"full"})) == X * T


@pytest.mark.parametrize("kernels", ["fused", "eager"])
@pytest.mark.parametrize("norm", ["layer", "layer_no_bias", "none"])
def test_layer_norm_is_torchs_own_in_both_profiles(norm, kernels):
    more = 0 if kernels == "fused" else 2 * f  # silu's output
    assert kept(backbone(norm=norm), kernels=kernels) == (2 * (X + LN + X) + CORE + ACT + more) * T
    normed = backbone(norm=norm, heads={"qk_norm": "per_head"})
    # the projections' outputs, and two statistics a head
    assert kept(normed, kernels=kernels) - kept(backbone(norm=norm), kernels=kernels) == (n + g) * (2 * d + LN) * T


def test_a_zero_centred_norm_keeps_no_more_than_another_when_fused():
    for heads in ({}, {"qk_norm": "per_head"}, {"qk_norm": "full"}):
        assert kept(backbone(norm="rms_zero_centered", heads=heads)) == kept(backbone(heads=heads))


def test_an_eager_zero_centred_norm_keeps_fp32_twice_and_its_factor():
    # fp32 x, rstd, x/rms in fp32, its bf16 output; and 1 + weight in fp32, once a norm
    norm, factor = 4 * h + RSTD + 4 * h + X, 4 * h
    plain = kept(backbone(norm="rms_zero_centered"), kernels="eager")
    assert plain == (2 * norm + CORE + ACT + 2 * f) * T + 2 * factor
    # of a head: fp32 copy, rstd, x/rms in fp32; rope keeps nothing of the output
    normed = kept(backbone(norm="rms_zero_centered", heads={"qk_norm": "per_head"}), kernels="eager")
    assert normed - plain == (n + g) * (4 * d + RSTD + 4 * d) * T + 2 * 4 * d


@pytest.mark.parametrize("core", ["flash", "unfused"])
def test_a_window_and_no_rotation_keep_the_same(core):
    for heads in (
        {"sliding_window": 5},
        {"rope_parameters": {"rope_theta": None}},
        {"rope_parameters": {"rope_theta": 100.0}},
    ):
        for norm in (None, "per_head", "full"):
            with_norm = {"qk_norm": norm}
            changed = kept(backbone(heads=heads | with_norm), core=core)
            assert changed == kept(backbone(heads=with_norm), core=core)
    assert kept(backbone(rope_theta=None), core=core) == kept(backbone(), core=core)


def test_a_head_of_odd_size_that_does_not_rotate_is_measured():
    odd = {"head_dim": 5, "rope_parameters": {"rope_theta": None}}
    small = 4 * n * 5 + 4 * g * 5 + 4 * n
    assert kept(backbone(heads=odd)) == (2 * (X + RSTD + X) + small + ACT) * T


@pytest.mark.parametrize(
    ("more", "kernels", "per_token", "constant"),
    [
        ({}, "fused", 8, 0),
        ({"position_embeddings": 128}, "fused", 8 + 8, 0),  # ids and positions, int64
        ({"embedding_norm": "layer"}, "fused", 8 + X + LN, 0),  # its output is the first layer's input
        ({"embedding_norm": "rms"}, "fused", 8 + X + RSTD, 0),
        ({"embedding_norm": "rms"}, "eager", 8 + 4 * h + RSTD + 2 * h, 0),
        ({"embedding_norm": "rms_zero_centered"}, "eager", 8 + 4 * h + RSTD + 4 * h, 4 * h),
        ({"embedding_norm": "layer_no_bias", "position_embeddings": 128}, "eager", 8 + 8 + X + LN, 0),
    ],
)
def test_the_embedding_keeps_ids_positions_and_what_its_norm_reads(more, kernels, per_token, constant):
    found = measure({"backbone": backbone(**more)}, seq=T // 2, batch=2, kernels=kernels)
    assert found["model.embed_tokens"] == per_token * T + constant


def test_an_embedding_in_fp32_has_norms_in_fp32():
    spec = backbone(embedding_norm="layer", dtype="float32")
    assert measure({"backbone": spec}, seq=T)["model.embed_tokens"] == (8 + 4 * h + LN) * T


@pytest.mark.parametrize(
    ("norm", "kernels", "statistics"),
    [
        ("layer", "fused", X + LN),
        ("none", "fused", X + LN),
        ("rms", "fused", X + RSTD),
        ("rms_zero_centered", "fused", X + RSTD),
    ],
)
def test_the_heads_norm_is_of_the_backbones_kind(norm, kernels, statistics):
    # its output; the fp32 softmax, int64 targets and a byte to mask targets
    found = measure({"backbone": backbone(norm=norm, tie_word_embeddings=True)}, seq=T, kernels=kernels)["lm_head"]
    assert found == (statistics + X + 4 * V + 8 + 1) * T


def test_each_kind_of_layer_is_reported_once_under_its_first_layer():
    sections = {"near": HEADS | {"sliding_window": 5}, "far": HEADS}
    turns = [{"count": 5, "attention": "near", "ffn": "dense"}, {"count": 1, "attention": "far", "ffn": "dense"}]
    again = {"count": 1, "steps": [{"attention": "near"}, {"ffn": "dense"}]}  # the same, written out
    layers = [{"repeat": 3, "layers": turns}, again, {"count": 1, "steps": [{"ffn": "dense"}]}]
    spec = backbone(attention=sections, layers=layers, num_hidden_layers=20)
    found = measure({"backbone": spec}, seq=T)
    layer_paths = [path for path in found if ".layers." in path]
    assert layer_paths == ["model.layers.0", "model.layers.5", "model.layers.19"]
    assert found["model.layers.19"] == (X + RSTD + X + ACT) * T


@pytest.mark.parametrize("kernels", ["fused", "eager"])
@pytest.mark.parametrize("norm", ["rms_zero_centered", "layer", "none"])
@pytest.mark.parametrize("steps", ["sandwich", "parallel", "shared", "two shared"])
def test_recomputing_gives_the_same_gradients_bit_by_bit(steps, norm, kernels):
    beside = {"arrangement": "parallel"}
    layers = {
        "sandwich": [{"attention": "gqa", "norm_placement": "sandwich"}, {"ffn": "dense", "norm_placement": "post"}],
        "parallel": [{"attention": "mla"}, {"ffn": "moe", **beside}],
        "shared": [{"attention": "mla"}, {"ffn": "dense", **beside, "norm_placement": "none"}],
        "two shared": [
            {"attention": "gqa"},
            {"ffn": "dense", **beside, "norm_placement": "none"},
            {"ffn": "moe", "scope": "more", **beside, "norm_placement": "none"},
        ],
    }
    for step in layers[steps]:
        if step.get("norm_placement") == "post":
            step["output_norm"] = "behind"
    spec = {**tiny.BACKBONE, "norm": norm, "num_hidden_layers": 1, "layers": [{"count": 1, "steps": layers[steps]}]}
    plain = tiny.gradients(tiny.layer_of(spec, Options(kernels=kernels)))
    assert all(gradient.abs().sum() > 0 for gradient in plain.values())
    for names in ({"layernorm"}, {"layernorm", "swiglu", "mla_up_proj", "core_attn"}, {"full", "layernorm"}):
        again = tiny.gradients(tiny.layer_of(spec, Options(kernels=kernels, recompute=frozenset(names))))
        assert tiny.farthest(again, plain)[0] == 0, names


def test_both_profiles_compute_the_same_zero_centred_norms():
    # bf16 rounds to 0.4 %, some ten times in a row
    spec = {**tiny.BACKBONE, "norm": "rms_zero_centered", "norm_placement": "sandwich", "num_hidden_layers": 1}
    spec["layers"] = [{"count": 1, "attention": "gqa", "ffn": "dense"}]
    fused, eager = (tiny.gradients(tiny.layer_of(spec, Options(kernels=each))) for each in ("fused", "eager"))
    assert tiny.farthest(fused, eager)[0] < 0.04


@pytest.mark.parametrize("core", ["flash", "unfused"])
def test_both_cores_hide_what_is_before_the_window(core):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 9, heads, 16) for heads in (4, 2, 2))
    inputs = [tensor.requires_grad_() for tensor in (q, k, v)]
    rows = torch.arange(9)
    seen = (rows <= rows[:, None]) & (rows > rows[:, None] - 3)  # itself and two before it
    heads_first = [tensor.transpose(1, 2) for tensor in inputs]
    attention = torch.nn.functional.scaled_dot_product_attention
    theirs = attention(*heads_first, attn_mask=seen, enable_gqa=True).transpose(1, 2)
    ours = CORES[core](q, k, v, 16**-0.5, View(window=3))
    assert torch.allclose(ours, theirs, atol=1e-5)
    weights = torch.randn(ours.shape)
    gradients = [torch.autograd.grad((out * weights).sum(), inputs) for out in (ours, theirs)]
    for our, their in zip(*gradients, strict=True):
        assert torch.allclose(our, their, atol=1e-5)


def test_a_key_of_attention_that_nobody_reads_is_refused():
    with pytest.raises(InputError, match=r"backbone\.attention\.gqa\.window is unknown to the torch twin"):
        kept(backbone(heads={"window": 3}))
    kept(backbone(heads={"window": None}))
