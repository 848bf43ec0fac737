"""`archcalc card`, and the verdict that every command begins with."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from archcalc.units import format_bytes, format_count, format_flops
from tests.support import ROOT, answered, run

SHOWN = ["k25", "gemma-3-27b", "kimi-linear-48b", "glm-5", "llama-3.1-8b"]
"""Latent, windowed, linear, sparse and plain attention; with and without a tower and experts."""


def rows_of(spec: str) -> dict[str, object]:
    """The labelled rows of a card: label to value."""
    return {row["path"]: row["value"] for row in answered("card", spec)["rows"] if row["path"]}


@pytest.mark.parametrize("spec", SHOWN)
def test_a_card_is_one_screen_and_begins_with_its_totals(spec: str) -> None:
    lines = run("card", spec).out.splitlines()
    params = answered("params", spec)["quantities"]
    assert len(lines) <= 30
    assert max(map(len, lines)) <= 100
    assert f"{format_count(params['params.total'])} parameters" in lines[0]
    assert f"{format_count(params['params.active'])} active" in lines[0]


@pytest.mark.parametrize("spec", SHOWN)
def test_a_card_says_what_the_other_commands_say(spec: str) -> None:
    rows, card = rows_of(spec), answered("card", spec)
    caches = [row["value"] for row in card["rows"] if row["unit"] == "bytes" and row["path"] != "released weights"]
    asked = [answered("kv", spec, "--context", size)["quantities"]["kv.total_bytes"] for size in ("32k", "128k")]
    assert caches == asked
    assert rows["released weights"] == answered("weights", spec)["quantities"]["weights.bytes"]
    assert rows["FLOPs a token"] == answered("flops", spec)["quantities"]["flops.per_token"]


@pytest.mark.parametrize("spec", SHOWN)
def test_the_layers_of_a_card_add_up(spec: str) -> None:
    rows = answered("card", spec)["rows"]
    start = next(n for n, row in enumerate(rows) if row["path"] == "layers")
    kinds = []
    for row in rows[start + 1 :]:
        if row["path"]:
            break
        kinds.append(row["value"])
    assert sum(kinds) == rows[start]["value"]


@pytest.mark.parametrize("spec", ["k25", "llama-3.1-8b"])
def test_fewer_gpus_of_no_kind_serve_what_the_card_says_the_fewest_serve(spec: str) -> None:
    served = answered("card", spec)["quantities"]["serve.gpus"]
    fitting = [row for row in answered("serve", spec, "--gpu", "all")["rows"] if row["verdict"] == "fits"]
    assert served == min(row["gpus"] for row in fitting)
    smallest = min(row["visible_bytes"] for row in fitting if row["gpus"] == served)
    name = str(rows_of(spec)["served by"]).split(" x ")[1]
    assert next(row["visible_bytes"] for row in fitting if row["path"] == name) == smallest


@pytest.mark.parametrize("spec", ["k25", "llama-3.1-70b"])
def test_a_card_and_the_report_name_the_same_gpus(spec: str) -> None:
    # k25 just fits on 4 x b200, which stands first in the table of all: both name the first with room to spare
    headline = json.loads((ROOT / "reports" / f"{spec}.json").read_text())["tables"]["headline"]
    assert next(row["value"] for row in headline if row["path"] == "serve") == rows_of(spec)["served by"]


def next_of(card: dict[str, Any]) -> list[list[str]]:
    """The words of each command that a card ends with, `archcalc` left out."""
    commands = [shlex.split(row["path"]) for row in card["tables"]["next"]]
    assert all(program == "archcalc" for program, *_ in commands)
    return [words for _, *words in commands]


@pytest.mark.parametrize("spec", ["k25", "kimi-linear-48b"])
def test_a_card_ends_with_three_commands_that_answer(spec: str) -> None:
    asked = next_of(answered("card", spec))
    assert len(asked) == 3
    for words in asked:
        assert run(*words).code == 0, words


@pytest.mark.parametrize("spec", ["k25", "kimi-k2", "kimi-k3", "llama-3.1-8b"])
def test_the_serving_that_a_card_tells_to_ask_for_is_the_one_that_it_says_fits(spec: str) -> None:
    """Of tp alone, of tp with dcp, and of tp with dp and dcp: a number of GPUs alone would be tp alone."""
    card = answered("card", spec)
    served = answered(*next_of(card)[0])
    (shown,) = (row["value"] for row in card["rows"] if row["path"] == "served by")
    gpus, gpu = shown.split(" x ")
    (best,) = (row for row in answered("serve", spec, "--gpu", "all")["rows"] if row["path"] == gpu)
    assert served["verdict"] == best["verdict"] == "fits"
    assert served["quantities"]["serve.gpus"] == card["quantities"]["serve.gpus"] == int(gpus)
    assert served["layout"]["gpu"] == gpu
    assert {name: served["layout"][name] for name in ("tp", "pp", "dp", "ep", "dcp")}.items() <= best.items()
    assert served["quantities"]["serve.margin_bytes"] == best["margin_bytes"]


def test_a_card_says_what_its_verdict_on_serving_rests_on() -> None:
    assert answered("card", "k25")["assumptions"] == answered("serve", "k25", "--gpu", "all")["assumptions"]
    assert "values that no source gives" in run("k25").out


def test_a_spec_alone_on_the_line_asks_for_its_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("k25").out == run("card", "k25").out
    copy = tmp_path / "mine.yaml"
    copy.write_bytes((ROOT / "specs" / "llama-3.1-8b.yaml").read_bytes())
    assert run(str(copy)).out == run("card", str(copy)).out
    assert f"archcalc serve {copy}" in run(str(copy)).out.replace("'", "")
    monkeypatch.chdir(tmp_path)
    copy.rename(tmp_path / "specs")
    assert run("specs").out.startswith("21 bundled specs"), "a command goes before a file of its name"


def test_a_model_that_no_bundled_gpu_can_hold_says_why(tmp_path: Path) -> None:
    """A feed-forward of 2^30 features takes 2^30 x 4,096 x 3 x 2 B = 24 TiB a layer: no 64 GPUs hold 32 of them."""
    text = (ROOT / "specs" / "llama-3.1-8b.yaml").read_text()
    huge = tmp_path / "huge.yaml"
    huge.write_text(text.replace("intermediate_size: 14336", "intermediate_size: 1073741824"))
    card = answered("card", str(huge))
    assert "serve.gpus" not in card["quantities"]
    assert "no bundled GPU" in card["title"]


FIRST = {
    "params k25": lambda q: format_count(q["params.total"]),
    "flops k25": lambda q: format_flops(q["flops.total"]),
    "flops k25 --phase decode": lambda q: "batch 1, 1 text token:",
    "kv k25": lambda q: format_bytes(q["kv.total_bytes"]),
    "kv k25 --memory 40GiB": lambda q: f"{q['kv.max_tokens']:,} tokens fit",
    "weights k25": lambda q: format_bytes(q["weights.bytes"]),
    "serve k25 --gpu h200 --gpus 8": lambda q: f"{format_bytes(q['serve.margin_bytes'])} to spare",
    "serve k25 --gpu h100 --gpus 8": lambda q: f"{format_bytes(-q['serve.margin_bytes'])} missing",
    "serve k25 --gpu all": lambda q: "fits on 4 x",
    "train k25 --plan k2-pretrain": lambda q: format_bytes(q["train.peak_bytes"]),
    "params k25 --explain pre_norm": lambda q: f"{next(iter(q.values())):,}",
}
"""What the first line of each command holds, of its quantities."""


@pytest.mark.parametrize("form", ["table", "markdown"])
@pytest.mark.parametrize("command", FIRST)
def test_the_verdict_stands_in_the_first_line(command: str, form: str) -> None:
    first = run(*command.split(), "--format", form).out.splitlines()[0]
    assert FIRST[command](answered(*command.split())["quantities"]) in first


def test_the_first_line_speaks_the_readers_units() -> None:
    found = answered("kv", "k25")["quantities"]["kv.total_bytes"]
    for units in ("gb", "bytes"):
        assert format_bytes(found, units) in run("kv", "k25", "--units", units).out.splitlines()[0]


ASSUMING = ["serve k25 --gpu h200", "train k25 --plan k2-pretrain", "plot memory k25 --gpu h200 --format table"]


@pytest.mark.parametrize("command", ASSUMING)
def test_what_is_assumed_is_one_line_with_a_count_until_it_is_asked_for(command: str) -> None:
    words = command.removesuffix(" --format table").split()
    assumed = answered(*words)["assumptions"]
    folded = run(*command.split()).out
    unfolded = run(*command.split(), "--assumptions").out
    assert f"assumed: {len(assumed)} values" in folded
    assert len(assumed) > 1
    flat = " ".join(unfolded.split())
    assert all(" ".join(line.split()) in flat for line in assumed)
    assert not any(line in folded for line in assumed)


def test_markdown_folds_what_is_assumed_too() -> None:
    n = len(answered("train", "k25", "--plan", "k2-pretrain")["assumptions"])
    assert f"{n} values" in run("train", "k25", "--plan", "k2-pretrain", "--format", "markdown").out


PLOTTED = {
    "plot memory k25 --gpu h200": "fits up to",
    "plot memory k25 --gpu h200 --gpus 8 --batch 1,64": "64 sequences: fits up to",
    "plot train k25 --plan k2-pretrain": "worst rank 1 fits: 73.76 GiB",
    "plot kv k25": "17.16 GiB at 256k",
    "plot kv k25 gemma-3-27b --context 4k..128k": "8.58 GiB to 10.41 GiB at 128k",
    "plot memory k25 --context 4k..8k": " at 8k",
}
"""The verdict of plots: what fits, or how high the curves get (8.58 GiB: 70,272 B x 131,072)."""


@pytest.mark.parametrize("command", PLOTTED)
def test_the_numbers_of_a_plot_begin_with_its_verdict(command: str) -> None:
    assert PLOTTED[command] in run(*command.split(), "--format", "table").out.splitlines()[0]


def test_no_file_of_the_working_directory_hides_what_a_card_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card, table = run("card", "llama-3.1-8b"), run("serve", "llama-3.1-8b", "--gpu", "all")
    monkeypatch.chdir(tmp_path)
    for name in ("h200", "a100-40gb", "vllm"):
        (tmp_path / name).write_text("no: GPU: and no engine")
    assert run("card", "llama-3.1-8b") == card
    (tmp_path / "vllm").unlink()
    assert run("serve", "llama-3.1-8b", "--gpu", "all") == table
