"""Embedding, head with its loss, vision tower, projector, and a whole spec. Bytes a token or a patch."""

from pathlib import Path

import pytest
import yaml

from archcalc.errors import InputError
from archcalc.reference.saved import measure
from tests.reference.saved.tiny import layer_bytes

pytestmark = pytest.mark.twin

K25 = yaml.safe_load((Path(__file__).parents[3] / "specs" / "k25.yaml").read_text(encoding="utf-8"))
BACKBONE, VISION, PROJECTOR = K25["backbone"], K25["vision"], K25["projector"]
DENSE = {"backbone": {**BACKBONE, "num_hidden_layers": 1, "layers": BACKBONE["layers"][:1]}}
T, h, V = 4096, 7168, 163_840
P, vh, vf, n = 1024, 1152, 4304, 16


def head_bytes(kernels, loss):
    return measure(DENSE, seq=T, kernels=kernels, loss=loss)["lm_head"]


def tower_bytes(patches, **projector):
    eyes = {"vision": VISION, "projector": PROJECTOR | projector}
    return measure(DENSE | eyes, seq=1, patches=patches)


def test_the_embedding_keeps_its_ids():
    assert measure(DENSE, seq=T)["model.embed_tokens"] == 8 * T


@pytest.mark.parametrize(
    ("kernels", "loss", "per_token", "constant"),
    [
        # norm: x, rstd, output; loss: fp32 softmax, targets, a byte to mask targets of other ranks
        ("fused", "kernels", 2 * h + 4 + 2 * h + 4 * V + 8 + 1, 0),
        # norm: fp32 x, rstd, x/rms, output; loss: fp32 log-softmax, targets, torch's fp32 total weight
        ("eager", "kernels", 4 * h + 4 + 2 * h + 2 * h + 4 * V + 8, 4),
        ("eager", "bf16", 4 * h + 4 + 2 * h + 2 * h + 2 * V + 8, 2),  # logits never upcast
        ("fused", "chunked", 2 * h + 4 + 2 * h + 8, 0),  # a chunk's inputs are views of the norm's output
        ("eager", "chunked", 4 * h + 4 + 2 * h + 2 * h + 8, 0),
    ],
)
def test_the_head_keeps_a_softmax_unless_the_loss_is_chunked(kernels, loss, per_token, constant):
    assert head_bytes(kernels, loss) == per_token * T + constant


def test_the_log_softmax_is_2_68_gb_in_fp32_and_half_of_that_in_bf16():
    # 4 * 4096 * 163840 = 2,684,354,560
    fp32, bf16 = (head_bytes("eager", loss) for loss in ("kernels", "bf16"))
    assert fp32 - bf16 == 2_684_354_560 // 2 + 4 - 2


def test_a_moonvit_block_keeps_40336_bytes_a_patch():
    norm = 2 * vh + 4 + 4 + 2 * vh  # x, mean and rstd in fp32, output
    # v is a view and keeps the whole qkv output; q and k are new after rope; out; log-sum-exp
    attention = 6 * vh + 4 * vh + 2 * vh + 4 * n
    gelu = 2 * vf + 2 * vf  # its input and its output
    assert 2 * norm + attention + gelu == 40_336
    assert tower_bytes(P)["vision_tower.encoder.blocks.0"] == 40_336 * P


def test_the_patch_embedding_keeps_pixels_and_the_final_norm_its_input_and_statistics():
    found = tower_bytes(P)
    assert found["vision_tower.patch_embed"] == 2 * 3 * 14 * 14 * P
    assert found["vision_tower.encoder.final_layernorm"] == (2 * vh + 8) * P


def test_the_projector_keeps_9224_bytes_a_patch():
    # x, statistics, norm output; then, for four patches, GELU's input and output of 4 * 1152 features
    assert 2 * vh + 8 + 2 * vh + 2 * 2 * 4 * vh // 4 == 9_224
    assert tower_bytes(P)["mm_projector"] == 9_224 * P


def test_a_projector_that_norms_after_the_merge_keeps_statistics_of_merged_patches():
    after = tower_bytes(P, use_postshuffle_norm=True)
    assert after["mm_projector"] == 9_224 * P - 8 * P + 8 * P // 4


def test_patches_that_leave_a_merge_group_open_are_refused():
    with pytest.raises(InputError, match="10 patches don't fill groups of 2 x 2"):
        tower_bytes(10)


def test_a_spec_is_measured_by_the_path_of_each_segments_first_module():
    found = measure(K25, seq=1024, batch=2, patches=P, kernels="fused", router_probs="out")
    assert found == {
        "language_model.model.embed_tokens": 8 * 2048,
        "language_model.model.layers.0": 258_448 * 2048,
        "language_model.model.layers.1": 489_620 * 2048,
        "language_model.lm_head": (4 * h + 4 + 4 * V + 9) * 2048,
        "vision_tower.patch_embed": 1_176 * P,
        "vision_tower.encoder.blocks.0": 40_336 * P,
        "vision_tower.encoder.final_layernorm": 2_312 * P,
        "mm_projector": 9_224 * P,
    }


def test_a_text_only_spec_has_no_prefix_and_no_tower():
    found = measure({"backbone": BACKBONE}, seq=64, patches=P, recompute=frozenset({"full"}))
    assert list(found) == ["model.embed_tokens", "model.layers.0", "model.layers.1", "lm_head"]
    assert found["model.layers.1"] == 2 * h * 64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernels": "fuse"}, "kernels: fuse is none of fused, eager"),
        ({"core": "flsh"}, "core: flsh is none of flash, flash-attn, unfused"),
        ({"router_probs": "in"}, "router_probs: in is none of act, out"),
        ({"recompute": frozenset({"layer_norm"})}, "recompute: layer_norm is none of layernorm"),
        ({"fp8": frozenset({"swiglu"})}, "fp8: swiglu is none of moe_up_proj_input"),
        ({"loss": "sum"}, "loss: sum is none of kernels, bf16, chunked"),
    ],
)
def test_names_that_are_not_known_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        layer_bytes(BACKBONE, **{"attention": "mla", "ffn": "moe", "tokens": 16, **options})


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"attention": {"mla": {"kind": "mqa"}}}, "backbone.attention.mla.kind must be one of mla, gqa"),
        ({"ffn": {"moe": {"kind": "switch"}}}, "backbone.ffn.moe.kind must be one of dense, moe"),
        ({"ffn": {}}, "backbone.ffn.moe must be a mapping"),
        ({"hidden_size": None}, "backbone.hidden_size must be an integer"),
    ],
)
def test_a_section_that_cannot_be_built_names_its_key(section, message):
    with pytest.raises(InputError, match=message):
        layer_bytes({**BACKBONE, **section}, attention="mla", ffn="moe", tokens=16)
