"""`archcalc serve`, and what `kv` and `weights` share with it: output, exit codes, bad input."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from archcalc.cli import main
from archcalc.documents.quantities import QUANTITIES
from archcalc.files.loader import bundled_dir
from archcalc.hardware import load_hardware
from archcalc.units import format_bytes

Capture = pytest.CaptureFixture[str]
K25_ON_H200 = ("serve", "k25", "--gpu", "h200", "--gpus", "8", "--tp", "8")


def report(capsys: Capture, *arguments: str) -> dict[str, Any]:
    """The JSON report of a command that answers."""
    assert main([*arguments, "--format", "json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def card(folder: Path, gibibytes: int, **more: Any) -> Path:
    """A hardware file that says little more than its memory."""
    path = folder / f"card{gibibytes}.yaml"
    lines = [f"{key}: {value}" for key, value in more.items()]
    path.write_text("\n".join(["kind: hardware", "name: card", f"memory_visible_bytes: {gibibytes}GiB", *lines, ""]))
    return path


def refused(capsys: Capture, *arguments: str) -> str:
    """What a command that can't answer says on stderr; stdout stays empty."""
    assert main(list(arguments)) == 2
    said = capsys.readouterr()
    assert said.out == ""
    return said.err


# ------------------------------------------------------------------------------------------------ answers


def test_all_promised_quantities_are_there_and_described(capsys: Capture) -> None:
    found = report(capsys, *K25_ON_H200, "--context", "128k")["quantities"]
    promised = {"weights_bytes", "kv_bytes", "overhead_bytes", "max_tokens", "max_context", "max_batch", "fits"}
    promised |= {"kv_budget_bytes", "margin_bytes", "kv_bytes_low", "kv_bytes_high"}
    assert {f"serve.{name}" for name in promised} <= set(found) <= set(QUANTITIES)


def test_language_only_weights_agree_with_the_engines_log(capsys: Capture) -> None:
    found = report(capsys, *K25_ON_H200, "--language-only")["quantities"]
    assert found["serve.weights_bytes"] == pytest.approx(71.16 * 2**30, rel=0.004)  # vLLM, K2.6: 71.16 GiB


def test_rows_without_indent_add_up_to_the_visible_memory(capsys: Capture) -> None:
    for gpu in ("h200", "h100"):  # it fits on one, not on the other
        rows = report(capsys, "serve", "k25", "--gpu", gpu, "--gpus", "8", "--context", "128k")["rows"]
        terms = {row["path"]: row["bytes"] for row in rows}
        visible = terms.pop("visible")
        assert sum(n for path, n in terms.items() if not path.startswith("weights.")) == visible
        roles = sum(n for path, n in terms.items() if path.startswith("weights."))
        assert roles == terms["weights"]


def test_what_fits_and_what_does_not(capsys: Capture) -> None:
    large = report(capsys, *K25_ON_H200, "--context", "128k")["quantities"]
    small = report(capsys, "serve", "k25", "--gpu", "h100", "--gpus", "8", "--context", "256k", "--batch", "8")
    assert (large["serve.fits"], small["quantities"]["serve.fits"]) == (True, False)
    assert any("short" in note for note in small["notes"])


def test_the_engines_constants_stand_under_assumptions(capsys: Capture) -> None:
    lines = report(capsys, *K25_ON_H200)["assumptions"]
    for part in ("steps of 8,192 tokens", "1,024 sequences", "CUDA graphs: ", "non-torch", "utilization 0.92"):
        assert any(part in line for line in lines), part
    assert any("non_torch_bytes.fused_all_reduce: logged on Hopper" in line for line in lines)


def test_a_given_overhead_rests_on_no_assumption_about_it(capsys: Capture) -> None:
    found = report(capsys, *K25_ON_H200, "--overhead", "8GiB")
    assert found["quantities"]["serve.overhead_bytes"] == 8 * 2**30
    assert not any("activation" in line or "CUDA" in line for line in found["assumptions"])


def test_a_context_beyond_the_limit_is_a_warning_that_names_it(capsys: Capture) -> None:
    notes = report(capsys, *K25_ON_H200, "--context", "512k")["notes"]
    assert any(note.startswith("warning") and "262,144" in note for note in notes)
    assert not any(note.startswith("warning") for note in report(capsys, *K25_ON_H200)["notes"])


def test_memory_beyond_the_models_limit_is_no_longer_context(capsys: Capture) -> None:
    found = report(capsys, *K25_ON_H200)
    assert found["quantities"]["serve.context_limit"] == 262_144
    assert found["quantities"]["serve.max_context"] > 262_144
    assert any("262,144" in note for note in found["notes"])


def test_the_draft_layer_is_said_to_be_left_out(capsys: Capture) -> None:
    notes = report(capsys, "serve", "deepseek-v3", "--gpu", "h200", "--gpus", "8")["notes"]
    assert any("multi-token-prediction module is not loaded" in note for note in notes)


def test_storage_can_be_asked_what_if(capsys: Capture) -> None:
    one = ("serve", "llama-3.1-70b", "--gpu", "mi300x", "--gpus", "1")
    released = report(capsys, *one)["quantities"]["serve.weights_bytes"]
    as_fp8 = report(capsys, *one, "--as", "fp8")["quantities"]["serve.weights_bytes"]
    assert released == 141_107_412_992
    assert 0.5 < as_fp8 / released < 0.53  # embedding, head and norms stay in bf16


# ------------------------------------------------------------------------------------------- auto and all


def test_auto_takes_the_fewest_gpus_that_fit_and_shows_the_others(capsys: Capture) -> None:
    found = report(capsys, "serve", "k25", "--gpu", "h100", "--gpus", "auto", "--context", "128k")
    assert found["quantities"]["serve.gpus"] == 16
    assert [(row["gpus"], row["fits"]) for row in found["tables"]["counts"]] == [
        (1, False),
        (2, False),
        (4, False),
        (8, False),
        (16, True),
    ]
    assert any("2 nodes of 8" in note for note in found["notes"])


def test_auto_is_the_default_and_tp_fixes_the_count(capsys: Capture) -> None:
    auto = report(capsys, "serve", "k25", "--gpu", "h200", "--context", "128k")["quantities"]
    fixed = report(capsys, "serve", "k25", "--gpu", "h200", "--context", "128k", "--tp", "16")["quantities"]
    assert (auto["serve.gpus"], fixed["serve.gpus"]) == (8, 16)


def test_auto_says_what_was_searched_and_why_layouts_were_left_out(capsys: Capture, tmp_path: Path) -> None:
    # 1.91 TiB of weights in bf16 on 128 cards of 16 GiB: 15.3 GiB each before anything is cached
    found = report(capsys, "serve", "k25", "--gpu", str(card(tmp_path, 16)), "--as", "bf16", "--gpus", "auto")
    assert found["quantities"]["serve.fits"] is False
    assert any(note.startswith("Searched: ") and "to 128 GPUs, the largest" in note for note in found["notes"])
    assert any("was left out" in note for note in found["notes"])


def test_all_gives_a_row_for_every_known_gpu(capsys: Capture) -> None:
    found = report(capsys, "serve", "k25", "--gpu", "all", "--context", "128k")
    counts = {row["path"]: row["gpus"] for row in found["rows"]}
    fewest = {row["path"]: row["gpus"] for row in found["rows"] if row["fits"]}
    # 554 GiB of weights and 8.6 GiB of cache on each GPU (whole on every tp rank): 69.3 + 8.6 on 8, 138.6 + 8.6 on 4
    sixteen = ("h100", "h100-pcie", "h800", "a100")  # 79 GiB
    eight = ("h100-nvl", "h20", "gh200", "rtx-pro-6000", "h200")  # 93 to 140 GiB; RTX PRO 6000: a public log says so
    four = ("b200", "b300", "gb200", "gb300", "mi300x", "mi325x", "mi355x")
    asked = {*sixteen, *eight, *four}
    assert {gpu: count for gpu, count in fewest.items() if gpu in asked} == (
        dict.fromkeys(sixteen, 16) | dict.fromkeys(eight, 8) | dict.fromkeys(four, 4)
    )
    assert all(count > 8 for gpu, count in fewest.items() if gpu not in asked)  # 48 GiB and less
    assert set(counts) == {path.stem for path in (bundled_dir() / "hardware").glob("*.yaml")}
    assert found["quantities"]["serve.fits"] is True


def test_all_with_a_count_says_where_it_fits(capsys: Capture) -> None:
    found = report(capsys, "serve", "k25", "--gpu", "all", "--gpus", "8", "--context", "128k")
    assert {row["path"] for row in found["rows"] if row["fits"]} == {
        *("h20", "gh200", "rtx-pro-6000", "h200"),  # as in the test above; h100-nvl is 0.3 GiB short without --dcp
        *("b200", "b300", "gb200", "gb300", "mi300x", "mi325x", "mi355x"),
    }


def test_expert_parallelism_over_all_gpus_has_a_word(capsys: Capture) -> None:
    eight = ("serve", "k25", "--gpu", "h200", "--gpus", "8", "--dp", "8", "--language-only")
    by_word = report(capsys, *eight, "--ep", "all")
    assert by_word["inputs"]["ep"] == 8
    assert by_word["quantities"] == report(capsys, *eight, "--ep", "8")["quantities"]


# --------------------------------------------------------------------------------------------- exit codes


def test_check_exits_0_where_it_fits_and_1_where_not(capsys: Capture) -> None:
    assert main([*K25_ON_H200, "--context", "128k", "--check"]) == 0
    assert main(["serve", "k25", "--gpu", "h100", "--gpus", "8", "--check"]) == 1
    said = capsys.readouterr()
    assert "does not fit on 8 x NVIDIA H100" in said.err
    assert "missing" in said.out  # the report is printed all the same
    assert main(["serve", "k25", "--gpu", "all", "--gpus", "1", "--check"]) == 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--gpu", "nosuch", "--gpus", "8"), "no bundled GPU is named"),
        (("--gpu", "H100-SXM", "--gpus", "8"), "did you mean h100?"),
        ((), "no GPU is named"),
        (("--gpu", "h200", "--tp", "7"), "num_attention_heads 64 can't be divided over tp 7"),
        (("--gpu", "h200", "--gpus", "8", "--tp", "7"), "tp 7 does not make 8 GPUs"),
        (("--gpu", "h200", "--gpus", "8", "--tp", "4", "--dp", "1", "--pp", "1"), "does not make 8 GPUs"),
        (("--gpu", "h200", "--gpus", "8", "--tp", "4", "--pp", "3"), "tp 4 x pp 3 does not make 8 GPUs"),
        (("--gpu", "h200", "--gpus", "62", "--tp", "1", "--pp", "62"), "pp 62 is more than the 61 layers"),
        (("--gpu", "h200", "--price", "h200=cheap"), "names no price"),
        (("--gpu", "h200", "--price", "h020=2"), "did you mean h200?"),
        (("--gpu", "h200", "--price", "H200=2", "--price", "h200=3"), "two prices are of one GPU"),
        (("--gpu", "all", "--price", "nosuch=2"), 'a price names no GPU: "nosuch"'),
        (("--gpu", "all", "--price", "h200=1", "--price", "h200=2"), '--price names "h200" twice'),
        (("--gpu", "all", "--price", "h200=0"), "is out of range"),
        (("--gpu", "all", "--price", "h200=0.0000000000000000000001"), "is out of range"),
        (("--gpu", "all", "--price", f"h200={'9' * 30}"), "is out of range"),
        (("--gpu", "h200", "--gpus", "8", "--offload-experts", "61"), "only 60 layers have routed experts, not 61"),
        (("--gpu", "h200", "--gpus", "8", "--offload-experts", "some"), "neither a whole number nor host"),
        (("--gpu", "h200", "--gpus", "8", "--mtp"), "has no multi-token-prediction module"),
        (("--gpu", "h200", "--gpus", "8", "--draft", "nosuch"), "no bundled spec is named"),
        (("--gpu", "h200", "--gpus", "8", "--max-num-seqs", "0"), "max num seqs must be at least 1, not 0"),
        (("--gpu", "h200", "--gpus", "8", "--lora-rank", "-1"), "--lora-rank"),
        (("--gpu", "h200", "--gpus", "8", "--dcp", "16"), "dcp 16 does not divide tp 8"),
        (("--gpu", "h200", "--gpus", "0"), "gpus must be at least 1, not 0"),
        (("--gpu", "h200", "--gpus", "-8"), "--gpus"),
        (("--gpu", "h200", "--gpus", "eight"), "neither a whole number nor auto"),
        (("--gpu", "h200", "--gpus", "8", "--ep", "0"), "ep must be at least 1, not 0"),
        (("--gpu", "h200", "--gpus", "8", "--tp", "0"), "--tp"),
        (("--gpu", "h200", "--gpus", "8", "--batch", "0"), "--batch"),
        (("--gpu", "h200", "--gpus", "8", "--context", "0"), "context must be at least 1, not 0"),
        (("--gpu", "h200", "--gpus", "8", "--context", "-1"), "can't be negative"),
        (("--gpu", "h200", "--gpus", "8", "--utilization", "0"), "utilization must be above 0"),
        (("--gpu", "h200", "--gpus", "8", "--utilization", "90"), "at most 1, not 90"),
        (("--gpu", "h200", "--gpus", "8", "--overhead", "-1GiB"), "can't be negative"),
        (("--gpu", "h200", "--gpus", "8", "--kv-dtype", "fp9"), "unknown cache dtype fp9"),
        (("--gpu", "h200", "--gpus", "8", "--as", "int3"), "unknown storage int3"),
        (("--gpu", "h200", "--gpus", "8", "--engine", "nosuch"), "no bundled engine is named"),
    ],
)
def test_what_cant_be_answered_exits_2_and_says_why(capsys: Capture, more: tuple[str, ...], message: str) -> None:
    assert message in refused(capsys, "serve", "k25", *more)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("kv", "k25", "--tp", "7"), "num_attention_heads 64 can't be divided over tp 7"),
        (("kv", "k25", "--tp", "2", "--dcp", "4"), "dcp 4 does not divide tp 2"),
        (("kv", "k25", "--kv-dtype", "bf61"), "did you mean bf16?"),
        (
            ("kv", "llama-3.1-70b", "--kv-dtype", "fp8_ds_mla"),
            "and nothing else, and model.layers.*.self_attn keeps key",
        ),
        (("kv", "k25", "--context", "0"), "context must be at least 1"),
        (("kv", "k25", "--batch", "0"), "--batch"),
        (("kv", "k25", "--block-size", "0"), "block_size must be at least 1, not 0"),
        (("kv", "k25", "--memory", "0"), "memory must be at least 1 byte"),
        (("kv", "k25", "--memory", "46.80G"), "GiB (powers of 1024) or GB (powers of 1000)"),
        (("kv", "llama-3.1-70b", "--image", "100x100"), "has no vision tower"),
        (("weights", "k25", "--as", "bf61"), "did you mean bf16?"),
        (("weights", "k25", "--optimizer", "adamv"), "did you mean adamw?"),
    ],
)
def test_kv_and_weights_refuse_bad_input_too(capsys: Capture, arguments: tuple[str, ...], message: str) -> None:
    assert message in refused(capsys, *arguments)


# ------------------------------------------------------------------------------------------------- people


def test_people_see_verdict_terms_and_what_they_rest_on(capsys: Capture) -> None:
    assert main([*K25_ON_H200, "--context", "128k"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Kimi K2.5 fits on 8 x NVIDIA H200 SXM 141GB: 1 x 131,072 tokens in bf16, ")
    labels = [line.strip().split("  ")[0] for line in lines]
    order = ["weights", "routed expert", "activation of one step", "CUDA graphs", "free for more KV cache"]
    assert [label for label in labels if label in order][: len(order)] == order
    assert any(line.startswith("assumed:") for line in lines)


def test_a_hardware_file_of_ones_own_can_be_named(capsys: Capture, tmp_path: Path) -> None:
    text = (bundled_dir() / "hardware" / "h200.yaml").read_text()
    path = tmp_path / "half.yaml"
    path.write_text(text.replace("memory_visible_bytes: 150121545728", "memory_visible_bytes: 75060772864"))
    found = report(capsys, "serve", "k25", "--gpu", str(path), "--gpus", "8")
    assert found["quantities"]["serve.fits"] is False


# ------------------------------------------------------------------------- ranges, levers, layouts, prices, host


def test_the_verdict_has_a_margin_and_its_range(capsys: Capture) -> None:
    found = report(capsys, *K25_ON_H200, "--context", "128k")
    q = found["quantities"]
    assert q["serve.margin_bytes"] == q["serve.kv_budget_bytes"] - q["serve.kv_bytes"]
    assert q["serve.kv_bytes_low"] < q["serve.kv_budget_bytes"] < q["serve.kv_bytes_high"]
    table = {row["path"]: row for row in found["tables"]["overhead"]}
    assert sum(row["bytes"] for row in table.values()) == q["serve.overhead_bytes"]
    assert all(row["low"] <= row["bytes"] <= row["high"] for row in table.values())
    inside = [row for row in table.values() if row["counted"] == "inside the share"]
    spread = sum(row["high"] - row["low"] for row in inside)
    assert q["serve.kv_bytes_high"] - q["serve.kv_bytes_low"] == spread


def test_a_verdict_that_assumptions_could_turn_is_tight(capsys: Capture) -> None:
    # a log of vLLM 0.15 with these settings had room for 9,779 tokens (with a replicated tower)
    asked = ("serve", "k25", "--gpu", "h100", "--tp", "8", "--context", "8k", "--utilization", "0.95")
    found = report(capsys, *asked, "--engine", "vllm-0.8", "--max-num-seqs", "64", "--vision", "replicated")
    assert found["quantities"]["serve.fits"] is True
    assert found["verdict"] == "tight"
    assert found["title"].startswith("Kimi K2.5 just fits on 8 x")
    assert any(re.match("Tight: [0-9.]+ MiB missing to [0-9.]+ GiB to spare, by what", note) for note in found["notes"])
    assert report(capsys, *K25_ON_H200)["verdict"] == "fits"


def test_what_would_make_it_fit_is_a_table_of_flags_that_do(capsys: Capture) -> None:
    asked = ("serve", "k25", "--gpu", "h200", "--gpus", "8", "--context", "128k", "--batch", "32")
    found = report(capsys, *asked)
    assert found["quantities"]["serve.fits"] is False
    levers = {row["flags"]: row for row in found["tables"]["levers"]}
    assert levers["--dcp 8"]["fits"] is True
    for flags, row in levers.items():
        if row["fits"] is None or row["gpu"] != "h200":
            continue
        again = report(capsys, *asked, *flags.split())["quantities"]
        assert again["serve.fits"] is row["fits"], flags
        assert again["serve.margin_bytes"] == row["margin_bytes"], flags


def test_a_layout_of_as_many_gpus_that_fits_is_in_the_first_line(capsys: Capture) -> None:
    """70,272 B x 262,144 tokens are 17.2 GiB on each of 8, and over eight of them 2.1: 8 H20 have room for 10."""
    asked = ("serve", "k25", "--gpu", "h20", "--gpus", "8")
    found = report(capsys, *asked)
    assert found["quantities"]["serve.fits"] is False
    assert found["title"].endswith(" missing on each GPU; fits with --dcp 8")
    assert report(capsys, *asked, "--dcp", "8")["verdict"] == "fits"
    assert report(capsys, "serve", "k25", "--gpu", "h20")["quantities"]["serve.gpus"] == 8
    # no layout of 8 H100, and none is needed on 8 H200
    for gpu in ("h100", "h200"):
        assert "; fits with" not in report(capsys, "serve", "k25", "--gpu", gpu, "--gpus", "8")["title"]


@pytest.mark.parametrize("given", ["--gpus 8", "--gpus 8 --tp 4 --pp 2", "--tp 4 --dp 2 --ep all"])
def test_flags_of_more_devices_go_behind_those_that_were_given(given: str, capsys: Capture) -> None:
    asked = ("serve", "k25", "--gpu", "h100", "--context", "128k", *given.split())
    (more,) = (row for row in report(capsys, *asked)["tables"]["levers"] if row["path"] == "more devices")
    again = report(capsys, *asked, *more["flags"].split())["quantities"]
    assert again["serve.fits"] is more["fits"] is True
    assert (again["serve.gpus"], again["serve.margin_bytes"]) == (more["gpus"], more["margin_bytes"])


def test_where_it_fits_levers_say_what_each_would_buy(capsys: Capture) -> None:
    found = report(capsys, *K25_ON_H200, "--context", "128k")
    levers = {row["flags"]: row for row in found["tables"]["levers"]}
    assert levers["--kv-dtype fp8"]["max_tokens"] == pytest.approx(
        2 * found["quantities"]["serve.max_tokens"], rel=1e-3
    )
    assert not any(row["path"] == "more devices" for row in levers.values())


def test_where_nothing_alone_fits_the_smallest_combination_is_named(capsys: Capture) -> None:
    # 70,272 B x 131,072 tokens x 90 sequences: 772 GiB on each of 8; an eighth is 96.5 GiB, half of that fits in 52
    found = report(capsys, *K25_ON_H200, "--context", "128k", "--batch", "90")
    levers = {row["flags"]: row for row in found["tables"]["levers"]}
    assert not any(levers[flags]["fits"] for flags in ("--dcp 8", "--kv-dtype fp8", "--batched-tokens 2k"))
    assert levers["--dcp 8 --kv-dtype fp8"]["fits"] is True


@pytest.mark.parametrize(
    ("gpus", "layout"),
    [
        ("24", (8, 1, 3)),  # a copy on each node
        ("16", (8, 1, 2)),
        ("12", (4, 1, 3)),  # 12 GPUs are no whole nodes, and 64 heads don't divide by 12 or 6
    ],
)
def test_more_gpus_than_a_node_are_laid_out_by_nodes(capsys: Capture, gpus: str, layout: tuple[int, int, int]) -> None:
    found = report(capsys, "serve", "k25", "--gpu", "h200", "--gpus", gpus)
    assert tuple(found["inputs"][name] for name in ("tp", "pp", "dp")) == layout
    assert found["quantities"]["serve.gpus"] == int(gpus)


def test_where_a_node_does_not_hold_the_model_stages_go_across(capsys: Capture) -> None:
    found = report(capsys, "serve", "k25", "--gpu", "h100", "--gpus", "16", "--context", "128k")
    assert tuple(found["inputs"][name] for name in ("tp", "pp", "dp")) == (8, 2, 1)
    assert any("fullest stage" in note for note in found["notes"])


def test_prices_sort_the_table_of_all_gpus(capsys: Capture, tmp_path: Path) -> None:
    asked = ("serve", "llama-3.1-70b", "--gpu", "all", "--context", "8k")
    rows = report(capsys, *asked, "--price", "h100=2", "--price", "h200=7.5")["rows"]
    count = {row["path"]: row["gpus"] for row in rows}
    assert [row["path"] for row in rows[:2]] == ["h100", "h200"]
    assert rows[0]["price_per_hour"] == 2 * count["h100"]
    assert rows[1]["price_per_hour"] == 7.5 * count["h200"]
    fits = [row["fits"] for row in rows]
    assert fits == sorted(fits, reverse=True)


def test_the_price_in_ones_own_hardware_file_is_read(capsys: Capture, tmp_path: Path) -> None:
    path = card(tmp_path, 80, price_per_hour=1.5)
    asked = ("serve", "llama-3.1-70b", "--gpu", str(path), "--gpus", "4", "--context", "8k")
    assert report(capsys, *asked)["quantities"]["serve.price_per_hour"] == 6.0
    found = report(capsys, *asked, "--price", f"{load_hardware(str(path)).name}=2")
    assert found["quantities"]["serve.price_per_hour"] == 8.0


def test_experts_on_the_host_leave_the_gpus_and_are_read_for_each_token(capsys: Capture, tmp_path: Path) -> None:
    host = "{memory_bytes: 1TiB, memory_bandwidth: 400000000000}"
    path = card(tmp_path, 48, host=host)
    found = report(
        capsys, "serve", "k25", "--gpu", str(path), "--gpus", "1", "--offload-experts", "host", "--context", "8k"
    )
    q = found["quantities"]
    # 60 layers x 384 experts x 3 matrices of 7168 x 2048 in int4 (half a byte, a bf16 scale for 32, 16 bytes of shape)
    expert = 3 * (7168 * 2048 // 2 + 7168 * 2048 // 32 * 2 + 8)
    assert q["serve.host_bytes"] == 60 * 384 * expert
    assert q["serve.host_bytes_per_token"] == 60 * 8 * expert
    assert q["serve.host_tokens_per_second"] == pytest.approx(400e9 / (60 * 8 * expert))
    assert not any(row["path"] == "weights.routed_expert" for row in found["rows"])
    half = report(
        capsys, "serve", "k25", "--gpu", str(path), "--gpus", "16", "--offload-experts", "30", "--context", "8k"
    )
    assert half["quantities"]["serve.host_bytes"] * 2 == q["serve.host_bytes"]


def test_a_step_of_many_sequences_reads_each_expert_once(capsys: Capture) -> None:
    asked = ("serve", "k25", "--gpu", "rtx4090", "--gpus", "2", "--offload-experts", "host", "--context", "1k")
    read = {}
    for batch in (1, 64):
        rows = report(capsys, *asked, "--batch", str(batch))["tables"]["host"]
        read[batch] = next(row["bytes"] for row in rows if row["path"].startswith("read for a step"))
    # 384·(1 - (1 - 8/384)^64) = 284.2 experts of a layer instead of 8
    assert read[64] / read[1] == pytest.approx(384 * (1 - (376 / 384) ** 64) / 8)


def test_drafts_adapters_and_prediction_modules_are_rows_of_the_overhead(capsys: Capture) -> None:
    plain = ("serve", "deepseek-v3", "--gpu", "h200", "--gpus", "8", "--context", "8k")
    before = report(capsys, *plain)["quantities"]
    for more, path in ((("--mtp",), "mtp"), (("--lora-rank", "16"), "lora"), (("--draft", "kimi-k2"), "draft")):
        found = report(capsys, *plain, *more)
        row = next(row for row in found["tables"]["overhead"] if row["path"] == path)
        assert found["quantities"]["serve.weights_bytes"] == before["serve.weights_bytes"]
        assert found["quantities"]["serve.overhead_bytes"] == before["serve.overhead_bytes"] + row["bytes"]


def test_adapters_of_experts_are_said_not_to_be_counted(capsys: Capture) -> None:
    for name, said in (("k25", True), ("llama-3.1-70b", False)):
        notes = report(capsys, "serve", name, "--gpu", "h200", "--gpus", "8", "--lora-rank", "16")["notes"]
        assert any(note.startswith("Buffers for adapters of routed experts are not counted") for note in notes) is said


def test_what_is_not_modelled_is_named(capsys: Capture) -> None:
    said = " ".join(report(capsys, *K25_ON_H200)["conventions"])
    assert "Not modelled: KV cache in the host's memory, prefixes that sequences share, and videos" in said


def test_a_cache_dtype_may_be_searched(capsys: Capture) -> None:
    asked = ("serve", "k25", "--gpu", "h200", "--gpus", "8", "--context", "128k", "--batch", "8", "--kv-dtype")
    assert report(capsys, *asked, "bf16")["quantities"]["serve.fits"] is False
    found = report(capsys, *asked, "auto")
    assert found["quantities"]["serve.fits"] is True
    assert found["inputs"]["kv_dtype"] == "fp8"


def test_what_is_missing_is_printed_without_a_sign_and_adds_up_in_json(capsys: Capture) -> None:
    asked = ("serve", "k25", "--gpu", "h100", "--gpus", "8")
    found = report(capsys, *asked)
    rows = {row["path"]: row["bytes"] for row in found["rows"] if not row["depth"]}
    assert rows["free"] < 0
    assert sum(rows.values()) - rows["visible"] == rows["visible"]
    assert main([*asked]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.strip().startswith("missing")]
    assert len(lines) == 2  # among the quantities, and in the table of one GPU's memory
    for line, exact in zip(lines, (-found["quantities"]["serve.margin_bytes"], -rows["free"]), strict=True):
        assert f" {format_bytes(exact)} " in f"{line} "
        assert "-" not in line
    assert main([*asked, "--format", "csv"]) == 0
    assert "below_zero" not in capsys.readouterr().out


def test_what_is_left_is_called_so(capsys: Capture) -> None:
    assert main([*K25_ON_H200, "--context", "128k"]) == 0
    said = capsys.readouterr().out
    assert "left per GPU" in said
    assert "free for more KV cache" in said
    assert "missing" not in said
