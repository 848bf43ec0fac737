"""Hardware files: every bundled one is valid and plausible, and a wrong name or key is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from archcalc.errors import InputError, SpecError
from archcalc.files.loader import bundled_dir, parse
from archcalc.hardware import Hardware, hardware_names, load_hardware

GB = 10**9
H100 = (bundled_dir() / "hardware" / "h100.yaml").read_text()


def with_line(old: str, new: str) -> Hardware:
    assert old in H100
    return parse(H100.replace(old, new), "gpu.yaml", Hardware)


def test_the_issues_gpus_are_bundled() -> None:
    assert set(hardware_names()) >= {"a100", "b200", "h100", "h200", "h800", "mi300x"}


@pytest.mark.parametrize("name", hardware_names())
def test_a_bundled_file_is_valid_and_named_after_itself(name: str) -> None:
    assert load_hardware(name).name == name


@pytest.mark.parametrize(
    ("name", "gigabytes", "tera_bf16", "gigabytes_per_s"),
    [
        # data sheets: memory [GB], dense bfloat16 [TFLOP/s], bandwidth [GB/s]
        ("a100", 80, 312, 2039),
        ("h100", 80, 989.4, 3350),
        ("h800", 80, 989.4, 3350),
        ("h200", 141, 989.4, 4800),
        ("b200", 180, 2250, 8000),
        ("mi300x", 192, 1307.4, 5300),
    ],
)
def test_figures_are_the_data_sheets(name: str, gigabytes: int, tera_bf16: float, gigabytes_per_s: int) -> None:
    gpu = load_hardware(name)
    assert gpu.memory_bytes == gigabytes * GB
    assert gpu.peak_flops["bfloat16"] == tera_bf16 * 1e12
    assert gpu.memory_bandwidth == gigabytes_per_s * GB


@pytest.mark.parametrize("name", hardware_names())
def test_programs_see_up_to_a_tenth_more_than_is_sold(name: str) -> None:
    # makers sell decimal gigabytes of what is built in binary ones: 80 x 2^30 is 7.4 % more than 80 x 10^9
    gpu = load_hardware(name)
    assert gpu.memory_bytes <= gpu.memory_visible_bytes <= gpu.memory_bytes * 1.1


@pytest.mark.parametrize("name", hardware_names())
def test_peaks_are_dense_so_eight_bits_are_twice_sixteen(name: str) -> None:
    # a figure with structured sparsity would be twice that
    peak = load_hardware(name).peak_flops
    assert peak["float16"] == peak["bfloat16"]
    for dtype in ("float8", "int8"):
        if dtype in peak:
            assert peak[dtype] == pytest.approx(2 * peak["bfloat16"], rel=1e-3)  # type: ignore[index]


def test_figures_without_a_source_are_listed() -> None:
    assert [line.split(":")[0] for line in load_hardware("h800").assumed] == ["memory_visible_bytes"]
    assert not load_hardware("h100").assumed


# ---------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(("slip", "hint"), [("H200", "h200"), ("h20", "h200"), ("mi-300x", "mi300x")])
def test_an_unknown_gpu_gets_a_near_miss(slip: str, hint: str) -> None:
    with pytest.raises(InputError, match=f'no bundled GPU is named "?{slip}') as caught:
        load_hardware(slip)
    assert caught.value.hint == f"did you mean {hint}?"
    assert caught.value.exit_code == 2


def test_a_name_like_no_other_gets_the_list() -> None:
    with pytest.raises(InputError) as caught:
        load_hardware("abacus")
    assert caught.value.hint is not None
    assert "h100" in caught.value.hint


def test_a_file_of_ones_own_can_be_used(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(H100.replace("name: h100", "name: mine"))
    assert load_hardware(str(path)).name == "mine"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("memory_bytes: 80000000000", "memory_bytes: 0", "memory_bytes must be greater than 0"),
        ("memory_bytes: 80000000000", "memory_bytes: -1", "memory_bytes must be greater than 0"),
        ("memory_bytes: 80000000000", "memory_bytes: 80GB", "memory_bytes must be an integer"),
        ("devices_per_node: 8", "devices_per_nodes: 8", "devices_per_nodes"),
        ("  float8: 1978900000000000", "  fp8: 1978900000000000", "fp8"),
        ("kind: hardware", "kind: plan", "kind"),
    ],
)
def test_a_wrong_line_is_an_error_with_its_place(old: str, new: str, message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        with_line(old, new)
    assert caught.value.source == "gpu.yaml"
    assert caught.value.line is not None
