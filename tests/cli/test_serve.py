"""`archcalc serve`, and what `kv` and `weights` share with it: output, exit codes, bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from archcalc.cli import main
from archcalc.documents.quantities import QUANTITIES
from archcalc.files.loader import bundled_dir

Capture = pytest.CaptureFixture[str]
K25_ON_H200 = ("serve", "k25", "--gpu", "h200", "--gpus", "8", "--tp", "8")


def report(capsys: Capture, *arguments: str) -> dict[str, Any]:
    """The JSON report of a command that answers."""
    assert main([*arguments, "--format", "json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


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
    for part in ("213,742 bytes x 8,192 tokens", "CUDA graphs of", "non-torch memory of", "utilization 0.92"):
        assert any(part in line for line in lines), part
    assert any("non_torch_bytes: one log" in line for line in lines)


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


def test_auto_says_why_larger_sizes_were_left_out(capsys: Capture) -> None:
    found = report(capsys, "serve", "k25", "--gpu", "h100", "--as", "bf16")
    assert found["quantities"]["serve.fits"] is False
    assert any("tp 32 was left out" in note and "--vision replicated" in note for note in found["notes"])


def test_all_gives_a_row_for_every_known_gpu(capsys: Capture) -> None:
    found = report(capsys, "serve", "k25", "--gpu", "all", "--context", "128k")
    counts = {row["path"]: row["gpus"] for row in found["rows"]}
    fewest = {row["path"]: row["gpus"] for row in found["rows"] if row["fits"]}
    sixteen = ("h100", "h100-nvl", "h100-pcie", "h800", "a100", "gh200", "h20", "rtx-pro-6000")
    four = ("b200", "b300", "gb200", "gb300", "mi300x", "mi325x", "mi355x")
    assert fewest == dict.fromkeys(sixteen, 16) | {"h200": 8} | dict.fromkeys(four, 4)
    assert set(counts) == {path.stem for path in (bundled_dir() / "hardware").glob("*.yaml")}
    assert found["quantities"]["serve.fits"] is True


def test_all_with_a_count_says_where_it_fits(capsys: Capture) -> None:
    found = report(capsys, "serve", "k25", "--gpu", "all", "--gpus", "8", "--context", "128k")
    assert {row["path"] for row in found["rows"] if row["fits"]} == {
        *("h200", "b200", "b300", "gb200", "gb300", "mi300x", "mi325x", "mi355x")
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
        (("--gpu", "H200", "--gpus", "8"), "did you mean h200?"),
        ((), "no GPU is named"),
        (("--gpu", "h200", "--gpus", "8", "--tp", "7"), "num_attention_heads 64 can't be divided over tp 7"),
        (("--gpu", "h200", "--gpus", "8", "--tp", "4"), "tp 4 x dp 1 does not make 8 GPUs"),
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
        (("kv", "k25", "--kv-dtype", "bf17"), "did you mean bf16?"),
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
        (("weights", "k25", "--as", "bf17"), "did you mean bf16?"),
        (("weights", "k25", "--optimizer", "adamv"), "did you mean adamw?"),
    ],
)
def test_kv_and_weights_refuse_bad_input_too(capsys: Capture, arguments: tuple[str, ...], message: str) -> None:
    assert message in refused(capsys, *arguments)


# ------------------------------------------------------------------------------------------------- people


def test_people_see_verdict_terms_and_what_they_rest_on(capsys: Capture) -> None:
    assert main([*K25_ON_H200, "--context", "128k"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Kimi K2.5 fits on 8 x NVIDIA H200 SXM 141GB: 1 x 131,072 tokens in bf16"
    labels = [line.strip().split("  ")[0] for line in lines]
    order = ["weights", "routed expert", "activation workspace", "CUDA graphs", "free for more KV cache"]
    assert [label for label in labels if label in order] == order
    assert any(line.startswith("assumed:") for line in lines)


def test_a_hardware_file_of_ones_own_can_be_named(capsys: Capture, tmp_path: Path) -> None:
    text = (bundled_dir() / "hardware" / "h200.yaml").read_text()
    path = tmp_path / "half.yaml"
    path.write_text(text.replace("memory_visible_bytes: 150121545728", "memory_visible_bytes: 75060772864"))
    found = report(capsys, "serve", "k25", "--gpu", str(path), "--gpus", "8")
    assert found["quantities"]["serve.fits"] is False
