"""Serving memory: what each device holds, what is left for the KV cache, and what that serves."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from archcalc.documents.weights import what_if
from archcalc.errors import InputError
from archcalc.files.loader import load_spec
from archcalc.files.model import Spec
from archcalc.hardware import Hardware, load_hardware
from archcalc.serving.deployment import Deployment, HeldWeight, Spread, held_weights
from archcalc.serving.engine import Engine, load_engine
from archcalc.serving.memory import Load, Serving, serve, tried
from archcalc.tape import Tape
from archcalc.workload import Workload

PUBLISHED = Path(__file__).parents[1] / "published" / "serve-logs.yaml"
LOGS: dict[str, dict[str, Any]] = {n["id"]: n for n in yaml.safe_load(PUBLISHED.read_text())["numbers"]}
GIB = 2**30
CONTEXT = 131_072


@cache
def spec(name: str) -> Spec:
    return load_spec(name)


@cache
def vllm() -> Engine:
    return load_engine()


@cache
def gpu(name: str) -> Hardware:
    return load_hardware(name)


def tape(name: str) -> Tape:
    return spec(name).trace(Workload())


def weights(name: str, storage: str = "released", *, language_only: bool = False, **where: Any) -> list[HeldWeight]:
    return held_weights(tape(name), what_if(spec(name), storage), Deployment(**where), language_only=language_only)


def held(name: str, storage: str = "released", **where: Any) -> int:
    return sum(w.held for w in weights(name, storage, **where))


def held_by(name: str, ending: str, storage: str = "released", **where: Any) -> int:
    """Bytes on one device of the weights whose path ends so."""
    return sum(w.held for w in weights(name, storage, **where) if w.weight.path.endswith(ending))


def served(
    name: str, on: str = "h200", engine: Engine | None = None, load: Load | None = None, **where: Any
) -> Serving:
    how = load or Load(context=CONTEXT)
    return serve(tape(name), what_if(spec(name), "released"), gpu(on), engine or vllm(), Deployment(**where), how)


# --------------------------------------------------------------------------------------- divided weights


def test_language_only_weights_of_k25_over_eight_devices_to_the_byte() -> None:
    experts = (507_343_011_840 + 63_417_876_480) // 8 + 552_960  # shapes describe each part: they stay whole
    mla = 61 * (12_288 * 1536 + 16_384 * 512 + 7168 * 8192)  # q_b, kv_b, o
    divided = 2 * 1_174_405_120 + mla + 396_361_728 + 2_642_411_520  # embedding, head, dense, shared
    small = 61 * (1536 * 7168 + 576 * 7168 + 1536 + 512)  # q_a, kv_a and their norms
    whole = small + 881_664 + 165_150_720  # layer norms, router
    expected = experts + 2 * divided // 8 + 2 * whole + 4 * 23_040  # correction biases in fp32
    assert held("k25", tp=8, language_only=True) == expected


@pytest.mark.parametrize("log", ["k26-tp8-weights", "k26-dep8-weights"])
def test_logged_weights_agree_within_0_4_percent(log: str) -> None:
    # the log counts workspaces and rotary tables too: 0.16 to 0.21 GiB that no checkpoint holds
    entry = LOGS[log]
    where = {key: entry[key] for key in ("tp", "dp", "ep") if key in entry}
    ours = held(entry["spec"], language_only=entry["language_only"], **where) / GIB
    assert 0.996 * entry["value"] < ours < entry["value"]


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


@pytest.mark.parametrize("field", ["tp", "dp", "ep", "dcp"])
@pytest.mark.parametrize("size", [0, -8])
def test_sizes_below_one_are_refused(field: str, size: Any) -> None:
    with pytest.raises(InputError, match=f"{field} must be at least 1, not {size}"):
        Deployment(**{field: size})
    with pytest.raises(InputError, match=f"{field} must be at least 1, not {size}"):
        Spread(**{field: size})


def test_heads_must_divide_over_tp() -> None:
    with pytest.raises(InputError, match="num_attention_heads 64 can't be divided over tp 7"):
        served("k25", tp=7)


def test_more_context_parallelism_than_tp_is_refused() -> None:
    with pytest.raises(InputError, match="dcp 16 does not divide tp 8"):
        Deployment(tp=8, dcp=16)


def test_ep_must_divide_the_devices() -> None:
    with pytest.raises(InputError, match="ep 3 does not divide the 8 devices of tp 4 x dp 2"):
        Deployment(tp=4, dp=2, ep=3)


def test_experts_must_divide_over_ep() -> None:
    with pytest.raises(InputError, match="n_routed_experts 256 can't be divided over ep 6"):
        weights("deepseek-v3", dp=6, ep=6)


def test_expert_width_that_cant_be_divided_says_to_keep_experts_whole() -> None:
    with pytest.raises(InputError, match="moe_intermediate_size 2048 can't be divided over tp x dp 3") as caught:
        weights("k25", dp=3)
    assert caught.value.hint == "keep experts whole with --ep all"


def test_ep_needs_experts() -> None:
    with pytest.raises(InputError, match="ep needs routed experts"):
        weights("llama-3.1-70b", tp=8, ep=8)


# ------------------------------------------------------------------------------------------ memory terms


def test_terms_are_the_profiles_constants() -> None:
    terms = {term.kind: term.nbytes for term in served("k25", tp=8).overhead}
    assert terms == {
        "activation": 213_742 * 8192,
        "cuda_graphs": 1_556_925_644,  # 1.45 GiB
        "non_torch": 7_687_991_459,  # 7.16 GiB
    }


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        ("h100", 8192),  # 79.2 GiB: large
        ("a100", 2048),  # 79.3 GiB, but vLLM excepts it by name
    ],
)
def test_tokens_of_a_step_depend_on_the_gpu(name: str, tokens: int) -> None:
    assert served("k25", name, tp=8).overhead[0].nbytes == 213_742 * tokens


def test_a_gpu_of_less_than_70_gib_is_small() -> None:
    small = gpu("h100").model_copy(update={"memory_visible_bytes": 70 * GIB - 1})
    exact = gpu("h100").model_copy(update={"memory_visible_bytes": 70 * GIB})
    assert [vllm().activation.batched_tokens(h) for h in (small, exact)] == [2048, 8192]
    assert [vllm().activation.sequences(h) for h in (small, exact)] == [256, 1024]


def test_one_device_communicates_with_nobody() -> None:
    assert served("llama-3.1-70b", "mi300x").overhead[2].nbytes == 75_161_927  # 0.07 GiB
    assert served("llama-3.1-70b", "mi300x", tp=2).overhead[2].nbytes == 7_687_991_459


def test_the_cache_gets_what_weights_and_overhead_leave_of_the_usable_memory() -> None:
    found = served("k25", tp=8)
    usable = 150_121_545_728 * 92 // 100
    assert found.usable == usable
    assert found.kv_budget == usable - found.weights_bytes - 213_742 * 8192 - 1_556_925_644 - 7_687_991_459


def test_no_room_is_zero_and_not_negative() -> None:
    found = served("k25", "h100", tp=8)
    assert (found.kv_budget, found.max_tokens, found.max_batch, found.fits) == (0, 0, 0, False)


def test_a_given_overhead_replaces_all_three_terms() -> None:
    found = served("k25", load=Load(context=CONTEXT, overhead=5 * GIB), tp=8)
    assert [(term.kind, term.nbytes) for term in found.overhead] == [("given", 5 * GIB)]


def test_graphs_on_top_of_the_utilization_cost_the_cache_nothing() -> None:
    outside = vllm().model_copy(update={"cuda_graphs_inside_utilization": False})
    inside, on_top = served("k25", tp=8), served("k25", engine=outside, tp=8)
    assert on_top.kv_budget - inside.kv_budget == 1_556_925_644
    full = served("k25", engine=outside, load=Load(context=1, utilization=1.0), tp=8)
    assert full.usable == full.visible


# --------------------------------------------------------------------------------------------------- logs


def test_k2_thinkings_cache_comes_within_two_percent_of_the_log() -> None:
    # 46.80 GiB, vLLM before v0.21: utilization 0.9, graphs on top. Ours is 46.09: the non-torch term is
    # another machine's.
    before = vllm().model_copy(update={"cuda_graphs_inside_utilization": False})
    found = served("kimi-k2-thinking", engine=before, load=Load(context=1, utilization=0.9), tp=8)
    assert found.kv_budget / GIB == pytest.approx(LOGS["k2-thinking-kv"]["value"], rel=0.02)


def test_k26s_cache_comes_within_its_unlisted_weights_given_the_logs_overhead() -> None:
    # 9.84 GiB beside 2.76 + 0.13 GiB of overhead; the log's weights are 0.21 GiB more than the tensors
    overhead = int((LOGS["k26-tp8-overhead"]["value"] + 0.13) * GIB)
    load = Load(context=1, utilization=0.6, overhead=overhead, language_only=True)
    assert 0 < served("k25", load=load, tp=8).kv_budget / GIB - 9.84 < 0.23


# ------------------------------------------------------------------------------------ what can be served


@settings(max_examples=30, deadline=None)
@given(
    name=st.sampled_from(["k25", "llama-3.1-70b"]),
    tp=st.sampled_from([4, 8]),
    dp=st.sampled_from([1, 2]),
    utilization=st.floats(0.5, 1),
)
def test_the_longest_context_and_the_largest_batch_fit_and_no_more_do(
    name: str, tp: int, dp: int, utilization: float
) -> None:
    found = served(name, "mi300x", load=Load(context=10_000, utilization=utilization), tp=tp, dp=dp)

    def fits(**load: Any) -> bool:
        how = Load(utilization=utilization, **load)
        return served(name, "mi300x", load=how, tp=tp, dp=dp).fits

    if found.max_context:
        assert fits(context=found.max_context)
        assert not fits(context=found.max_context + 1)
    if found.max_batch:
        assert fits(context=10_000, batch=found.max_batch)
    assert found.max_batch is not None
    assert not fits(context=10_000, batch=found.max_batch + 1)


def test_exactly_full_fits_and_one_byte_more_does_not() -> None:
    found = served("k25", load=Load(context=CONTEXT, overhead=0), tp=8)
    assert served("k25", load=Load(context=CONTEXT, overhead=found.free), tp=8).free == 0
    assert served("k25", load=Load(context=CONTEXT, overhead=found.free), tp=8).fits
    assert not served("k25", load=Load(context=CONTEXT, overhead=found.free + 1), tp=8).fits


def test_decode_context_parallelism_serves_eight_times_the_tokens() -> None:
    one, eight = served("k25", tp=8), served("k25", tp=8, dcp=8)
    assert one.max_tokens
    assert eight.max_tokens == 8 * one.max_tokens
    assert eight.kv_bytes == one.kv_bytes // 8  # 131,072 tokens divide into pages


def test_data_parallel_groups_hold_different_sequences_and_none_a_longer_one() -> None:
    found = served("k25", dp=8, ep=8)
    assert found.max_context
    assert found.max_tokens == 8 * found.max_context


def test_pages_are_64_tokens_with_latent_attention_and_16_without() -> None:
    assert [served(name, tp=8).block_size for name in ("k25", "llama-3.1-70b")] == [64, 16]
    assert served("k25", load=Load(context=CONTEXT, block_size=128), tp=8).block_size == 128


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("context", 0),
        ("context", -1),
        ("batch", 0),
        ("batched_tokens", 0),
        ("block_size", -16),
        ("utilization", 0.0),
        ("utilization", -0.5),
        ("utilization", 1.01),
        ("overhead", -1),
    ],
)
def test_impossible_loads_are_refused(field: str, value: Any) -> None:
    with pytest.raises(InputError, match=field.replace("_", " ")):
        replace(Load(context=1), **{field: value})


# -------------------------------------------------------------------------------------- counts left open


@pytest.mark.parametrize(
    ("on", "count"),
    [
        ("h100", 16),  # an eighth of 554 GiB leaves 79.2 x 0.92 GiB no room for overhead
        ("h200", 8),
        ("mi300x", 4),  # 140 of 176.6 GiB
    ],
)
def test_the_fewest_gpus_are_the_first_power_of_two_that_fits(on: str, count: int) -> None:
    tries = tried(lambda tp: served("k25", on, tp=tp), Spread().sizes())
    assert [s.where.tp for s in tries.found if s.fits] == [count]
    assert [s.where.tp for s in tries.found] == [1 << n for n in range(count.bit_length())]


def test_sizes_that_cant_be_divided_are_passed_over_and_say_why() -> None:
    tries = tried(lambda tp: served("k25", "h100", load=Load(context=10**9), tp=tp), Spread().sizes())
    assert not any(s.fits for s in tries.found)
    assert list(tries.refused) == [32, 64]  # 16 heads of the tower


def test_where_nothing_can_be_divided_the_first_reason_is_told() -> None:
    with pytest.raises(InputError, match="unknown cache dtype fp7"):
        tried(lambda tp: served("k25", load=Load(context=1, kv_dtype="fp7"), tp=tp), Spread().sizes())


@pytest.mark.parametrize(
    ("spread", "sizes"),
    [
        (Spread(gpus=8), [8]),
        (Spread(gpus=8, dp=4), [2]),
        (Spread(gpus=8, tp=8), [8]),
        (Spread(tp=4, dp=2), [4]),
        (Spread(), [1, 2, 4, 8, 16, 32, 64]),
    ],
)
def test_what_is_left_open_follows_from_the_rest(spread: Spread, sizes: list[int]) -> None:
    assert spread.sizes() == sizes


@pytest.mark.parametrize("spread", [Spread(gpus=8, tp=4), Spread(gpus=8, dp=3), Spread(gpus=2, dp=4)])
def test_counts_that_disagree_are_refused(spread: Spread) -> None:
    with pytest.raises(InputError, match=f"does not make {spread.gpus} GPUs"):
        spread.sizes()


def test_ep_left_open_is_all_devices() -> None:
    assert Spread(dp=4, ep=None).at(2).ep == 8


# ---------------------------------------------------------------------------------------- engine profile


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


def test_logged_terms_add_up_as_they_do_here() -> None:
    # utilization x total = weights + activation + non-torch + cache, graphs on top (r1: vLLM of 2025-03)
    terms = [LOGS[f"r1-{term}"]["value"] for term in ("weights", "activation", "non-torch", "kv")]
    assert sum(terms) == pytest.approx(0.85 * 139.81, abs=0.03)


def test_an_unknown_engine_gets_a_near_miss() -> None:
    with pytest.raises(InputError, match="no bundled engine is named") as caught:
        load_engine("vlm")
    assert caught.value.hint == "did you mean vllm?"
