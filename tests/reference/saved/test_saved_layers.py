"""Bytes a token that one Kimi K2.5 layer keeps, at full size.

The terms are written out from the operations' definitions (what each kernel needs for its own backward), in
bytes a token: h hidden, ql and kl query and key-value latents, dr rope features, n heads, dq and dv features
of a head, k experts a token, E experts, f expert width, fd dense width. Whole bytes of a layer are compared.
"""

from pathlib import Path

import pytest
import yaml

from tests.reference.saved.tiny import layer_bytes

pytestmark = pytest.mark.twin

T = 4096
K25 = yaml.safe_load((Path(__file__).parents[3] / "specs" / "k25.yaml").read_text(encoding="utf-8"))["backbone"]
LN, ACT, UP, DOWN = "layernorm", "swiglu", "mla_up_proj", "moe_down_proj"
FP8 = frozenset({"moe_up_proj_input", "swiglu_input"})

h, ql, kl, dr, n, dq, dv, k, E, f, fd = 7168, 1536, 512, 64, 64, 192, 128, 8, 384, 2048, 18432

NORM = 2 * h + 4 + 2 * h  # x, rstd in fp32, output: 28,676
LATENT = (
    2 * ql + 4 + 2 * ql + 2 * (kl + dr) + 4 + 2 * kl
)  # q_a out, rstd, norm out; kv_a out whole, rstd, norm out: 8,328
QKV = 2 * n * (dq + dq + dv)  # 65,536
OUT = 2 * n * dv + 4 * n  # output of attention, which o_proj keeps too; log-sum-exp: 16,640
ROUTER = 4 * E + 8 * k + 4 * k + 4 + 8 * k + 8 * k  # scores, indices, weights, their sum, two row maps: 1,764
ROWS = 2 * k * h  # the experts' input: 114,688
GATE_UP = 4 * k * f  # 65,536
PRODUCT = 2 * k * f  # 32,768
SHARED = 4 * f + 2 * f  # 12,288
DENSE = 4 * fd + 2 * fd  # 110,592
MOE = 2 * NORM + LATENT + QKV + OUT + ROUTER + ROWS + GATE_UP + PRODUCT + 4 * k + SHARED  # probs in fp32: 4k

# Eager: a norm keeps an fp32 copy of x, rstd, x/rms in bf16, its output; the bf16 x is nobody's.
EAGER_NORM = 4 * h + 4 + 2 * h + 2 * h  # 57,348
EAGER_LATENT = 8 * ql + 4 + 8 * kl + 4  # the same four, twice: 16,392
EAGER_ATTENTION = 2 * EAGER_NORM + EAGER_LATENT + QKV + OUT  # 213,264
# Router: its input in fp32. Experts: rows, gate_up, act(gate), product, probs in bf16, fc2's output (for the
# probs), index_add's source. Shared: gate_up, act(gate), product.
EAGER_EXPERTS = ROWS + GATE_UP + PRODUCT + PRODUCT + 2 * k + ROWS + ROWS
EAGER_MOE = EAGER_ATTENTION + 4 * h + ROUTER + EAGER_EXPERTS + 8 * f
CONSTANT = 4 * E * h + 4 * E  # a layer: the router's weight in fp32, and where each expert's rows end, int32


def layer(ffn, **options):
    return layer_bytes(K25, attention="mla", ffn=ffn, tokens=T, **options)


def test_layers_are_the_sum_of_their_terms():
    assert layer("moe") == MOE * T
    assert layer("moe", router_probs="out") == (MOE + ROWS) * T
    assert layer("dense") == (2 * NORM + LATENT + QKV + OUT + DENSE) * T
    assert layer("moe", kernels="eager", router_probs="out") == EAGER_MOE * T + CONSTANT
    assert layer("dense", kernels="eager") == (EAGER_ATTENTION + 8 * fd) * T


@pytest.mark.parametrize(
    ("router_probs", "recompute", "fp8", "moe", "dense"),
    [
        ("act", [], [], 374_932, 258_448),
        (
            "out",
            [],
            [],
            489_620,
            258_448,
        ),  # + 2kh: the experts' output, for the gradient of the probabilities
        ("act", [LN], [], 346_252, 229_768),  # - 2 (2h + 4): both norms' output and rstd
        ("act", [LN, ACT], [], 309_388, 192_904),  # - 2kf - 2f, dense - 2fd: the products
        ("act", [LN, ACT, UP], [], 239_748, 123_264),  # - q, k, v - 2ql - 4 - 2kl - 4
        ("act", [LN, ACT, UP, DOWN], [], 239_748, 123_264),  # inside the activation, fc2's output is not kept
        ("out", [LN, ACT, UP], [], 354_436, 123_264),  # 239,748 + 2kh
        ("out", [LN, ACT, UP, DOWN], [], 239_748, 123_264),
        # 8-bit codes and 4 bytes for each 128 elements: k (h + 4*56), k (2f + 4*32), shared 2f + 4*32;
        # 239,748 - 114,688 - 65,536 - 8,192 + 59,136 + 33,792 + 4,224
        ("act", [LN, ACT, UP, DOWN], FP8, 148_484, 123_264),
        ("out", [LN, ACT, UP, DOWN], FP8, 148_484, 123_264),
    ],
)
def test_fused_layers_keep_these_bytes_a_token(router_probs, recompute, fp8, moe, dense):
    options = {"router_probs": router_probs, "recompute": frozenset(recompute), "fp8": frozenset(fp8)}
    assert layer("moe", **options) == moe * T
    assert layer("dense", **options) == dense * T


@pytest.mark.parametrize(
    ("recompute", "moe", "dense"),
    [
        # Only x: the block's input.
        (["full"], 2 * h, 2 * h),
        # Everything of the mixture but its input, which is the norm's output; the dense layer has none.
        (["moe"], 2 * NORM + LATENT + QKV + OUT, 258_448),
        # With the norm recomputed too, not even the input.
        (["moe", LN], 2 * 2 * h + LATENT + QKV + OUT, 229_768),
        (["mlp"], 374_932, 2 * NORM + LATENT + QKV + OUT),
        (["shared_experts"], 374_932 - SHARED, 258_448),
        # q, k, v stay as its inputs, the output as o_proj's: only the log-sum-exp goes.
        (["core_attn"], 374_932 - 4 * n, 258_448 - 4 * n),
        (["core_attn", UP], 239_748 + 36_864 + 28_680 - 4 * n, 123_264 + 36_864 + 28_680 - 4 * n),
        # An outer region swallows the inner ones.
        (["moe", ACT, DOWN, "shared_experts"], 2 * NORM + LATENT + QKV + OUT, 221_584),  # 258,448 - 2fd
        (["full", LN, ACT, UP, DOWN, "moe", "mlp", "core_attn", "shared_experts"], 2 * h, 2 * h),
    ],
)
def test_every_other_recompute_option_keeps_its_inputs_alone(recompute, moe, dense):
    assert layer("moe", recompute=frozenset(recompute)) == moe * T
    assert layer("dense", recompute=frozenset(recompute)) == dense * T


def test_an_eager_mixture_keeps_a_slope_and_a_constant():
    for tokens in (T, 2 * T, 16):
        kept = layer_bytes(K25, attention="mla", ffn="moe", tokens=tokens, kernels="eager", router_probs="out")
        assert kept == 735_236 * tokens + 11_011_584


def test_an_eager_dense_layer_keeps_360720_bytes_a_token():
    assert layer("dense", kernels="eager") == 360_720 * T


def test_eager_probabilities_inside_the_activation_keep_the_product_before_them():
    # + 2kf: the product before the probabilities; - 2kh: fc2's output is index_add's source, one storage.
    assert layer("moe", kernels="eager", router_probs="act") == (735_236 + PRODUCT - ROWS) * T + 11_011_584


@pytest.mark.parametrize(
    ("recompute", "less"),
    [
        ([LN], 2 * (EAGER_NORM - 2 * h)),  # x in bf16 stays, for it is now an input
        ([ACT], 2 * PRODUCT + 4 * f),  # act(gate) and the product, routed and shared
        ([UP], QKV + EAGER_LATENT - 2 * ql - 2 * (kl + dr)),  # q_a out and kv_a out stay instead
        ([DOWN], ROWS),
        (["core_attn"], 4 * n),
    ],
)
def test_an_eager_mixture_recomputes_the_same_regions(recompute, less):
    kept = layer("moe", kernels="eager", router_probs="out", recompute=frozenset(recompute))
    assert kept == (735_236 - less) * T + 11_011_584


def test_recomputing_an_eager_mixture_drops_the_constant_too():
    kept = layer("moe", kernels="eager", router_probs="out", recompute=frozenset({"moe"}))
    assert kept == EAGER_ATTENTION * T


def test_eager_fp8_storage_leaves_what_is_kept_beside_the_stored_input():
    kept = layer("moe", kernels="eager", router_probs="out", fp8=FP8)
    saved = (ROWS - 59_136) + (GATE_UP - 33_792) + (4 * f - 4_224)
    assert kept == (735_236 - saved) * T + 11_011_584


@pytest.mark.parametrize(("kernels", "operands", "score"), [("eager", 2 * QKV, 4), ("fused", QKV, 2)])
def test_the_unfused_core_keeps_queries_keys_values_and_all_scores_in_its_precision(kernels, operands, score):
    # Eager 4n (2dq + dv) a token and 4 b n s^2, instead of bf16 q, k, v and the log-sum-exp; fused half of that, so
    # that q, k and v stay as they were. o_proj's input stays.
    for batch in (1, 4):
        sequence = T // batch
        options = {"attention": "mla", "ffn": "dense", "tokens": T, "batch": batch, "kernels": kernels}
        flash, unfused = layer_bytes(K25, **options), layer_bytes(K25, core="unfused", **options)
        assert unfused - flash == (operands - QKV - 4 * n) * T + score * batch * n * sequence**2


def test_recomputing_the_unfused_core_keeps_bf16_inputs_and_no_scores():
    kept = layer("dense", core="unfused", recompute=frozenset({"core_attn"}))
    assert kept == (258_448 - 4 * n) * T


def test_a_long_context_is_a_straight_line_under_flash_attention():
    # 262,144 tokens at the same bytes a token: 98.3 GB a layer, without a byte of memory for it.
    kept = layer_bytes(K25, attention="mla", ffn="moe", tokens=262_144)
    assert kept == 374_932 * 262_144


def test_without_a_query_latent_the_projection_stands_in_the_recomputed_region():
    # Moonlight: no q_a. Plain: no 2ql + 4 + 2ql. Recomputed: the region's inputs are the norm's output, which
    # kv_a keeps anyway, and kv_a's output.
    mla = {**K25["attention"]["mla"], "q_lora_rank": None}
    backbone = {**K25, "attention": {"mla": mla}}
    kept = layer_bytes(backbone, attention="mla", ffn="dense", tokens=T)
    assert kept == (258_448 - 4 * ql - 4) * T
    less = layer_bytes(backbone, attention="mla", ffn="dense", tokens=T, recompute=frozenset({UP}))
    assert kept - less == (QKV + 4 + 2 * kl) * T


def test_a_softmax_router_without_normalisation_keeps_scores_and_indices_alone():
    moe = {**K25["ffn"]["moe"], "scoring_func": "softmax", "norm_topk_prob": False, "n_shared_experts": 0}
    kept = layer_bytes({**K25, "ffn": {"moe": moe}}, attention="mla", ffn="moe", tokens=T)
    assert kept == (374_932 - 4 * k - 4 - SHARED) * T


def test_a_plain_gelu_mlp_keeps_the_activations_input_and_output():
    dense = {"kind": "dense", "intermediate_size": fd, "hidden_act": "gelu", "gated": False, "mlp_bias": True}
    backbone = {**K25, "ffn": {"dense": dense}}
    kept = layer_bytes(backbone, attention="mla", ffn="dense", tokens=T)
    assert kept == (258_448 - DENSE + 2 * fd + 2 * fd) * T
    less = layer_bytes(backbone, attention="mla", ffn="dense", tokens=T, recompute=frozenset({ACT}))
    assert kept - less == 2 * fd * T


@pytest.mark.parametrize("kernels", ["fused", "eager"])
def test_expert_widths_that_no_grouped_product_would_take_are_counted_all_the_same(kernels):
    # 1,001 features: 2,002 bytes a row, no multiple of 16. Both profiles are linear in the width.
    narrow = {**K25["ffn"]["moe"], "moe_intermediate_size": 1_001, "n_shared_experts": 0}
    wide = {**narrow, "moe_intermediate_size": 2_001}
    kept = [
        layer_bytes({**K25, "ffn": {"moe": moe}}, attention="mla", ffn="moe", tokens=T, kernels=kernels)
        for moe in (narrow, wide)
    ]
    # gate_up 4k and product 2k a feature; eager probs@act also act(gate) and the unscaled product.
    assert kept[1] - kept[0] == 1_000 * k * (6 if kernels == "fused" else 10) * T


def test_fp8_tiles_of_a_width_that_128_does_not_divide_round_up():
    # f = 300: gate and up side by side have 600 features, so 5 tiles: 600 + 20 bytes a row instead of 1,200.
    moe = {**K25["ffn"]["moe"], "moe_intermediate_size": 300, "n_shared_experts": 0}
    backbone = {**K25, "ffn": {"moe": moe}}
    plain = layer_bytes(backbone, attention="mla", ffn="moe", tokens=T)
    less = layer_bytes(backbone, attention="mla", ffn="moe", tokens=T, fp8=frozenset({"swiglu_input"}))
    assert plain - less == k * (1_200 - 620) * T
