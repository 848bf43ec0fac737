"""Grouped-query layers: terms listed tensor by tensor, bytes a token. Sizes of Llama 3 70B's config.json."""

import pytest

from tests.reference.saved.tiny import layer_bytes

pytestmark = pytest.mark.twin

T = 512
h, n, g, d, f = 8192, 64, 8, 128, 28672


def backbone(**attention):
    gqa = {"kind": "gqa", "num_attention_heads": n, "num_key_value_heads": g, "head_dim": d, **attention}
    dense = {"kind": "dense", "intermediate_size": f, "hidden_act": "silu", "gated": True}
    return {
        "hidden_size": h,
        "vocab_size": 128,
        "dtype": "bfloat16",
        "rms_norm_eps": 1e-5,
        "rope_theta": 5e5,
        "attention": {"gqa": gqa},
        "ffn": {"dense": dense},
    }


def kept(spec, **options):
    return layer_bytes(spec, attention="gqa", ffn="dense", tokens=T, **options)


NORM = 2 * h + 4 + 2 * h  # x, rstd, output
EAGER_NORM = 4 * h + 4 + 2 * h + 2 * h  # fp32 x, rstd, x/rms, output
CORE = 2 * n * d + 2 * g * d + 2 * g * d + 2 * n * d + 4 * n  # q, k and v of g heads, out, log-sum-exp


def test_flash_attention_keeps_keys_and_values_of_the_shared_heads_not_repeated():
    assert kept(backbone()) == (2 * NORM + CORE + 6 * f) * T


def test_eager_kernels_change_the_norms_and_the_activation_alone():
    assert kept(backbone(), kernels="eager") == (2 * EAGER_NORM + CORE + 8 * f) * T


def test_biases_keep_nothing():
    assert kept(backbone(attention_bias=True, attention_out_bias=True)) == kept(backbone())


def test_the_unfused_core_of_eager_modules_repeats_keys_and_values_to_all_heads_in_fp32():
    # As torch's own math path does with enable_gqa: 3 * 4nd and all scores instead of q, k, v, log-sum-exp.
    scores = 4 * n * T * T
    expected = (2 * EAGER_NORM + 12 * n * d + 2 * n * d + 8 * f) * T + scores
    assert kept(backbone(), core="unfused", kernels="eager") == expected
    # and with dropout a bool and an fp32 more for each score
    dropped = kept(backbone(), core="unfused", kernels="eager", attention_dropout=0.1)
    assert dropped - expected == 5 * n * T * T


def test_the_unfused_core_of_fused_modules_repeats_them_in_16_bit():
    # 3 * 2nd and all scores in 16 bit instead of q, k, v, log-sum-exp (TransformerEngine, UnfusedDotProductAttention)
    expected = (2 * NORM + 6 * n * d + 2 * n * d + 6 * f) * T + 2 * n * T * T
    assert kept(backbone(), core="unfused") == expected
    assert kept(backbone(), core="unfused", attention_dropout=0.1) - expected == 3 * n * T * T


@pytest.mark.parametrize("kernels", ["fused", "eager"])
def test_hidden_dropout_keeps_a_bool_for_each_element_of_two_branches(kernels):
    more = kept(backbone(), kernels=kernels, hidden_dropout=0.1) - kept(backbone(), kernels=kernels)
    assert more == 2 * h * T


def test_rotation_without_a_kernel_keeps_cos_and_sin_of_its_queries_and_of_its_keys():
    """One position each, whatever the heads: 2 tensors of 2 tables, 2 bytes a feature that turns."""
    for turned in (d, d // 2):
        spec = backbone(rotary_dim=turned)
        assert kept(spec, rope="unfused") - kept(spec) == 2 * 2 * 2 * turned * T
    assert kept(backbone(), rope="unfused", kernels="eager") == kept(backbone(), kernels="eager")


@pytest.mark.parametrize(
    ("qk_norm", "kernels", "more"),
    [
        # The projections' outputs become the norms' inputs; rope keeps nothing of the norms' outputs.
        ("per_head", "fused", 2 * (n + g) * d + 4 * (n + g)),  # an rstd a head
        ("full", "fused", 2 * (n + g) * d + 4 + 4),  # an rstd for all heads
        ("per_head", "eager", 6 * (n + g) * d + 4 * (n + g)),  # fp32 copy and x/rms
        ("full", "eager", 6 * (n + g) * d + 4 + 4),
    ],
)
def test_a_norm_of_queries_and_keys_keeps_its_input(qk_norm, kernels, more):
    plain, normed = kept(backbone(), kernels=kernels), kept(backbone(qk_norm=qk_norm), kernels=kernels)
    assert normed - plain == more * T


def test_the_package_flash_attn_keeps_the_output_in_both_orders():
    assert kept(backbone(), core="flash-attn") - kept(backbone()) == 2 * n * d * T


def test_only_the_core_can_be_recomputed_in_attention():
    assert kept(backbone(), recompute=frozenset({"mla_up_proj"})) == kept(backbone())
    eager = kept(backbone(), kernels="eager")
    assert eager - kept(backbone(), kernels="eager", recompute=frozenset({"core_attn"})) == 4 * n * T


def test_a_checkpoint_of_the_core_keeps_all_that_the_values_are_a_view_of():
    """Rotated queries and keys are new tensors; values lie in the projections' one tensor, (n + 2g)d wide, all of which
    is kept in their place. With norms of queries and keys it is kept without that, as their inputs."""
    again = frozenset({"core_attn"})
    assert kept(backbone(), recompute=again) - kept(backbone()) == (2 * (n + g) * d - 4 * n) * T
    spec = backbone(qk_norm="per_head")
    assert kept(spec, recompute=again) - kept(spec) == -4 * n * T


def test_a_layer_with_one_head_for_all_keeps_one_key_and_value():
    spec = backbone(num_key_value_heads=1)
    assert kept(backbone()) - kept(spec) == 2 * 2 * (g - 1) * d * T
