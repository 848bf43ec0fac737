"""What a device holds beside checkpoint and cache, every term by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from archcalc.errors import InputError
from archcalc.files.model import Spec
from archcalc.hardware import Hardware
from archcalc.serving.deployment import Deployment
from archcalc.serving.engine import Bounds, Engine
from archcalc.serving.memory import Serving
from archcalc.serving.overhead import Kind, Load, Term, terms
from tests.serving.deployed import GIB, engine, gpu, held, llama_8b, model, served, spec, weights
from tests.support import data, spec_of, tiny

LOAD = Load(context=1024)


def term(found: Serving, kind: Kind) -> Bounds | None:
    """A term of the last stage; None where it has none."""
    return next((t.bounds for t in found.devices[-1].terms if t.kind == kind), None)


def exactly(nbytes: int) -> Bounds:
    return Bounds(nbytes, nbytes)


# -------------------------------------------------------------------------------- what MLA keeps a second time


def test_a_quantized_up_projection_is_kept_again_as_the_absorbed_products_use_it() -> None:
    # DeepSeek-V3's kv_b_proj is FP8: 61 layers of 128 / 8 heads x (128 + 128) x 512, in bf16
    expected = 61 * 16 * 256 * 512 * 2
    assert expected == 255_852_544
    for by in ("vllm", "vllm-0.8", "sglang"):
        assert term(served("deepseek-v3", by=by, load=LOAD, tp=8), "absorbed") == exactly(expected)


def test_a_bf16_up_projection_is_a_view_under_vllm_and_a_copy_under_sglang() -> None:
    # k25 quantizes routed experts alone: 61 x 64 / 8 heads x 256 x 512 x 2 B
    assert term(served("k25", by="vllm", load=LOAD, tp=8), "absorbed") is None
    assert term(served("k25", by="sglang", load=LOAD, tp=8), "absorbed") == exactly(61 * 8 * 256 * 512 * 2)
    never = engine().model_copy(update={"absorbed_copies": "never"})
    assert term(served("deepseek-v3", by=never, load=LOAD, tp=8), "absorbed") is None


def test_each_stage_keeps_the_copies_of_its_own_layers() -> None:
    found = served("deepseek-v3", load=LOAD, tp=8, pp=8)
    copies = [t.bounds.low for device in found.devices for t in device.terms if t.kind == "absorbed"]
    assert copies == [n * 16 * 256 * 512 * 2 for n in (7, 7, 8, 8, 8, 8, 8, 7)]


def test_other_attention_keeps_no_copies() -> None:
    assert term(served("llama-3.1-70b", by="sglang", load=LOAD, tp=8), "absorbed") is None


# --------------------------------------------------------------------------------------------- rotary tables


@pytest.mark.parametrize(
    ("name", "elements"),
    [
        ("k25", 262_144 * 64),  # the rotary key's 64 features: half of them cosines, half sines
        ("deepseek-v3", 163_840 * 64),
        ("llama-3.1-70b", 131_072 * 128),
    ],
)
def test_a_rotary_table_has_a_row_for_every_position_in_bf16_or_in_fp32(name: str, elements: int) -> None:
    assert term(served(name, load=LOAD, tp=8), "rotary") == Bounds(2 * elements, 4 * elements)


def test_rotary_tables_are_whole_on_every_device() -> None:
    found = served("llama-3.1-70b", load=LOAD, tp=2, pp=4)
    assert {t.bounds for device in found.devices for t in device.terms if t.kind == "rotary"} == {
        Bounds(2 * 131_072 * 128, 4 * 131_072 * 128)
    }


def test_a_model_that_does_not_rotate_has_no_table() -> None:
    assert term(served(spec_of(tiny(rope_theta=None)), load=LOAD), "rotary") is None


def test_a_table_is_as_wide_as_what_turns() -> None:
    content = tiny(max_position_embeddings=64)
    content["backbone"]["attention"]["gqa"] |= {"head_dim": 6, "rotary_dim": 4}
    assert term(served(spec_of(content), load=LOAD), "rotary") == Bounds(2 * 64 * 4, 4 * 64 * 4)


def test_latents_that_nothing_turns_have_no_table() -> None:
    content = data("deepseek-v3")
    content["backbone"] |= {"rope_theta": None, "rope_scaling": None}  # as in Kimi Linear
    assert term(served(spec_of(content), load=LOAD, tp=8), "rotary") is None


# ----------------------------------------------------------------------------------------------------- LoRA


def adapted() -> Spec:
    """Hidden 8; 4 heads of 3, 2 of them key-value heads; dense layer of 20, two layers with a shared expert of 6."""
    content = tiny()
    content["backbone"]["ffn"]["moe"]["moe_intermediate_size"] = 6
    return spec_of(content)


@pytest.mark.parametrize(
    ("tp", "attention", "dense", "shared"),
    [
        # q 8 + 12, k and v 8 + 6, o 12 + 8; gate, up and down 8 + 20; 8 + 6
        (1, 20 + 14 + 14 + 20, 3 * 28, 3 * 14),
        # a column-parallel linear divides B, its output; a row-parallel one A, its input
        (2, 14 + 11 + 11 + 14, 3 * 18, 3 * 11),
    ],
)
def test_an_adapter_has_buffers_for_every_linear_but_experts(tp: int, attention: int, dense: int, shared: int) -> None:
    expected = 16 * (3 * attention + dense + 2 * shared) * 2  # rank 16, three layers, bf16
    found = served(adapted(), load=Load(context=8, lora_rank=16), tp=tp)
    assert term(found, "lora") == exactly(expected)
    assert term(served(adapted(), load=Load(context=8), tp=tp), "lora") is None


def test_biases_have_no_adapters() -> None:
    content = adapted().model_dump(exclude_unset=True)
    content["backbone"]["attention"]["gqa"]["attention_bias"] = True
    load = Load(context=8, lora_rank=16)
    assert term(served(spec_of(content), load=load), "lora") == term(served(adapted(), load=load), "lora")


def test_a_stage_has_the_adapters_of_its_own_layers() -> None:
    found = served(adapted(), load=Load(context=8, lora_rank=1), pp=3)
    sizes = [t.bounds.low for device in found.devices for t in device.terms if t.kind == "lora"]
    assert sizes == [2 * (68 + 84), 2 * (68 + 42), 2 * (68 + 42)]


def test_llama_8bs_adapters_take_what_its_published_ones_do() -> None:
    # rank 16 of all linears of Llama 3.1 8B: 41,943,040 parameters (PEFT's print_trainable_parameters)
    # q and o 8192, k and v 4096 + 1024, three of 4096 + 14,336: 81,920 a layer of 32
    assert term(served(llama_8b(), load=Load(context=8, lora_rank=16)), "lora") == exactly(2 * 41_943_040)


# ------------------------------------------------------------------------------------ prediction modules, drafts


@pytest.mark.parametrize("tp", [1, 8])
def test_a_prediction_module_is_a_layer_like_the_last_with_a_projection_and_three_norms(tp: int) -> None:
    sample = [w for w in weights("deepseek-v3", tp=tp) if 60 in w.weight.indices]
    layer = sum(w.held // len(w.weight.indices) for w in sample)
    expected = layer + 2 * (7168 * 14_336 + 3 * 7168)  # eh_proj is whole on every device, in bf16
    found = served("deepseek-v3", load=Load(context=1024, mtp=True), tp=tp)
    assert term(found, "mtp") == exactly(expected)
    assert term(served("deepseek-v3", load=LOAD, tp=tp), "mtp") is None
    assert found.weights_bytes == served("deepseek-v3", load=LOAD, tp=tp).weights_bytes


def test_a_prediction_module_caches_as_one_layer_more() -> None:
    # 512 + 64 features in bf16
    found, without = (served("deepseek-v3", load=Load(context=1024, mtp=mtp), tp=8) for mtp in (True, False))
    assert (found.kv_bytes, without.kv_bytes) == (1024 * 62 * 1152, 1024 * 61 * 1152)


def test_only_the_last_stage_drafts() -> None:
    found = served("deepseek-v3", load=Load(context=1024, mtp=True), tp=8, pp=8)
    assert [any(t.kind == "mtp" for t in device.terms) for device in found.devices] == [False] * 7 + [True]
    assert [device.sequence_bytes for device in found.devices] == [n * 1024 * 1152 for n in (7, 7, 8, 8, 8, 8, 8, 8)]


def test_a_model_without_prediction_modules_cant_draft_with_them() -> None:
    with pytest.raises(InputError, match="no multi-token-prediction module") as caught:
        served("k25", load=Load(context=1, mtp=True), tp=8)
    assert caught.value.hint == "leave out --mtp"


@pytest.mark.parametrize(
    ("tp", "nbytes", "token"),
    [
        # 8,030,261,248 parameters; 32 layers of keys and values of 8 heads of 128
        (1, 2 * 8_030_261_248, 131_072),
        # all but 65 norms of 4096 divided, and one of 8 heads
        (8, 2 * ((8_030_261_248 - 65 * 4096) // 8 + 65 * 4096), 16_384),
    ],
)
def test_a_draft_adds_its_weights_and_caches_its_layers_beside_the_models(tp: int, nbytes: int, token: int) -> None:
    alone = served("llama-3.1-70b", "b300", load=LOAD, tp=tp)
    found = served("llama-3.1-70b", "b300", load=LOAD, draft=llama_8b(), tp=tp)
    assert term(found, "draft") == exactly(nbytes)
    assert found.kv_bytes - alone.kv_bytes == 1024 * token
    assert found.free == alone.free - nbytes - 1024 * token


def test_a_draft_is_on_the_last_stage_whole() -> None:
    found = served("llama-3.1-70b", load=LOAD, draft=llama_8b(), tp=8, pp=4)
    drafts = [[t.bounds.low for t in device.terms if t.kind == "draft"] for device in found.devices]
    assert drafts == [[], [], [], [held(llama_8b(), tp=8)]]
    # 20 layers of the model's 80 on each stage, and the draft's 32 beside the last: 2 x 128 x 2 B a layer and token
    assert [device.sequence_bytes for device in found.devices] == [1024 * 512 * n for n in (20, 20, 20, 52)]


def test_a_drafts_tower_is_not_loaded() -> None:
    # a draft proposes tokens of text: MoonViT's 416,866,032 parameters, divided or not, and its projector stay out
    tower = {"vision", "projector"}
    text = sum(w.held for w in weights("k25", tp=8) if w.weight.part not in tower)
    assert term(served("llama-3.1-70b", "b300", load=LOAD, draft=spec("k25"), tp=8), "draft") == exactly(text)


def test_a_drafts_heads_must_divide_too() -> None:
    with pytest.raises(InputError, match="num_attention_heads 32 can't be divided over tp 64"):
        served("llama-3.1-70b", load=LOAD, draft=llama_8b(), tp=64)


# ---------------------------------------------------------------------------------------------------- given


@pytest.mark.parametrize("way", ["mtp", "draft"])
def test_a_given_overhead_replaces_what_is_assumed_and_no_weights(way: Kind) -> None:
    load = Load(context=1024, overhead=5 * GIB, mtp=way == "mtp", lora_rank=8)
    of, draft = tiny(num_nextn_predict_layers=1), spec_of(tiny()) if way == "draft" else None
    found = served(spec_of(of), load=load, draft=draft)
    assert {t.kind for t in found.devices[0].terms} == {"given", way, "lora"}
    assert term(found, "given") == exactly(5 * GIB)
    without = served(spec_of(of), load=replace(load, overhead=None), draft=draft)
    kinds: tuple[Kind, ...] = (way, "lora")
    for kind in kinds:
        assert term(found, kind) is not None
        assert term(found, kind) == term(without, kind)


@pytest.mark.parametrize("by", ["vllm", "vllm-0.8", "vllm-v0", "sglang"])
def test_a_given_overhead_leaves_nothing_assumed(by: str) -> None:
    found = served("k25", by=by, load=Load(context=1024, overhead=0), tp=8)
    assert found.devices[0].terms == (Term("given", exactly(0)),)
    (device,) = found.devices
    assert [device.margin(end) for end in ("low", "middle", "high")] == 3 * [found.free]
    assert found.margins == Bounds(found.free, found.free)


def test_no_graphs_are_captured_in_eager_mode() -> None:
    assert term(served("k25", load=Load(context=8, eager=True), tp=8), "cuda_graphs") is None
    # 102 sizes of 61 layers: 0.05 GiB + 120 kB to 0.45 GiB + 250 kB each
    found = term(served("k25", load=Load(context=8), tp=8), "cuda_graphs")
    assert found == Bounds(53_687_091 + 102 * 61 * 120_000, 483_183_820 + 102 * 61 * 250_000)


def test_some_versions_count_no_graphs_of_a_model_without_experts() -> None:
    # 102 sizes of 80 layers, or none (vLLM issue 49224); vllm-0.8 captures them on top: 0.2 GiB + 120 kB at the least
    most = 483_183_820 + 102 * 80 * 250_000
    assert term(served("llama-3.1-70b", load=LOAD, tp=2), "cuda_graphs") == Bounds(0, most)
    found = term(served("llama-3.1-70b", by="vllm-0.8", load=LOAD, tp=2), "cuda_graphs")
    assert found == Bounds(214_748_364 + 102 * 80 * 120_000, most)


def test_a_stage_captures_its_own_layers() -> None:
    found = served("llama-3.1-70b", load=LOAD, tp=2, pp=4)
    graphs = [t.bounds for device in found.devices for t in device.terms if t.kind == "cuda_graphs"]
    assert graphs == 4 * [Bounds(0, 483_183_820 + 102 * 20 * 250_000)]


# ---------------------------------------------------------------------------------------- outside torch's memory


def linked(name: str = "h100", *, nvlink: bool = True) -> Hardware:
    """A GPU with links as fast as PCIe, or faster."""
    hardware = gpu(name)
    assert hardware.links is not None
    pcie = hardware.links.pcie_bytes_per_s
    links = hardware.links.model_copy(update={"nvlink_bytes_per_s": 7 * pcie if nvlink else pcie})
    return hardware.model_copy(update={"links": links})


def by_link() -> Engine:
    """A profile whose ranges name themselves: 1 alone, 2 over PCIe, 3 over NVLink, and 40 of the fused kernel."""
    profile = engine()
    non_torch = profile.non_torch_bytes
    assert non_torch.fused_all_reduce is not None
    fused = non_torch.fused_all_reduce.model_copy(update={"bytes": [40, 80]})
    sizes = {"one_device": [1, 1], "pcie": [2, 2], "nvlink": [3, 3], "fused_all_reduce": fused}
    return profile.model_copy(update={"non_torch_bytes": non_torch.model_copy(update=sizes)})


@pytest.mark.parametrize(
    ("hardware", "where", "load", "expected"),
    [
        (linked(), {}, LOAD, (1, 1)),
        (linked(), {"pp": 4}, LOAD, (1, 1)),  # stages hand on one tensor
        (linked(nvlink=False), {"tp": 2}, LOAD, (2, 2)),
        (linked(nvlink=False), {"dp": 2}, LOAD, (2, 2)),
        (linked(), {"tp": 2}, LOAD, (43, 83)),
        # vLLM fuses where there are neither groups nor stages, in compiled models, and not on every GPU
        (linked(), {"tp": 2, "dp": 2}, LOAD, (3, 3)),
        (linked(), {"dp": 2}, LOAD, (3, 3)),
        (linked(), {"tp": 2, "pp": 2}, LOAD, (3, 3)),
        (linked(), {"tp": 2}, Load(context=1024, eager=True), (3, 3)),
        (linked("a100"), {"tp": 2}, LOAD, (3, 3)),
        (linked("mi300x"), {"tp": 2}, LOAD, (3, 3)),
    ],
)
def test_memory_outside_torch_depends_on_how_devices_are_linked(
    hardware: Hardware, where: dict[str, Any], load: Load, expected: tuple[int, int]
) -> None:
    found = terms(model("llama-3.1-70b"), by_link(), hardware, Deployment(**where), load, range(80), 80)
    assert next(t.bounds for t in found if t.kind == "non_torch") == Bounds(*expected)


@pytest.mark.parametrize(
    ("by", "low", "high"),
    [
        # [GiB] 0.15 to 0.6, and the workspace, 1.61 at most: versions from 0.17 on have it, those before don't
        ("vllm-0.8", 161_061_273, 644_245_094 + 1_728_724_336),
        ("vllm", 161_061_273 + 1_503_238_553, 644_245_094 + 1_728_724_336),
    ],
)
def test_the_fused_kernels_workspace_is_in_every_later_vllm_and_in_some_earlier_ones(
    by: str, low: int, high: int
) -> None:
    assert term(served("llama-3.1-70b", "h100", by, LOAD, tp=2), "non_torch") == Bounds(low, high)


def test_a_profile_without_the_fused_kernel_adds_none() -> None:
    found = term(served("llama-3.1-70b", "h100", by="vllm-v0", load=LOAD, tp=2), "non_torch")
    assert found == Bounds(*engine("vllm-v0").non_torch_bytes.nvlink)


def test_sglang_counts_step_graphs_and_contexts_outside_its_share() -> None:
    found = served("k25", by="sglang", load=LOAD, tp=8).devices[0].terms
    assert [t.kind for t in found if t.outside] == ["activation", "cuda_graphs", "non_torch"]
    assert [t.kind for t in served("k25", by="vllm-0.8", load=LOAD, tp=8).devices[0].terms if t.outside] == [
        "cuda_graphs"
    ]
    assert not any(t.outside for t in served("k25", by="vllm", load=LOAD, tp=8).devices[0].terms)


# ------------------------------------------------------------------------------------------------- bad loads


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("context", 0),
        ("context", -1),
        ("batch", 0),
        ("batched_tokens", 0),
        ("max_num_seqs", 0),
        ("block_size", -16),
        ("utilization", 0.0),
        ("utilization", -0.5),
        ("utilization", 1.01),
        ("overhead", -1),
        ("lora_rank", -1),
        ("offloaded", -1),
    ],
)
def test_impossible_loads_are_refused(field: str, value: Any) -> None:
    given: dict[str, Any] = {"context": 1, field: value}
    with pytest.raises(InputError, match=field.replace("_", " ")):
        Load(**given)
