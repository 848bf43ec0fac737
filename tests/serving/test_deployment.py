"""How a model is spread: what each device holds of the weights, and which layers each pipeline stage has."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archcalc.errors import InputError
from archcalc.serving.deployment import Deployment, loaded_weights, stage_weights, stages
from tests.serving.deployed import held, held_by, model, served, weights
from tests.support import spec_of, tiny

# --------------------------------------------------------------------------------------- divided weights


def test_language_only_weights_of_k25_over_eight_devices_to_the_byte() -> None:
    experts = (507_343_011_840 + 63_417_876_480) // 8 + 552_960  # shapes describe each part: they stay whole
    mla = 61 * (12_288 * 1536 + 16_384 * 512 + 7168 * 8192)  # q_b, kv_b, o
    divided = 2 * 1_174_405_120 + mla + 396_361_728 + 2_642_411_520  # embedding, head, dense, shared
    small = 61 * (1536 * 7168 + 576 * 7168 + 1536 + 512)  # q_a, kv_a and their norms
    whole = small + 881_664 + 165_150_720  # layer norms, router
    expected = experts + 2 * divided // 8 + 2 * whole + 4 * 23_040  # correction biases in fp32
    assert held("k25", tp=8, language_only=True) == expected


def test_a_dense_model_is_divided_but_for_its_norms() -> None:
    norms = 2 * 161 * 8192  # 2 a layer and the last one, in bf16
    assert held("llama-3.1-70b", tp=8) == (141_107_412_992 - norms) // 8 + norms


def test_one_device_holds_the_checkpoint() -> None:
    assert held("k25") == 595_148_192_736
    assert held("llama-3.1-405b") == 811_706_777_600


def test_key_value_projections_are_copied_past_their_heads() -> None:
    whole = 2 * 80 * 8192 * 8 * 128
    sizes = [held_by("llama-3.1-70b", "self_attn.k_proj", tp=tp) for tp in (1, 4, 8, 16, 64)]
    assert sizes == [whole, whole // 4, whole // 8, whole // 8, whole // 8]


def test_a_part_of_a_packed_expert_has_its_part_of_words_and_scales_and_the_whole_shape() -> None:
    # down_proj 7168 x 2048 over 8: 256 inputs: 32 words and 8 scales a row, and a shape of 8 B
    each = 7168 * (32 * 4 + 8 * 2) + 8
    assert held_by("k25", "experts.{e}.down_proj", tp=8) == 60 * 384 * each
    # up_proj 2048 x 7168 over 8: 256 rows of 896 words and 224 scales
    assert held_by("k25", "experts.{e}.up_proj", tp=8) == 60 * 384 * (256 * (896 * 4 + 224 * 2) + 8)


def test_expert_parallel_devices_hold_whole_experts() -> None:
    each = 7168 * (256 * 4 + 64 * 2) + 8
    assert held_by("k25", "experts.{e}.down_proj", tp=8, ep=8) == 60 * 48 * each
    assert held_by("k25", "experts.{e}.down_proj", dp=8, ep=8) == 60 * 48 * each


def test_without_expert_parallelism_experts_are_divided_over_all_groups() -> None:
    # FusedMoEParallelConfig.make: tensor parallelism is flattened over data parallelism
    assert held_by("k25", "experts.{e}.up_proj", tp=2, dp=4) == held_by("k25", "experts.{e}.up_proj", tp=8)


def test_expert_parallelism_below_all_devices_divides_each_expert_further() -> None:
    # 4 groups of 96 experts, each over 2 devices: 1024 rows
    each = 1024 * (896 * 4 + 224 * 2) + 8
    assert held_by("k25", "experts.{e}.up_proj", tp=8, ep=4) == 60 * 96 * each


def test_data_parallel_groups_each_hold_what_is_no_routed_expert() -> None:
    others = [w for w in weights("k25", dp=8, ep=8) if w.weight.role != "routed_expert"]
    assert all(w.held == w.whole for w in others)


def test_fp8_scales_divide_with_their_blocks() -> None:
    # gate_proj 2048 x 7168 over 16: 128 rows, 1 x 56 scales of 4 B
    assert held_by("kimi-k2", "experts.{e}.gate_proj", tp=16) == 60 * 384 * (128 * 7168 + 56 * 4)


@pytest.mark.parametrize(
    ("name", "where", "message"),
    [
        # 18432 rows over 32: four and a half blocks of 128
        ("kimi-k2", {"tp": 32}, "model.layers.0.mlp.gate_proj can't be divided into 32 parts"),
        # 2048 inputs over 128: half a group of 32
        ("k25", {"tp": 64, "dp": 2}, "layers.1.mlp.experts.0.down_proj can't be divided into 128 parts"),
    ],
)
def test_a_part_that_would_cut_a_block_is_refused(name: str, where: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"{message}: its quantization blocks would be cut"):
        weights(name, language_only=True, **where)


# ----------------------------------------------------------------------------------- vision, draft layers


def test_the_tower_is_divided_or_whole_and_the_projector_always_whole() -> None:
    def part(name: str, **where: Any) -> int:
        return sum(w.held for w in weights("k25", **where) if w.weight.part == name)

    assert part("vision", tp=8, vision="replicated") == 2 * 416_866_032
    # a block: wqkv, its bias, wo, fc0, its bias and fc1 divided; two norms, biases of wo and fc1 whole
    divided = 3456 * 1153 + 1152 * 1152 + 4304 * 1153 + 1152 * 4304
    block = divided // 8 + 4 * 1152 + 2 * 1152
    assert part("vision", tp=8, vision="sharded") == 2 * (27 * block + 5_397_120 + 2304)
    assert part("projector", tp=8) == 2 * 54_277_888


def test_language_only_leaves_tower_and_projector_out() -> None:
    assert held("k25") - held("k25", language_only=True) == 2 * (416_866_032 + 54_277_888)


def test_a_tower_that_cant_be_divided_says_to_keep_it_whole() -> None:
    with pytest.raises(InputError, match="vt_num_attention_heads 16 can't be divided over tp 32") as caught:
        weights("k25", tp=32)
    assert caught.value.hint is not None
    assert "--vision replicated" in caught.value.hint
    assert held("k25", tp=32, vision="replicated") > 0


def test_the_multi_token_prediction_layer_is_not_loaded() -> None:
    assert max(max(w.weight.indices, default=0) for w in weights("deepseek-v3")) == 60
    # the trained parameters of the main model, and 58 x 256 correction biases
    assert held("deepseek-v3", "bf16") == 2 * 671_026_404_352 + 4 * 14_848


# -------------------------------------------------------------------------------------- bad deployments


@pytest.mark.parametrize("field", ["tp", "pp", "dp", "ep", "dcp"])
@pytest.mark.parametrize("size", [0, -8])
def test_sizes_below_one_are_refused(field: str, size: Any) -> None:
    with pytest.raises(InputError, match=f"{field} must be at least 1, not {size}"):
        Deployment(**{field: size})


def test_heads_must_divide_over_tp() -> None:
    with pytest.raises(InputError, match="num_attention_heads 64 can't be divided over tp 7"):
        served("k25", tp=7)


def test_more_context_parallelism_than_tp_is_refused() -> None:
    with pytest.raises(InputError, match="dcp 16 does not divide tp 8"):
        Deployment(tp=8, dcp=16)


def test_ep_must_divide_the_devices() -> None:
    with pytest.raises(InputError, match="ep 3 does not divide the 8 devices of tp 4 x dp 2"):
        Deployment(tp=4, dp=2, ep=3)


@pytest.mark.parametrize("by", ["sglang", "vllm-v0"])
def test_experts_must_divide_over_ep_where_every_device_holds_as_many(by: str) -> None:
    # 256 / 24 is 10 and two thirds
    with pytest.raises(InputError, match="n_routed_experts 256 can't be divided over ep 24"):
        served("deepseek-v3", by=by, tp=8, dp=3, ep=24)


@pytest.mark.parametrize("by", ["vllm", "vllm-0.8"])
def test_the_fullest_device_holds_one_expert_more_where_they_do_not_divide(by: str) -> None:
    # 256 = 16 x 11 + 8 x 10 experts over 24 devices (vLLM, determine_expert_map): 11 of them on the fullest
    # one of 58 layers' experts in FP8: gate, up and down of 2048 x 7168, and scales of 16 x 56 blocks in fp32
    each = 58 * 3 * (2048 * 7168 + 4 * 16 * 56)
    found = served("deepseek-v3", by=by, tp=8, dp=3, ep=24)
    routed = sum(w.held for w in found.devices[0].weights if w.weight.role == "routed_expert")
    assert routed == 11 * each
    # tp 8 over one node divides everything else alike, and gives each device 32
    even = served("deepseek-v3", by=by, tp=8, ep=8)
    assert even.weights_bytes - found.weights_bytes == (32 - 11) * each
    assert all(routed_on(by, 8 * dp) == -(-256 // (8 * dp)) * each for dp in (1, 2, 3, 5, 7))


def routed_on(by: str, ep: int) -> int:
    """Bytes of DeepSeek-V3's routed experts on a device of tp 8."""
    found = served("deepseek-v3", by=by, tp=8, dp=ep // 8, ep=ep)
    return sum(w.held for w in found.devices[0].weights if w.weight.role == "routed_expert")


def test_expert_width_that_cant_be_divided_says_to_keep_experts_whole() -> None:
    with pytest.raises(InputError, match="moe_intermediate_size 2048 can't be divided over tp x dp 3") as caught:
        weights("k25", dp=3)
    assert caught.value.hint == "keep experts whole with --ep all"


def test_ep_needs_experts() -> None:
    with pytest.raises(InputError, match="ep needs routed experts"):
        served("llama-3.1-70b", tp=8, ep=8)


# ------------------------------------------------------------------------------------------------- padding


def test_a_vocabulary_that_does_not_divide_is_padded_to_64s_and_one_that_does_is_not() -> None:
    # 32 words x 8 features in bf16: over 4 devices 8 rows; over 3 of what lcm(64, 3) = 192 rows make, 64
    content = tiny(vocab_size=32)
    content["backbone"]["attention"]["gqa"] |= {"num_attention_heads": 12, "num_key_value_heads": 12}
    content["backbone"]["ffn"]["dense"]["intermediate_size"] = 12
    content["backbone"]["ffn"]["moe"]["moe_intermediate_size"] = 12
    small = spec_of(content)
    assert held_by(small, "embed_tokens", tp=4) == held_by(small, "lm_head", tp=4) == 8 * 8 * 2
    assert held_by(small, "embed_tokens", tp=3) == held_by(small, "lm_head", tp=3) == 64 * 8 * 2
    assert [(p.name, p.size, p.padded) for p in served(small, tp=3).padded] == [("vocab_size", 32, 192)]
    assert served(small, tp=4).padded == ()


# ------------------------------------------------------------------------------------------ what is divided


WHOLE = {"q_a_proj", "kv_a_proj_with_mqa", "q_a_layernorm", "kv_a_layernorm", "router", "router_bias", "norm"}
DIVIDED = {"embedding", "head", "q_proj", "q_b_proj", "kv_b_proj", "k_proj", "v_proj", "o_proj"}
DIVIDED |= {"dense_ffn", "shared_expert", "routed_expert"}
"""Module names and roles (vLLM, model_executor/models/deepseek_v2.py and layers/mla.py: fused_qkv_a_proj and norms
replicated, q_b_proj and kv_b_proj column-parallel, o_proj row-parallel; models/llama.py)."""


@pytest.mark.parametrize("name", ["k25", "deepseek-v3", "llama-3.1-70b"])
def test_what_is_divided_is_what_vllm_divides(name: str) -> None:
    for w in weights(name, tp=8):
        if w.weight.part in ("vision", "projector"):
            continue
        names = {w.weight.role, w.weight.path.rpartition(".")[2]}
        assert bool(names & DIVIDED) != bool(names & WHOLE), names
        assert (w.held < w.whole) == bool(names & DIVIDED), names


# ---------------------------------------------------------------------------------------- pipeline stages


def staged(name: str, pp: int, **how: Any) -> list[set[str]]:
    """Paths of the weights of each stage, layer numbers in place."""
    of = model(name)
    loaded = loaded_weights(of.tape, of.scheme, **how)
    depth = sum(s.count for s in of.tape.segments if s.part == "backbone" and s.indices)
    found = []
    for stage in stages(depth, Deployment(pp=pp)):
        mine = stage_weights(loaded, of.tape, stage, depth)
        found.append(
            {
                f"{w.path.replace('{i}', str(i)).removeprefix('language_model.')}.{w.suffix}"
                for w in mine
                for i in (w.indices or (0,))
            }
        )
    return found


@pytest.mark.parametrize("pp", [1, 2, 8, 61])
def test_every_weight_of_an_untied_model_is_on_one_stage(pp: int) -> None:
    found = staged("k25", pp)
    assert sum(map(len, found)) == len(set().union(*found))
    assert set().union(*found) == staged("k25", 1)[0]


def test_the_first_stage_has_embedding_tower_and_projector_and_the_last_one_norm_and_head() -> None:
    first, *between, last = staged("k25", 4)
    assert "model.embed_tokens.weight" in first
    assert any(path.startswith("vision_tower.") for path in first)
    assert any(path.startswith("mm_projector.") for path in first)
    assert {"model.norm.weight", "lm_head.weight"} <= last
    for stage in (*between, last):
        assert not any(path.startswith(("vision_tower.", "mm_projector.", "model.embed")) for path in stage)
    for stage in (first, *between):
        assert not {"model.norm.weight", "lm_head.weight"} & stage


def test_a_tied_embedding_is_on_the_first_and_on_the_last_stage() -> None:
    found = staged("gemma-3-27b", 4)
    assert ["model.embed_tokens.weight" in stage for stage in found] == [True, False, False, True]
    assert "model.embed_tokens.weight" in staged("gemma-3-27b", 1)[0]


def test_prediction_modules_are_on_the_last_stage() -> None:
    first, *between, last = staged("deepseek-v3", 4, mtp=True)
    assert "model.layers.61.eh_proj.weight" in last
    assert not any("layers.61." in path for stage in (first, *between) for path in stage)


@settings(max_examples=50, deadline=None)
@given(depth=st.integers(1, 130), pp=st.integers(1, 130))
def test_stages_hold_every_layer_once_in_order_and_differ_by_one_at_most(depth: int, pp: int) -> None:
    if pp > depth:
        with pytest.raises(InputError, match=f"pp {pp} is more than the {depth} layers"):
            stages(depth, Deployment(pp=pp))
        return
    found = stages(depth, Deployment(pp=pp))
    assert [i for stage in found for i in stage] == list(range(depth))
    sizes = {len(stage) for stage in found}
    assert max(sizes) - min(sizes) <= 1


@settings(max_examples=30, deadline=None)
@given(name=st.sampled_from(["k25", "llama-3.1-70b", "deepseek-v3"]), tp=st.sampled_from([1, 2, 4]))
def test_twice_the_devices_never_hold_more_and_never_less_than_half(name: str, tp: int) -> None:
    one, two = weights(name, tp=tp), weights(name, tp=2 * tp)
    for a, b in zip(one, two, strict=True):
        assert a.held <= 2 * b.held
        assert b.held <= a.held
    assert held(name, tp=tp) > held(name, tp=2 * tp)
