"""Engine profiles: captured graphs, classes of devices, bytes a logit, and what no profile may say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archcalc.errors import InputError, RetiredKey, SpecError
from archcalc.files.loader import bundled_dir
from archcalc.serving.engine import Bounds, CudaGraphs, load_engine
from tests.serving.deployed import GIB, engine, gpu

ENGINES = sorted(path.stem for path in (bundled_dir() / "engines").glob("*.yaml"))


def graphs(**changes: Any) -> CudaGraphs:
    """Graphs of 1,000 to 2,000 bytes, and 10 to 20 for each size and layer."""
    given = {"inside_utilization": True, "fixed_bytes": [1000, 2000], "bytes_per_layer": [10, 20], "largest": 512}
    return CudaGraphs.model_validate({**given, "twice": False, "none_of_dense": False, **changes})


# ---------------------------------------------------------------------------------------------------- graphs


@pytest.mark.parametrize(
    ("sequences", "once", "twice"),
    [
        # 1, 2, 4; 8, 16, .. 256: 32 of them; 272, 288, .. 512: 16
        (1024, 51, 102),
        # all sizes to 512 hold two of 256; of them 3 + 32 hold 256 and are captured again
        (256, 51, 51 + 35),
        # to 266, so not 272; once more 1, 2, 4 and 8, 16, .. 128
        (133, 35, 35 + 19),
        # 1, 2, 4, 8, 16, 24, 32; once more 1, 2, 4, 8, 16
        (16, 7, 7 + 5),
        (1, 2, 2 + 1),  # 1 and 2; 1
    ],
)
def test_so_many_sizes_are_captured(sequences: int, once: int, twice: int) -> None:
    assert graphs().captured(sequences) == once
    assert graphs(twice=True).captured(sequences) == twice


def test_no_size_above_the_largest_is_captured() -> None:
    assert graphs(largest=256).captured(1024) == 35  # 1, 2, 4 and 32 more


def test_captured_sizes_are_counted_and_not_listed() -> None:
    # 3 to 4; 32 from 8 to 256; one for each 16 above, of 2^60: a list of these would fill any memory
    assert graphs(largest=1 << 60).captured(1 << 60) == 3 + 32 + ((1 << 60) - 256) // 16


def test_graphs_take_a_part_for_each_size_and_layer() -> None:
    # two sizes of 80 layers: 160 times 10 or 20 bytes
    for dense in (False, True):
        assert graphs().bounds(1, 80, dense=dense) == Bounds(1000 + 1600, 2000 + 3200)


def test_where_some_versions_count_none_of_a_dense_model_the_least_is_nothing() -> None:
    found = graphs(none_of_dense=True)
    assert found.bounds(1, 80, dense=True) == Bounds(0, 2000 + 3200)
    assert found.bounds(1, 80, dense=False) == Bounds(1000 + 1600, 2000 + 3200)
    # vLLM issue 49224: model runner V2 estimates nothing
    assert [name for name in ENGINES if engine(name).cuda_graphs.none_of_dense] == ["vllm"]


@given(few=st.integers(1, 2000), more=st.integers(0, 2000))
def test_more_sequences_never_capture_fewer_sizes(few: int, more: int) -> None:
    how = graphs(twice=True)
    assert how.captured(few) <= how.captured(few + more)


# --------------------------------------------------------------------------------------------------- devices


@pytest.mark.parametrize("by", ["vllm", "vllm-0.8"])
@pytest.mark.parametrize(
    ("on", "tokens", "sequences"),
    [
        # vLLM, get_batch_defaults: 70 GiB and more, and no "a100" in the name
        ("h100", 8192, 1024),
        ("mi300x", 8192, 1024),
        ("b200", 8192, 1024),
        ("a100", 2048, 256),
        ("a100-40gb", 2048, 256),
        ("l4", 2048, 256),
        ("rtx3090", 2048, 256),
        ("rtx4090", 2048, 256),
    ],
)
def test_the_steps_of_vllm_depend_on_memory_and_name(by: str, on: str, tokens: int, sequences: int) -> None:
    chosen = engine(by).device(gpu(on))
    assert (chosen.max_num_batched_tokens, chosen.max_num_seqs) == (tokens, sequences)


@pytest.mark.parametrize(
    ("on", "tokens", "sequences"),
    # SGLang, _handle_gpu_memory_settings: chunked prefill by memory
    [("b200", 16384, 512), ("h200", 8192, 512), ("h100", 8192, 512), ("l40s", 4096, 160), ("l4", 2048, 80)],
)
def test_the_steps_of_sglang_depend_on_memory(on: str, tokens: int, sequences: int) -> None:
    chosen = engine("sglang").device(gpu(on))
    assert (chosen.max_num_batched_tokens, chosen.max_num_seqs) == (tokens, sequences)


def test_v0_runs_the_same_steps_on_every_device() -> None:
    assert {engine("vllm-v0").device(gpu(on)).max_num_batched_tokens for on in ("h100", "l4", "b200")} == {2048}


def test_a_device_of_less_than_70_gib_is_small() -> None:
    sizes = (70 * GIB - 1, 70 * GIB)
    found = [
        engine().device(gpu("h100").model_copy(update={"memory_visible_bytes": size})).max_num_seqs for size in sizes
    ]
    assert found == [256, 1024]


# --------------------------------------------------------------------------------------------------- sampler


@pytest.mark.parametrize(
    ("sequences", "nbytes"),
    [
        # logits 2, in fp32 4; sort: values 4, indices 8, their doubles 8 and cub's 12
        (128, 2 + 4 + 32),
        (127, 2 + 4 + 44),  # 44 where rows are sorted one by one
    ],
)
@pytest.mark.parametrize("by", ENGINES)
def test_torch_sorts_few_rows_at_a_greater_price(by: str, sequences: int, nbytes: int) -> None:
    assert engine(by).activation.sampler.per_logit("torch", sequences).low == nbytes


@pytest.mark.parametrize("sequences", [1, 127, 128, 1024])
def test_kernels_that_do_not_sort_take_the_same_for_every_row(sequences: int) -> None:
    # logits 2, fp32 4; at the most masked 4 and probabilities 4 more
    assert engine().activation.sampler.per_logit("flashinfer", sequences) == (6, 14)
    # model runner V1 alone: 2 + 4 + 4 + 4, and 14.8 to 15.6 in logs of v0.19
    assert engine("vllm-0.8").activation.sampler.per_logit("flashinfer", sequences) == (14, 16)


def test_the_middle_of_a_range_is_between_its_ends() -> None:
    found = Bounds(1, 4)
    assert [found.at(end) for end in ("low", "middle", "high")] == [1, 2, 4]
    assert found + Bounds(10, 20) == Bounds(11, 24)


# -------------------------------------------------------------------------------------------- what is refused


def refused(folder: Path, old: str, new: str, name: str = "vllm") -> SpecError:
    """The error of a bundled profile with one piece of its text changed."""
    text = (bundled_dir() / "engines" / f"{name}.yaml").read_text()
    assert text.count(old) == 1
    path = folder / "engine.yaml"
    path.write_text(text.replace(old, new))
    with pytest.raises(SpecError) as caught:
        load_engine(str(path))
    return caught.value


def place(old: str, part: str, name: str = "vllm") -> str:
    """LINE:COLUMN of a part of a piece of a bundled profile."""
    text = (bundled_dir() / "engines" / f"{name}.yaml").read_text()
    at = text.index(old) + old.index(part)
    return f"{text.count(chr(10), 0, at) + 1}:{at - text.rfind(chr(10), 0, at)}"


@pytest.mark.parametrize(
    ("old", "backwards", "says"),
    [
        ("one_device: [0.07GiB, 0.46GiB]", "one_device: [0.46GiB, 0.07GiB]", "493,921,239 is more than 75,161,927"),
        ("bytes: [1.4GiB, 1.61GiB]", "bytes: [1.61GiB, 1.4GiB]", "1,728,724,336 is more than 1,503,238,553"),
        ("bytes_per_layer: [120kB, 250kB]", "bytes_per_layer: [250kB, 120kB]", "250,000 is more than 120,000"),
        ("flashinfer: [6, 14]", "flashinfer: [14, 6]", "14 is more than 6"),
        ("torch_few: [50, 51]", "torch_few: [51, 50]", "51 is more than 50"),
    ],
)
def test_a_range_that_runs_backwards_is_an_error_where_it_stands(
    tmp_path: Path, old: str, backwards: str, says: str
) -> None:
    error = str(refused(tmp_path, old, backwards))
    assert f"the range runs backwards: {says}" in error
    assert f"engine.yaml:{place(old, old)}: " in error


def test_a_profile_has_a_class_for_every_device(tmp_path: Path) -> None:
    last = "  - {max_num_batched_tokens: 2048, max_num_seqs: 256}\n"
    error = str(refused(tmp_path, last, ""))
    assert "the last class of devices must hold for all that are left" in error
    only = "  - {memory_from: 70GiB, never: [a100], max_num_batched_tokens: 8192, max_num_seqs: 1024}"
    assert f"engine.yaml:{place(only, '{')}: " in error
    named = last.replace("{", "{never: [l4], ")
    assert f"engine.yaml:{place(last, '{')}: the last class" in str(refused(tmp_path, last, named))


@pytest.mark.parametrize("kind", ["unquantized", "float8", "packed"])
def test_experts_of_every_kind_have_a_kernel(tmp_path: Path, kind: str) -> None:
    line = f"{kind}: [fused_experts]"
    error = str(refused(tmp_path, line, f"{kind}: []", "sglang"))
    assert f"engine.yaml:{place(line, kind, 'sglang')}: {kind} must have at least 1 item" in error


def test_a_share_is_either_given_or_what_a_reserve_leaves(tmp_path: Path) -> None:
    line = "utilization: 0.92"
    error = str(refused(tmp_path, line, "# utilization: 0.92"))
    assert "an engine has either a utilization or a reserve" in error
    both = refused(tmp_path, "reserve:  # defaults", "utilization: 0.9\nreserve:  # defaults", "sglang")
    assert "an engine has either a utilization or a reserve" in str(both)


@pytest.mark.parametrize(
    ("under", "keys"),
    [
        ("kind: engine\n", ["measured", "cuda_graph_bytes", "non_torch_bytes_one_device"]),
        ("activation:\n", ["bytes_per_token", "large_memory_bytes", "max_num_seqs_small"]),
        ("tensor_parallel:\n", ["replicated", "divided", "projector"]),
    ],
)
def test_keys_of_older_profiles_are_not_read_and_said_so(tmp_path: Path, under: str, keys: list[str]) -> None:
    text = (bundled_dir() / "engines" / "vllm.yaml").read_text()
    indent = "" if under.startswith("kind") else "  "
    path = tmp_path / "engine.yaml"
    path.write_text(text.replace(under, under + "".join(f"{indent}{key}: 1\n" for key in keys)))
    with pytest.warns(RetiredKey) as told:
        found = load_engine(str(path))
    assert found == engine()
    assert [next(key for key in keys if f"`{key}`" in str(w.message)) for w in told] == keys


def test_an_unknown_engine_gets_a_near_miss() -> None:
    with pytest.raises(InputError, match="no bundled engine is named") as caught:
        load_engine("vlm")
    assert caught.value.hint == "did you mean vllm?"


@pytest.mark.parametrize("name", ENGINES)
def test_every_bundled_profile_says_what_it_assumes_and_names_its_sources(name: str) -> None:
    found = engine(name)
    assert found.name == name
    assert found.assumed
    assert found.sources
