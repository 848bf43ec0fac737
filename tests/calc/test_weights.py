"""Weight bytes: released checkpoints to the byte, what-ifs, and training checkpoints."""

from __future__ import annotations

from collections import Counter
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import pytest
import yaml

from archcalc.calc.params import count
from archcalc.calc.weights import StoredRow, stored_rows
from archcalc.documents.weights import weights
from archcalc.errors import InputError
from archcalc.files.loader import load_spec
from archcalc.files.model import Spec
from archcalc.files.storage import Fp8Block, PackQuantized, Plain, release, second_copies
from archcalc.tape import Dim, Weight
from archcalc.workload import Workload

PUBLISHED = Path(__file__).parents[1] / "published" / "checkpoints.yaml"
CHECKPOINTS: dict[str, dict[str, Any]] = {n["id"]: n for n in yaml.safe_load(PUBLISHED.read_text())["numbers"]}

# The releases of K2 Instruct and K2 Thinking hold one small buffer a layer (61) that the architecture does not
# need: 112 and 256 bytes each. They are not fitted, so archcalc gives that much less.
EXTRA_BUFFERS = {"k2-instruct": 61 * 112, "k2-thinking": 61 * 256}


@cache
def spec(name: str) -> Spec:
    return load_spec(name)


def rows(name: str) -> list[StoredRow]:
    tape, storage = spec(name).trace(Workload()), spec(name).storage
    return stored_rows(tape, release(storage), second_copies(storage, tape))


def quantities(name: str, **options: Any) -> dict[str, Any]:
    return dict(weights(spec(name), **options).quantities)


# --------------------------------------------------------------------------------------- released, exactly


@pytest.mark.parametrize(
    "checkpoint", [n for n in CHECKPOINTS.values() if n["quantity"] == "weights.bytes"], ids=lambda n: n["id"]
)
def test_a_released_checkpoint_comes_out_to_the_byte(checkpoint: dict[str, Any]) -> None:
    expected = checkpoint["value"] - EXTRA_BUFFERS.get(checkpoint["id"], 0)
    assert quantities(checkpoint["spec"])["weights.bytes"] == expected


def test_the_two_releases_with_extra_buffers_stay_within_their_stated_margins() -> None:
    instruct, thinking = (CHECKPOINTS[name]["value"] for name in ("k2-instruct", "k2-thinking"))
    assert 0 < 1 - quantities("kimi-k2")["weights.bytes"] / instruct < 7e-9
    assert 0 < 1 - quantities("kimi-k2-thinking")["weights.bytes"] / thinking < 2.7e-8


@pytest.mark.parametrize(
    ("name", "tensors"),
    [
        ("k25", 208_550),  # moonshotai/Kimi-K2.5, 64 shards
        ("kimi-k2-thinking", 208_276 - 61),  # 61 extra buffers
        ("kimi-k2", 139_644 - 61),
        ("deepseek-v3", 91_991),  # simpx/model-inspect, README
    ],
)
def test_the_number_of_stored_tensors_is_the_releases(name: str, tensors: int) -> None:
    assert sum(row.weight.copies * len(row.tensors) for row in rows(name)) == tensors


def test_k25_is_made_of_these_parts() -> None:
    # 1,014,686,023,680 routed weights: half a byte each, a bf16 scale for 32; 69,120 shapes of 8 B
    parts: Counter[str] = Counter()
    for row in rows("k25"):
        for t in row.tensors:
            kind = t.suffix if row.weight.role == "routed_expert" else f"{row.weight.part} {t.dtype}"
            parts[kind] += row.weight.copies * t.nbytes
    vision = parts.pop("vision bfloat16") + parts.pop("projector bfloat16")
    assert vision == 942_287_840  # 2 x (416,866,032 + 54,277,888)
    assert parts == {
        "weight_packed": 507_343_011_840,
        "weight_scale": 63_417_876_480,
        "weight_shape": 552_960,
        "backbone bfloat16": 23_444_371_456,
        "backbone float32": 92_160,  # 60 x 384 correction biases
    }


def test_deepseek_v3_has_the_elements_that_hugging_face_counts_by_dtype() -> None:
    # huggingface.co API, deepseek-ai/DeepSeek-V3, safetensors.parameters
    elements: Counter[str] = Counter()
    for row in rows("deepseek-v3"):
        for t in row.tensors:
            elements[t.dtype] += row.weight.copies * prod(t.shape)
    assert elements == {
        "bfloat16": 3_918_786_560,
        "float8_e4m3fn": 680_571_043_840,
        "float32": 41_555_600,
    }


def test_elements_are_weights_and_buffers_without_scales_shapes_or_packing() -> None:
    assert quantities("k25")["weights.elements"] == 1_026_879_376_368  # with 23,040 buffer elements
    # 684,531,386,000 in Hugging Face's count, less 41,555,600 in float32, plus 59 x 256 correction biases
    assert quantities("deepseek-v3")["weights.elements"] == 684_531_386_000 - 41_555_600 + 59 * 256


def test_bits_per_element_is_what_the_storage_takes() -> None:
    # 595,148,192,736 B x 8 / 1,026,879,376,368
    assert quantities("k25")["weights.bits_per_parameter"] == pytest.approx(4.63656, abs=1e-5)
    assert quantities("llama-3.1-70b")["weights.bits_per_parameter"] == 16


# ---------------------------------------------------------------------------------------------- by role


@pytest.mark.parametrize("name", ["k25", "kimi-k2", "deepseek-v3", "llama-3.1-70b"])
def test_paths_and_roles_add_up_to_the_total(name: str) -> None:
    report = weights(spec(name))
    by_role = next(table for table in report.tables if table.name == "by_role")
    total = report.quantities["weights.bytes"]
    assert report.rows is not None
    assert sum(row["bytes"] for row in report.rows.rows) == total
    assert sum(row["bytes"] for row in by_role.rows) == total
    assert sum(row["elements"] for row in by_role.rows) == report.quantities["weights.elements"]


def test_only_routed_experts_of_k25_are_packed() -> None:
    packed = {row.weight.role for row in rows("k25") if any(t.dtype == "int32" for t in row.tensors)}
    assert packed == {"routed_expert"}


def test_people_read_roles_before_paths_and_programs_find_paths_in_rows() -> None:
    report = weights(spec("k25"))
    assert [table.name for table in report.in_reading_order] == ["by_role", "rows"]


# ------------------------------------------------------------------------------ multi-token prediction


def test_deepseek_v3_stores_embedding_and_head_twice_and_has_their_parameters_once() -> None:
    tape, storage = spec("deepseek-v3").trace(Workload()), spec("deepseek-v3").storage
    copies = second_copies(storage, tape)
    assert [w.path.format(i=w.indices[0]) for w in copies] == [
        "model.layers.61.embed_tokens",
        "model.layers.61.shared_head.head",
    ]
    # 129,280 x 7168 each, in bf16
    again = [r for r in rows("deepseek-v3") if r.weight.part == "mtp" and r.weight.role in ("embedding", "head")]
    assert [row.nbytes for row in again] == [2 * 926_679_040] * 2
    assert count(tape).total == 671_026_404_352
    assert any("again" in note for note in weights(spec("deepseek-v3")).notes)


def test_a_what_if_stores_no_second_copies() -> None:
    # 682,636,472,320 trained with the multi-token-prediction layer, 15,104 buffer elements in fp32
    counts = count(spec("deepseek-v3").trace(Workload()))
    expected = 2 * (counts.total + counts.mtp) + 4 * 59 * 256
    assert quantities("deepseek-v3", as_="bf16")["weights.bytes"] == expected


# -------------------------------------------------------------------------------------------- what if


def test_as_bf16_is_two_bytes_a_parameter_and_four_a_buffer_element() -> None:
    # 2 x 1,026,879,353,328 + 4 x 23,040
    assert quantities("k25", as_="bf16")["weights.bytes"] == 2_053_758_798_816


def test_as_fp8_gives_k2_instruct_its_release() -> None:
    released = quantities("kimi-k2")["weights.bytes"]
    assert quantities("kimi-k2-thinking", as_="fp8")["weights.bytes"] == released


def test_another_specs_storage_can_be_tried() -> None:
    assert quantities("kimi-k2-thinking", as_="kimi-k2")["weights.bytes"] == quantities("kimi-k2")["weights.bytes"]


def test_an_unknown_storage_gets_a_near_miss() -> None:
    with pytest.raises(InputError, match="unknown storage bf61") as caught:
        quantities("k25", as_="bf61")
    assert caught.value.hint == "did you mean bf16?"


# ------------------------------------------------------------------------------------------- schemes


def matrix(rows: int, columns: int) -> Weight:
    return Weight(
        "a",
        "weight",
        (Dim("rows", rows),),
        (Dim("columns", columns),),
        role="attention",
        part="backbone",
        dtype="bfloat16",
    )


def test_fp8_blocks_at_the_edge_are_cut_short_and_keep_a_scale() -> None:
    scheme = Fp8Block(scheme="fp8-block", block_size=[128, 128], scale_dtype="float32")
    weight, scale = scheme.stored(matrix(576, 7168))  # kv_a_proj_with_mqa: 4.5 x 56 blocks
    assert (weight.dtype, weight.shape) == ("float8_e4m3fn", (576, 7168))
    assert (scale.suffix, scale.shape, scale.nbytes) == ("weight_scale_inv", (5, 56), 5 * 56 * 4)


def test_packed_weights_are_half_a_byte_with_a_scale_for_32_and_their_shape() -> None:
    scheme = PackQuantized(scheme="pack-quantized", num_bits=4, group_size=32, scale_dtype="bfloat16")
    packed, scale, shape = scheme.stored(matrix(2048, 7168))
    assert (packed.shape, packed.nbytes) == ((2048, 896), 2048 * 7168 // 2)  # 8 weights an int32
    assert (scale.shape, scale.nbytes) == ((2048, 224), 2048 * 224 * 2)
    assert (shape.suffix, shape.nbytes) == ("weight_shape", 8)


def test_inputs_that_do_not_divide_into_groups_are_refused() -> None:
    scheme = PackQuantized(scheme="pack-quantized", num_bits=4, group_size=32, scale_dtype="bfloat16")
    with pytest.raises(InputError, match="48 inputs, which don't divide into groups of 32"):
        scheme.stored(matrix(8, 48))


def test_vectors_of_a_quantized_role_stay_plain() -> None:
    norm = Weight("n", "weight", (Dim("rank", 512),), role="attention", part="backbone", dtype="bfloat16")
    block = Fp8Block(scheme="fp8-block", block_size=[128, 128], scale_dtype="float32")
    stored = release({"default": Plain(scheme="plain", dtype="bfloat16"), "attention": block})(norm)
    assert [(t.dtype, t.shape) for t in stored] == [("bfloat16", (512,))]


# ------------------------------------------------------------------------------- training checkpoints


def test_an_adamw_checkpoint_is_fourteen_bytes_a_parameter() -> None:
    # bf16 weight 2, fp32 master 4, two fp32 moments 8; correction biases 4
    found = quantities("k25", optimizer="adamw")["weights.training_checkpoint_bytes"]
    assert found == 14 * 1_026_879_353_328 + 4 * 23_040


def test_muon_keeps_one_moment_for_matrices_and_two_for_the_rest() -> None:
    # Llama 3.1 70B: embedding and head 2 x 128,256 x 8192; 161 norms of 8192; 70,553,706,496 in all
    rest = 2 * 128_256 * 8192 + 161 * 8192
    found = quantities("llama-3.1-70b", optimizer="muon")["weights.training_checkpoint_bytes"]
    assert found == 10 * (70_553_706_496 - rest) + 14 * rest


def test_an_unknown_optimizer_gets_a_near_miss() -> None:
    with pytest.raises(InputError, match="unknown optimizer adamwW") as caught:
        quantities("k25", optimizer="adamwW")
    assert caught.value.hint == "did you mean adamw?"


def test_a_quantized_default_is_refused_because_norms_are_stored_by_it(tmp_path: Path) -> None:
    # "k25.yaml" itself, its default replaced by the routed experts' scheme: a norm has no inputs to cut into groups.
    text = (Path(__file__).parents[2] / "specs" / "k25.yaml").read_text()
    quantized = "{scheme: fp8-block, block_size: [128, 128], scale_dtype: float32}"
    path = tmp_path / "q.yaml"
    path.write_text(text.replace("default: {scheme: plain, dtype: bfloat16}", f"default: {quantized}"))
    with pytest.raises(InputError, match=r"q\.yaml:\d+:\d+: storage's default must be plain"):
        load_spec(str(path))
