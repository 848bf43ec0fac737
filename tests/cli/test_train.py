"""`archcalc train`, as users and scripts run it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT, run

BASE = ("train", "kimi-k2", "--plan", "k2-pretrain")
ROW_KEYS = {
    "path",
    "params_bytes",
    "grads_bytes",
    "optimizer_bytes",
    "activation_bytes",
    "transient_bytes",
    "fixed_bytes",
    "offloaded_bytes",
    "buffers_bytes",
    "peak_bytes",
    "live_chunks",
}


def document(*arguments: str) -> dict[str, Any]:
    ran = run(*arguments, "--format", "json")
    assert ran.code == 0, ran.err
    found: dict[str, Any] = json.loads(ran.out)
    return found


def test_rows_and_quantities_are_those_of_the_interface() -> None:
    found = document(*BASE)
    assert len(found["rows"]) == 16
    assert all(set(row) >= ROW_KEYS for row in found["rows"])
    totals = {f"train.{key}" for key in ROW_KEYS - {"path"}}
    named = {"peak_first_bytes", "worst_rank", "fits", "params_grads_bytes_unique", "params_grads_bytes_resident"}
    assert set(found["quantities"]) == totals | {f"train.{name}" for name in named}
    assert set(found["tables"]) == {"terms", "ledger", "imbalance", "offload"}


def test_the_totals_are_the_worst_ranks() -> None:
    found = document(*BASE)
    top = found["rows"][found["quantities"]["train.worst_rank"]]
    assert all(found["quantities"][f"train.{key}"] == top[key] for key in ROW_KEYS - {"path"})
    assert top["peak_bytes"] == max(row["peak_bytes"] for row in found["rows"])


def test_the_terms_are_the_peak() -> None:
    found = document(*BASE)
    assert sum(row["bytes"] for row in found["tables"]["terms"]) == found["quantities"]["train.peak_bytes"]


@pytest.mark.parametrize("rank", ["0", "15"])
def test_a_rank_can_be_asked_for(rank: str) -> None:
    found = document(*BASE, "--rank", rank)
    assert sum(row["bytes"] for row in found["tables"]["terms"]) == found["rows"][int(rank)]["peak_bytes"]
    assert found["quantities"]["train.worst_rank"] == 1


@pytest.mark.parametrize("rank", ["16", "-1"])
def test_a_rank_that_there_is_not_is_an_error(rank: str) -> None:
    ran = run(*BASE, "--rank", rank)
    assert (ran.code, ran.out) == (2, "")
    assert f"there is no pipeline rank {rank}" in ran.err
    assert "ranks are 0 to 15" in ran.err


def test_the_order_of_overrides_does_not_matter() -> None:
    first, second = ("--set", "parallel.world=2048"), ("--set", "activations.fp8=[]")
    assert document(*BASE, *first, *second)["rows"] == document(*BASE, *second, *first)["rows"]


def test_fits_compares_with_what_the_device_shows() -> None:
    assert document(*BASE)["quantities"]["train.fits"] is True
    assert document(*BASE, "--set", "activations.offload=none")["quantities"]["train.fits"] is False


@pytest.mark.parametrize(
    "bad",
    ["parallel.ep=7", "parallel.pp=62", "parallel.world=100", "parallel.zero=4", "batch.seq=0", "parallel.nosuch=1"],
)
def test_an_impossible_plan_is_one_error_and_exit_2(bad: str) -> None:
    ran = run(*BASE, "--set", bad)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.count("error: ") == 1
    assert "Traceback" not in ran.err


def test_a_plan_file_with_a_typo_is_shown_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text((ROOT / "specs/plans/k2-pretrain.yaml").read_text().replace("  zero: 1", "  zeroo: 1"))
    ran = run("train", "kimi-k2", "--plan", str(path))
    assert ran.code == 2
    assert "did you mean zero?" in ran.err
    assert "  zeroo: 1" in ran.err


def test_a_model_without_experts_has_no_imbalance_table() -> None:
    options = ("parallel.ep=1", "activations.fp8=[]", "activations.recompute=[]")
    found = document("train", "llama-3.1-70b", "--plan", "k2-pretrain", *[x for o in options for x in ("--set", o)])
    assert "imbalance" not in found["tables"]


def test_zero_2_over_a_pipeline_is_warned_about() -> None:
    assert "reduce-scatter a micro-batch" in run(*BASE, "--set", "parallel.zero=2").out


def test_it_starts_quickly_and_without_heavy_libraries() -> None:
    code = (
        "import sys, time\n"
        "from archcalc.cli import main\n"
        "sys.argv = ['archcalc', 'train', 'k25', '--plan', 'k2-pretrain', '--format', 'json']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'matplotlib', 'transformers'} & set(sys.modules)\n"
        "print(sorted(heavy), time.process_time(), file=sys.stderr)\n"
    )
    best = 10.0
    for _ in range(3):
        start = time.perf_counter()
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
        heavy, _, seconds = ran.stderr.strip().rpartition(" ")
        assert heavy == "[]"
        best = min(best, float(seconds))
        assert time.perf_counter() - start < 30
    assert best < 1.0  # half a second on an idle machine; twice that for noise


def test_dropout_that_a_plan_leaves_out_is_named_with_megatrons_own_default() -> None:
    """0.1 for both (Megatron-LM, training/arguments.py, --hidden-dropout and --attention-dropout)."""
    plain = run(*BASE).out
    assert "activations.core = flash (default)" in plain
    assert "activations.hidden_dropout = 0.0 (default; Megatron-LM's own is 0.1)" in plain
    said = run(*BASE, "--set", "activations.hidden_dropout=0.1").out
    assert "activations.hidden_dropout" not in said
    assert "activations.attention_dropout = 0.0 (default; Megatron-LM's own is 0.1)" in said
