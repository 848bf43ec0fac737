"""Hardware files: every bundled one is valid and plausible, and a wrong name or key is told."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest

from archcalc.errors import InputError, SpecError
from archcalc.files.loader import bundled_dir, parse
from archcalc.hardware import Hardware, hardware_names, load_hardware
from tests.support import ROOT, run

GB = 10**9
H100 = (bundled_dir() / "hardware" / "h100.yaml").read_text()


def with_line(old: str, new: str) -> Hardware:
    assert old in H100
    return parse(H100.replace(old, new), "gpu.yaml", Hardware)


def test_the_issues_gpus_are_bundled() -> None:
    assert set(hardware_names()) >= {"a100", "b200", "h100", "h200", "h800", "mi300x"}
    assert set(hardware_names()) >= {
        "h20",
        "h100-nvl",
        "h100-pcie",
        "gh200",
        "b300",
        "gb200",
        "gb300",
        "mi325x",
        "mi355x",
    }
    assert set(hardware_names()) >= {"a100-40gb", "l40s", "l4", "a10g", "rtx3090", "rtx4090", "rtx5090"}
    assert set(hardware_names()) >= {"rtx-a5000", "rtx-pro-6000"}


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
        ("mi325x", 256, 1307.4, 6000),
        ("mi355x", 288, 2516.6, 8000),
        ("a100-40gb", 40, 312, 1555),
        ("h100-nvl", 94, 835.5, 3900),  # one GPU of the pair
        ("l40s", 48, 362.05, 864),
        ("l4", 24, 121, 300),
        ("a10g", 24, 70, 600),
        ("rtx-a5000", 24, 111.1, 768),
        # stas00/ml-engineering's table, which is of the data sheets: dense bfloat16
        ("h100-pcie", 80, 756, 2000),
        ("gh200", 96, 989.4, 4000),
        ("gb200", 186, 2500, 8000),
        # MLCommons systems B300-SXM-270GB and GB300-288GB; 36 PFLOPS an HGX B300, 360 a GB300 NVL72, with sparsity
        ("b300", 270, 36_000 / 2 / 8, 8000),
        ("gb300", 288, 360_000 / 2 / 72, 8000),
        # white papers of the architectures, bfloat16 with float32 sums
        ("rtx3090", 24, 71, 936),
        ("rtx4090", 24, 165.2, 1008),
        ("rtx5090", 32, 209.5, 1792),
        ("rtx-pro-6000", 96, 503.8, 1792),
        # as servers' makers print it
        ("h20", 96, 148, 4000),
    ],
)
def test_figures_are_the_data_sheets(name: str, gigabytes: int, tera_bf16: float, gigabytes_per_s: int) -> None:
    gpu = load_hardware(name)
    assert gpu.memory_bytes == gigabytes * GB
    assert gpu.peak_flops["bfloat16"] == tera_bf16 * 1e12
    assert gpu.memory_bandwidth == gigabytes_per_s * GB


@pytest.mark.parametrize("name", hardware_names())
def test_programs_see_about_what_is_sold(name: str) -> None:
    # makers sell decimal gigabytes of what is built in binary ones: 80 x 2^30 is 7.4 % more than 80 x 10^9; on cards of
    # GDDR6 with error correction, which takes a sixteenth, programs see less than is sold
    gpu = load_hardware(name)
    corrected = name in ("a10g", "l4", "l40s")
    assert gpu.memory_bytes is not None
    assert gpu.memory_bytes * (0.95 if corrected else 1) <= gpu.memory_visible_bytes <= gpu.memory_bytes * 1.1


@pytest.mark.parametrize(
    ("name", "gib"),
    [
        # what torch or vLLM printed on that GPU; each file says where
        ("h20", 95.00),
        ("h100-nvl", 93.00),
        ("h100-pcie", 79.11),
        ("gh200", 94.50),
        ("b300", 267.69),
        ("gb200", 184.31),
        ("gb300", 276.50),
        ("mi325x", 255.98),
        ("mi355x", 287.98),
        ("a100-40gb", 39.50),
        ("l40s", 44.53),
        ("l4", 22.03),
        ("a10g", 22.06),
        ("rtx3090", 23.58),
        ("rtx4090", 23.55),
        ("rtx5090", 31.37),
        ("rtx-a5000", 23.57),
        ("rtx-pro-6000", 94.97),
    ],
)
def test_visible_memory_is_what_a_log_shows(name: str, gib: float) -> None:
    assert round(load_hardware(name).memory_visible_bytes / 2**30, 2) == gib


@pytest.mark.parametrize("name", hardware_names())
def test_peaks_are_dense_so_eight_bits_are_twice_sixteen(name: str) -> None:
    # a figure with structured sparsity would be twice that; L40S's data sheet has 362.05 beside 733
    peak = load_hardware(name).peak_flops
    assert peak["float16"] == peak["bfloat16"]
    if "float8" in peak:
        assert peak["float8"] == pytest.approx(2 * peak["bfloat16"], rel=0.03)
    if "int8" in peak:  # GeForce cards sum sixteen bits in float32 at half rate, and integers at the full one
        times = 4 if name in ("rtx3090", "rtx4090", "rtx5090") else 2
        assert peak["int8"] == pytest.approx(times * peak["bfloat16"], rel=0.03)


def test_only_gpus_that_a_switch_or_a_bridge_joins_have_nvlink() -> None:
    cards = {"a10g", "h100-pcie", "l4", "l40s", "rtx-a5000", "rtx-pro-6000", "rtx3090", "rtx4090", "rtx5090"}
    assert {name for name in hardware_names() if not load_hardware(name).nvlink} == cards | {"gh200"}


def test_no_bundled_file_has_a_price_or_a_host() -> None:
    assert not [n for n in hardware_names() if load_hardware(n).price_per_hour or load_hardware(n).host]


def test_a_gpu_is_recognised_by_words_as_engines_do_it() -> None:
    # vLLM: `"a100" not in device_name`
    assert load_hardware("a100-40gb").is_named(("a100",))
    assert load_hardware("gh200").is_named(("a100", "gh200"))
    assert not load_hardware("h100").is_named(("a100",))


def test_figures_without_a_source_are_listed() -> None:
    assert [line.split(":")[0] for line in load_hardware("h800").assumed] == ["memory_visible_bytes"]
    assert not load_hardware("h100").assumed


# ---------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("slip", "meant"),
    [
        ("nvidia-h100", "h100"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("h100 sxm", "h100"),
        ("hh100", "h100"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("h100pcie", "h100-pcie"),
        ("NVIDIA GB200 NVL72", "gb200"),
        ("mi-300x", "mi300x"),
        ("AMD Instinct MI355X", "mi355x"),
        ("rtx-4090", "rtx4090"),
        ("RTX 4090", "rtx4090"),
        ("rxt4090", "rtx4090"),
        ("4090", "rtx4090"),
        ("A5000", "rtx-a5000"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "rtx-pro-6000"),
    ],
)
def test_the_same_gpu_spelt_otherwise_is_proposed(slip: str, meant: str) -> None:
    with pytest.raises(InputError, match=f'no bundled GPU is named "?{slip}') as caught:
        load_hardware(slip)
    assert caught.value.hint == f"did you mean {meant}?"
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "other",
    [
        *("h250", "h200x", "h20-3e", "H200 NVL", "h800 pcie", "b100", "b30", "gb20", "GH200 144GB", "A100 PCIe"),
        *("a10", "a1000", "l40", "t4", "mi300a", "mi250x", "mi300", "v100", "rtx 6000", "RTX 6000 Ada", "rtx5000"),
        *("RTX 3090 Ti", "RTX 5090 D", "rtx 4090 laptop", "NVIDIA RTX PRO 6000 Blackwell Server Edition"),
        *("abacus", "nvidia", "rtx", "", "gpu"),
    ],
)
def test_another_gpu_is_never_proposed(other: str) -> None:
    # h20 is no slip of h200: it has a third less memory. The list and the smallest file say how to go on
    with pytest.raises(InputError) as caught:
        load_hardware(other)
    assert caught.value.hint is not None
    assert "did you mean" not in caught.value.hint
    assert "bundled: a100, a100-40gb, a10g" in caught.value.hint
    assert "kind: hardware, name: mycard, memory_visible_bytes: 94.97GiB" in caught.value.hint


@pytest.mark.parametrize("name", hardware_names())
def test_every_bundled_title_means_its_own_file(name: str) -> None:
    with pytest.raises(InputError) as caught:
        load_hardware(load_hardware(name).title)
    assert caught.value.hint == f"did you mean {name}?"


def test_a_file_of_ones_own_can_be_used(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(H100.replace("name: h100", "name: mine"))
    assert load_hardware(str(path)).name == "mine"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("memory_bytes: 80000000000", "memory_bytes: 0", "memory_bytes must be greater than 0"),
        ("memory_bytes: 80000000000", "memory_bytes: -1", "memory_bytes must be greater than 0"),
        ("memory_bytes: 80000000000", "memory_bytes: 80G", 'memory_bytes: "80G" is not a memory size'),
        ("memory_bytes: 80000000000", "memory_bytes: 0GB", "memory_bytes must be greater than 0"),
        ("memory_bytes: 80000000000", "memory_bytes: 80.5", "memory_bytes must be an integer"),
        ("memory_visible_bytes: 85029027840", "memory_visible_bytes: much", 'memory_visible_bytes: "much" is not'),
        ("memory_bandwidth: 3350000000000", "memory_bandwidth: 3.35TB", "memory_bandwidth must be an integer"),
        ("devices_per_node: 8", "price_per_hour: 0", "price_per_hour must be greater than 0"),
        ("devices_per_node: 8", "host: {memory_bytes: 1TiB}", "missing key `memory_bandwidth`"),
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


# ------------------------------------------------------------------------------------------- a file of one's own

LEAST = "kind: hardware\nname: mycard\n"


def test_memory_alone_makes_a_file() -> None:
    gpu = parse(LEAST + "memory_visible_bytes: 94.97GiB\n", "gpu.yaml", Hardware)
    assert gpu.memory_visible_bytes == 9497 * 2**30 // 100
    assert (gpu.title, gpu.memory_bytes, gpu.links, gpu.nvlink, gpu.peak_flops) == ("mycard", None, None, None, {})
    assert gpu.assumptions == ["devices_per_node: not given, taken as 8"]


def test_memory_as_sold_stands_in_for_what_is_visible_and_is_said() -> None:
    gpu = parse(LEAST + "memory_bytes: 96GB\ndevices_per_node: 2\n", "gpu.yaml", Hardware)
    assert gpu.memory_visible_bytes == gpu.memory_bytes == 96 * GB
    assert gpu.assumptions == ["memory_visible_bytes: not given, taken as memory_bytes"]


def test_a_file_without_memory_says_which_keys_to_add() -> None:
    with pytest.raises(SpecError, match="missing key `memory_visible_bytes` or `memory_bytes`") as caught:
        parse(LEAST, "gpu.yaml", Hardware)
    assert (caught.value.line, caught.value.column) == (2, 7)
    assert caught.value.hint is not None
    assert "memory_visible_bytes: 94.97GiB" in caught.value.hint


def test_what_a_price_and_a_host_are() -> None:
    more = "memory_bytes: 96GB\nprice_per_hour: 2\nhost: {memory_bytes: 1TiB, memory_bandwidth: 400000000000}\n"
    gpu = parse(LEAST + more, "gpu.yaml", Hardware)
    assert gpu.price_per_hour == 2
    assert gpu.host is not None
    assert gpu.host.memory_bytes == 2**40


@pytest.mark.parametrize("memory", ["96GB", "94.97GiB", "97251 MiB", "101971452395", "1_000 GB", 101971452395])
def test_the_schema_takes_the_sizes_that_the_loader_takes(memory: str | int) -> None:
    schema = jsonschema.Draft7Validator(json.loads((ROOT / "schema" / "hardware.schema.json").read_text()))
    content = {"kind": "hardware", "name": "mycard", "memory_bytes": memory}
    assert schema.is_valid(content)
    assert parse(json.dumps(content), "gpu.yaml", Hardware).memory_bytes


def test_the_schema_refuses_what_the_loader_refuses() -> None:
    schema = jsonschema.Draft7Validator(json.loads((ROOT / "schema" / "hardware.schema.json").read_text()))
    for memory in ({"memory_bytes": "80G"}, {"memory_bytes": "much"}, {"memory_bytes": 0}, {}):
        assert not schema.is_valid({"kind": "hardware", "name": "mycard"} | memory)


@pytest.mark.parametrize("command", ["serve llama-3.1-70b --gpu {} --gpus 4", "plot memory llama-3.1-70b --gpu {}"])
def test_a_memory_question_is_answered_from_memory_alone(command: str, tmp_path: Path) -> None:
    path = tmp_path / "mycard.yaml"
    path.write_text(LEAST + "memory_bytes: 96GB\n")
    ran = run(*command.format(path).split(), "--format", "json")
    assert ran.code == 0, ran.err
    if command.startswith("serve"):
        assert "mycard: memory_visible_bytes: not given, taken as memory_bytes" in ran.out
        assert "mycard: devices_per_node: not given, taken as 8" in ran.out


def test_training_under_a_plan_that_offloads_says_which_key_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "mycard.yaml"
    plan = ("train", "kimi-k2", "--plan", "k2-pretrain", "--set", f"hardware={path}")
    path.write_text(LEAST + "memory_bytes: 96GB\n")
    ran = run(*plan)
    assert (ran.code, "add peak_flops.bfloat16 to the hardware file" in ran.err) == (2, True)
    path.write_text(LEAST + "memory_bytes: 96GB\npeak_flops: {bfloat16: 989400000000000}\n")
    ran = run(*plan)
    assert (ran.code, "add links.pcie_bytes_per_s" in ran.err) == (2, True)


# ------------------------------------------------------------------------------------------------------- the page

PAGE = (ROOT / "docs" / "hardware.md").read_text()


def test_the_file_of_the_page_is_valid() -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    assert parse(example, "page", Hardware).memory_visible_bytes == 9497 * 2**30 // 100


def test_the_page_explains_every_key() -> None:
    assert set(Hardware.model_fields) - {"kind", "name"} == set(re.findall(r"^\| `(\w+)` \|", PAGE, re.M)) & set(
        Hardware.model_fields
    )


def page_row(gpu: Hardware) -> str:
    assert gpu.memory_bandwidth is not None
    visible, bandwidth = gpu.memory_visible_bytes / 2**30, gpu.memory_bandwidth // GB
    peak = gpu.peak_flops["bfloat16"] / 1e12
    return f"| `{gpu.name}` | {gpu.title} | {visible:.2f} GiB | {bandwidth:,} GB/s | {peak:,g} TFLOP/s |"


def test_the_page_lists_every_bundled_gpu() -> None:
    rows = [line for line in PAGE.splitlines() if re.match(r"\| `[\w-]+` \| (NVIDIA|AMD) ", line)]
    assert rows == [page_row(load_hardware(name)) for name in hardware_names()]
