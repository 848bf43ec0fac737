"""FLOPs: published and hand-made figures, and the laws that hold for every model."""

from __future__ import annotations

import json
from dataclasses import astuple
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archcalc.calc.flops import Flops, flop_rows, totals
from archcalc.documents.flops import flops_quantities, flops_report
from archcalc.errors import InputError
from archcalc.files.loader import load_spec
from archcalc.files.model import Spec
from archcalc.tape import value
from archcalc.workload import Workload
from tests.support import data, run, spec_of, tiny

K2_GEMMS = 31_686_066_176
"""Weights that one token of K2 multiplies with, from the config: attention 6,168,569,856 less its 61 x (1536 + 512)
norm weights, dense layer 396,361,728, routers 165,150,720, shared experts 2,642,411,520, 8 of 384 routed experts
1,014,686,023,680 / 48 = 21,139,292,160, head 1,174,405,120. Looking up the embedding costs nothing."""

TOWER_GEMMS = 411_747_840
"""Weights that one patch multiplies with: convolution 3·14·14·1152 = 677,376 and 27 blocks of
1152·3456 + 1152·1152 + 2·1152·4304 = 15,224,832."""

PROJECTOR_GEMMS = 4608 * 4608 + 4608 * 7168


@cache
def spec(name: str) -> Spec:
    return load_spec(name)


def sums(name: str, **workload: Any) -> Flops:
    return totals(flop_rows(spec(name).trace(Workload(**workload))))


def of(loaded: Spec, **workload: Any) -> Flops:
    return totals(flop_rows(loaded.trace(Workload(**workload))))


# ------------------------------------------------------------------------------------------------------ figures


@pytest.mark.parametrize(
    ("name", "gemms", "scores"),
    [
        # scores of one token and layer: 2 · 4096 keys · heads · (query features + value features)
        ("k25", K2_GEMMS, 61 * 2 * 4096 * 64 * (192 + 128)),
        ("kimi-k2", K2_GEMMS, 61 * 2 * 4096 * 64 * (192 + 128)),
        # attention 11,413,547,008 - 61 x 2048, dense 1,189,085,184, routers 106,430,464, shared 2,554,331,136,
        # 8 of 256 experts: 653,908,770,816 / 32, head 926,679,040
        ("deepseek-v3", 36_624_596_992, 61 * 2 * 4096 * 128 * (192 + 128)),
        # 126 layers of 2·16384² + 2·16384·1024 + 3·16384·53248, and the head 128256·16384
        ("llama-3.1-405b", 126 * 3_187_671_040 + 2_101_346_304, 126 * 2 * 4096 * 128 * (128 + 128)),
    ],
)
def test_a_token_costs_two_flops_a_weight_and_its_scores(name: str, gemms: int, scores: int) -> None:
    full = sums(name, seq=4096, attention="full")
    assert full.linear == 4096 * 2 * gemms
    assert full.attention_core == 4096 * scores
    assert sums(name, seq=4096).attention_core == 4096 * scores // 2  # causal: half, by convention


@pytest.mark.parametrize(
    ("name", "attention", "per_token"),
    [
        ("k25", "full", 73_606_234_112),  # 2 · 31,686,066,176 + 10,234,101,760
        ("k25", "causal", 68_489_183_232),  # 2 · 31,686,066,176 + 5,117,050,880
        ("deepseek-v3", "full", 93_717_397_504),  # 2 · 36,624,596,992 + 20,468,203,520
        ("llama-3.1-405b", "full", 841_318_662_144),  # 2 · 403,747,897,344 + 33,822,867,456
    ],
)
def test_forward_flops_of_a_token_at_4096(name: str, attention: Any, per_token: int) -> None:
    found = flops_quantities(spec(name), Workload(seq=4096, attention=attention))
    assert found["flops.per_token"] == per_token
    assert found["flops.forward"] == 4096 * per_token  # K2, full: 301,491,134,922,752


def test_k2_forward_at_4096_with_full_scores() -> None:
    assert sums("kimi-k2", seq=4096, attention="full").forward == 301_491_134_922_752  # 4096 · 73,606,234,112


def test_absorbed_decode_scores_the_latent_and_the_rotary_key() -> None:
    # 61 layers · 4096 keys · 64 heads · 2 · (512 + 64 scored, 512 summed)
    step = sums("kimi-k2", phase="decode", context=4095, attention="full", choices=ABSORBED)
    assert step.attention_core == 34_795_945_984
    assert step == sums("kimi-k2", phase="decode", context=4095, attention="full")  # auto is absorbed in decode


def test_a_training_step_is_three_forwards() -> None:
    step = sums("k25", phase="train", seq=4096, attention="full")
    assert step.backward == 2 * step.forward
    assert step.total == 904_473_404_768_256  # 3 · 301,491,134,922,752


@pytest.mark.parametrize(
    ("workload", "patches", "tokens", "pairs"),
    [
        # 1024 x 768 px padded to 1036 x 784: 74 x 56 patches, attention over all of them
        ({"images": ((1024, 768),)}, 4144, 1036, 4144**2),
        # nine frames of 32 x 32 patches: two chunks of four frames and one of one; a token for 2 x 2 patches of a chunk
        ({"videos": ((9, 448, 448),)}, 9216, 768, 2 * 4096**2 + 1024**2),
    ],
    ids=["image", "video"],
)
def test_a_picture_costs_its_patches_pairs_and_tokens(
    workload: dict[str, Any], patches: int, tokens: int, pairs: int
) -> None:
    found = flops_quantities(spec("k25"), Workload(seq=1, **workload))
    assert (found["vision.patches"], found["vision.tokens"]) == (patches, tokens)
    assert found["flops.vision"] == 2 * patches * TOWER_GEMMS + 27 * 2 * pairs * 2 * 1152
    assert found["flops.projector"] == 2 * tokens * PROJECTOR_GEMMS


@pytest.mark.parametrize(
    ("name", "seen", "tokens"),
    [
        # 1500 x 500 px: 54 x 18 windows of 28 px (unslothai/llama.cpp#70)
        ("kimi-k3", {"images": ((500, 1500),)}, 972),
        # four frames of 1024 x 576 px: a grid of 2 x 36 x 64 patches, four of them a token (waybarrios/vllm-mlx#149)
        ("qwen3-vl-235b", {"videos": ((4, 576, 1024),)}, 1152),
    ],
)
def test_a_picture_makes_the_tokens_that_public_threads_report(name: str, seen: dict[str, Any], tokens: int) -> None:
    assert flops_quantities(spec(name), Workload(**seen))["vision.tokens"] == tokens


@pytest.mark.parametrize(
    ("batch", "seq", "printed"),
    [(4, 256, "41.00620025856"), (12, 2048, "1053.4")],  # AI-Hypercomputer/maxtext#1304 and #644 [TFLOP]
)
def test_a_training_step_of_llama_2_7b_is_what_maxtext_counts_with_full_scores(
    batch: int, seq: int, printed: str
) -> None:
    content = data("llama-3.1-8b")
    content["backbone"]["vocab_size"] = 32_000
    content["backbone"]["attention"]["full"]["num_key_value_heads"] = 32
    content["backbone"]["ffn"]["dense"]["intermediate_size"] = 11_008
    step = of(spec_of(content), phase="train", batch=batch, seq=seq, attention="full").total
    decimals = len(printed.partition(".")[2])
    assert f"{step / 10**12:.{decimals}f}" == printed


def test_published_vision_figures() -> None:
    image = sums("k25", seq=1, images=((1024, 768),))
    assert (image.vision, image.projector) == (5_549_129_220_096, 112_434_610_176)
    video = sums("k25", seq=1, videos=((9, 448, 448),))
    assert (video.vision, video.projector) == (11_894_504_030_208, 83_349_209_088)


# --------------------------------------------------------------------------------------------------------- laws

SMALL = spec_of(tiny())
ABSORBED = (("mla", "absorbed"),)
MLA = {
    "kind": "mla",
    "num_attention_heads": 4,
    "q_lora_rank": None,
    "kv_lora_rank": 6,
    "qk_nope_head_dim": 5,
    "qk_rope_head_dim": 2,
    "v_head_dim": 3,
    "attention_bias": False,
}
LATENT = spec_of(
    tiny(
        attention={"mla": MLA},
        layers=[{"count": 1, "attention": "mla", "ffn": "dense"}, {"count": 2, "attention": "mla", "ffn": "moe"}],
    )
)
BOTH = pytest.mark.parametrize("model", [SMALL, LATENT], ids=["gqa", "mla"])
lengths = st.integers(1, 500)


@BOTH
@given(batch=st.integers(1, 9), seq=lengths, context=st.integers(0, 500))
def test_flops_are_linear_in_batch(model: Spec, batch: int, seq: int, context: int) -> None:
    one, more = of(model, seq=seq, context=context), of(model, seq=seq, context=context, batch=batch)
    assert astuple(more) == tuple(batch * n for n in astuple(one))


@BOTH
@pytest.mark.parametrize("attention", ["causal", "full"])
@given(seq=lengths, times=st.integers(1, 7))
def test_attention_is_quadratic_and_the_rest_linear_in_length(
    model: Spec, attention: Any, seq: int, times: int
) -> None:
    one, more = of(model, seq=seq, attention=attention), of(model, seq=times * seq, attention=attention)
    assert more.linear == times * one.linear
    assert more.attention_core == times**2 * one.attention_core


chunked = st.lists(st.integers(1, 60), min_size=1, max_size=6)


@pytest.mark.parametrize("mla", ["expanded", "absorbed"])
@BOTH
@given(chunks=chunked)
def test_a_causal_prefill_is_the_sum_of_its_chunks_but_for_expanding_latents_again(
    model: Spec, mla: Any, chunks: list[int]
) -> None:
    choices = (("mla", mla),)
    starts = [sum(chunks[:n]) for n in range(len(chunks))]
    parts = [of(model, seq=n, context=c, choices=choices) for n, c in zip(chunks, starts, strict=True)]
    whole = of(model, seq=sum(chunks), choices=choices)
    assert sum(part.attention_core for part in parts) == whole.attention_core
    again = 0
    if model is LATENT and mla == "expanded":  # 3 layers, kv_b_proj: latent 6 to 4 heads of 5 + 3, over cached rows
        again = 3 * 2 * 6 * 4 * (5 + 3) * sum(starts)
    assert sum(part.linear for part in parts) == whole.linear + again


@BOTH
@given(context=st.integers(0, 1000))
def test_decode_is_a_prefill_of_one_token_with_nothing_halved(model: Spec, context: int) -> None:
    step = of(model, phase="decode", context=context, choices=ABSORBED)
    assert step == of(model, seq=1, context=context, choices=ABSORBED, attention="full")
    assert step == of(model, phase="decode", context=context, choices=ABSORBED, attention="full")


def test_a_decoded_token_scores_itself_whole() -> None:
    # Llama 3.1 70B: 80 layers x 2 FLOPs x 64 heads x (128 + 128) for each of c + 1 pairs (sglang#34298)
    steps = [sums("llama-3.1-70b", phase="decode", context=c).attention_core for c in (0, 4096)]
    assert steps == [2_621_440, 4097 * 2_621_440]


@given(context=st.integers(0, 1000))
def test_decode_steps_differ_by_the_scores_of_one_key(context: int) -> None:
    before, after = (of(SMALL, phase="decode", context=c) for c in (context, context + 1))
    assert after.linear == before.linear
    assert after.attention_core - before.attention_core == 3 * 2 * 4 * (3 + 3)  # layers · 2 · heads · (key + value)


@given(seq=st.integers(2, 300))
def test_a_head_over_the_last_token_saves_the_others(seq: int) -> None:
    everywhere, last = of(SMALL, seq=seq), of(SMALL, seq=seq, logits="last")
    assert everywhere.forward - last.forward == 2 * (seq - 1) * 8 * 32  # hidden · vocabulary


@given(seq=lengths)
def test_absorbing_scores_wider_keys_with_the_same_weights(seq: int) -> None:
    expanded, absorbed = (of(LATENT, seq=seq, choices=c, attention="full") for c in ((), ABSORBED))
    assert expanded.attention_core == 3 * 2 * seq * seq * 4 * (5 + 2 + 3)
    assert absorbed.attention_core == 3 * 2 * seq * seq * 4 * (6 + 2 + 6)
    # the same weights, used on the side of the queries: 4 heads of 5·6 and 6·3 instead of 6 · 4·(5+3)
    assert absorbed.linear == expanded.linear


@settings(max_examples=20)
@given(seq=st.integers(1, 64), frames=st.integers(1, 9), side=st.integers(1, 60))
def test_rows_add_up_to_every_total(seq: int, frames: int, side: int) -> None:
    rows = flop_rows(spec("k25").trace(Workload(phase="train", seq=seq, videos=((frames, side, side),))))
    found = totals(rows)
    assert found.forward == sum(row.forward for row in rows) == found.backbone + found.vision + found.projector
    assert found.backbone == found.linear + found.attention_core
    assert found.total == found.forward + sum(row.backward for row in rows)
    assert all(row.forward == row.copies * value(row.number) for row in rows)


def test_longer_contexts_never_cost_less() -> None:
    costs = [sums("k25", phase="decode", context=c).forward for c in range(0, 5000, 500)]
    assert all(a < b for a, b in pairwise(costs))


# ----------------------------------------------------------------------------------------------------- backward


def test_backward_is_twice_the_forward_but_for_the_patch_convolution() -> None:
    rows = flop_rows(spec("k25").trace(Workload(phase="train", seq=16, images=((448, 448),))))
    factors = {row.path: row.backward // row.forward for row in rows}
    assert factors.pop("vision_tower.patch_embed.proj") == 1  # pixels need no gradient
    assert set(factors.values()) == {2}


def test_a_training_step_with_an_image_runs_the_tower_backward_too() -> None:
    step = sums("k25", phase="train", seq=16, images=((448, 448),))
    convolution = 2 * 1024 * 3 * 14 * 14 * 1152  # 32 x 32 patches
    assert step.backward == 2 * step.forward - convolution
    assert step.vision == 2 * 1024 * TOWER_GEMMS + 27 * 2 * 1024**2 * 2 * 1152
    assert step.backbone == sums("k25", phase="train", seq=16 + 256).backbone  # 256 vision tokens join the text


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_only_training_runs_backward(phase: Any) -> None:
    found = sums("k25", phase=phase, seq=1)
    assert (found.backward, found.total) == (0, found.forward)


# ----------------------------------------------------------------------------------------------------- the report


def test_multi_token_prediction_is_in_no_total() -> None:
    found = sums("deepseek-v3", seq=4096, attention="full")
    # eh_proj 2·7168·7168 and one MoE layer: MLA 187,105,280, router 7168·256, nine experts of 3·7168·2048
    gemms = 2 * 7168 * 7168 + 187_105_280 + 7168 * 256 + 9 * 3 * 7168 * 2048
    head = 7168 * 129_280  # arXiv:2412.19437, eq. 23: the shared head makes logits of each module's output
    assert found.mtp == 4096 * (2 * (gemms + head) + 2 * 4096 * 128 * 320)
    assert found.forward == found.backbone


def test_a_prediction_module_trains_beside_the_step_and_not_in_it() -> None:
    # every product's backward is twice its forward, so all of a step is three times the forward pass
    spec = spec_of(tiny(num_nextn_predict_layers=1))
    step, forward = of(spec, phase="train", seq=8), of(spec, seq=8)
    assert (step.forward, step.backward) == (forward.forward, 2 * forward.forward)
    # projections q, k, v, o 288, eh_proj 2·8·8, router 48, two experts and a shared one of 120; scores 8²·4·(3 + 3)
    # and the head of hidden 8 and the vocabulary
    head = 8 * spec.backbone.vocab_size
    assert forward.mtp == 2 * 8 * (288 + 128 + 48 + 3 * 120 + head) + 8 * 8 * 4 * (3 + 3)
    assert step.mtp == 3 * forward.mtp


def test_a_training_step_of_deepseek_v3_passes_the_head_once_more() -> None:
    # 3 x (2 x 4096 x (MLA 187,105,280 + router + 27 matrices of the experts + eh_proj) + causal scores), the sum that
    # pytorch/torchtitan#4441 and Megatron-LM's num_floating_point_operations, logits x (mtp_num_layers + 1), ask for
    layer = 187_105_280 + 7168 * 256 + 27 * 7168 * 2048 + 2 * 7168**2
    scores = 128 * 320 * 4096**2
    head = 6 * 4096 * 7168 * 129_280
    assert sums("deepseek-v3", phase="train", seq=4096).mtp == 3 * (2 * 4096 * layer + scores) + head


def test_a_prediction_module_makes_the_logits_that_are_asked_for() -> None:
    spec = spec_of(tiny(num_nextn_predict_layers=1))
    every, last = (of(spec, seq=8, logits=logits).mtp for logits in ("all", "last"))
    assert every - last == 7 * 2 * 8 * spec.backbone.vocab_size


def test_a_whole_run_scales_the_step_and_stands_beside_6nd() -> None:
    report = flops_report(spec("kimi-k2"), Workload(phase="train", seq=4096), tokens=15_500_000_000_000)
    found = report.quantities
    assert found["flops.run_total"] == 3 * 68_489_183_232 * 15_500_000_000_000
    assert found["flops.run_6nd"] == 6 * 32_861_477_888 * 15_500_000_000_000
    assert found["flops.run_ratio"] == pytest.approx(68_489_183_232 / (2 * 32_861_477_888))  # 1.042


def test_images_of_a_run_count_their_tokens() -> None:
    words = ("flops", "k25", "--phase", "train", "--seq", "3060", "--image", "1024x768", "--tokens", "1M")
    found = json.loads(run(*words, "--format", "json").out)["quantities"]
    assert found["vision.tokens"] + 3060 == 4096
    assert found["flops.run_total"] == found["flops.total"] * 1_000_000 // 4096


def test_a_run_needs_the_training_phase() -> None:
    ran = run("flops", "k25", "--tokens", "15.5T")
    assert (ran.code, ran.out) == (2, "")
    assert "add --phase train" in ran.err


def test_a_text_model_sees_no_images() -> None:
    with pytest.raises(InputError, match="has no vision tower"):
        flops_report(spec("llama-3.1-70b"), Workload(seq=1, images=((28, 28),)))


def test_decode_runs_no_tower() -> None:
    found = sums("k25", phase="decode", context=1036, images=((1024, 768),))
    assert (found.vision, found.projector) == (0, 0)


def test_every_row_has_a_formula_that_gives_its_number() -> None:
    report = flops_report(SMALL, Workload(seq=7))
    rows = {row["path"]: row for row in (report.rows.rows if report.rows else ())}
    row = rows["model.layers.1-2.mlp.gate"]
    assert row["formula"] == "2·batch·seq·hidden_size·n_routed_experts"
    assert row["forward"] == 2 * (2 * 1 * 7 * 8 * 6)  # two layers
