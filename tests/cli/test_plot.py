"""`archcalc plot`: what is written where, and what is refused."""

from __future__ import annotations

import copy
import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT, TINY, run, terminal, text, tiny, written

MEMORY = ("plot", "memory", "k25", "--context", "4k..256k")


def table(*arguments: str) -> list[dict[str, str]]:
    ran = run(*arguments, "--format", "csv")
    assert ran.code == 0, ran.err
    return list(csv.DictReader(io.StringIO(ran.out)))


# ---------------------------------------------------------------------------------------------- answers


def test_csv_has_a_line_for_each_power_of_two() -> None:
    rows = table(*MEMORY)
    assert [int(row["context"]) for row in rows] == [4096, 8192, 16384, 32768, 65536, 131072, 262144]
    # 61 layers x (512 + 64) x 2 bytes a token.
    assert [int(row["kv_bytes"]) for row in rows] == [70_272 * int(row["context"]) for row in rows]


def test_every_combination_of_spec_batch_and_cache_dtype_has_its_lines() -> None:
    rows = table(
        "plot", "kv", "k25", "llama-3.1-70b", "--context", "4k..8k", "--batch", "1,8", "--kv-dtype", "bf16,fp8"
    )
    assert len(rows) == 2 * 2 * 2 * 2
    assert {(row["spec"], row["batch"], row["kv_dtype"]) for row in rows} == {
        (spec, batch, dtype) for spec in ("k25", "llama-3.1-70b") for batch in ("1", "8") for dtype in ("bf16", "fp8")
    }


def test_json_is_a_report_with_the_question_in_it() -> None:
    ran = run("plot", "memory", "k25", "--gpu", "h200", "--context", "4k..8k", "--format", "json")
    document = json.loads(ran.out)
    assert document["command"] == "plot"
    assert document["inputs"] == {
        "kind": "memory",
        "specs": ["k25"],
        "context": [4096, 8192],
        "batch": [1],
        "kv_dtype": ["bf16"],
        "gpu": ["h200"],
        # What `serve` was asked: layout and overhead are its own to find.
        "as": "released",
        "engine": "vllm",
        "gpus": "auto",
        **dict.fromkeys(["tp", "pp", "dp", "ep", "dcp"]),
        "vision": "sharded",
        "language_only": False,
        "utilization": 0.92,
        **dict.fromkeys(["overhead", "batched_tokens", "max_num_seqs", "sampler", "block_size", "draft"]),
        "eager": False,
        "mtp": False,
        "lora_rank": 0,
        "offload_experts": None,
    }
    assert [(row["fits"], row["gpus"], row["layout"]) for row in document["rows"]] == [(True, 8, "tp 8")] * 2
    assert document["tables"]["crossings"][0]["spec"] == "k25"


def test_without_a_range_the_plot_goes_from_4k_to_the_models_limit() -> None:
    # K2.5: max_position_embeddings 262144; Llama 3.1: 131072.
    assert [int(row["context"]) for row in table("plot", "kv", "k25")][-1] == 262_144
    assert [int(row["context"]) for row in table("plot", "kv", "llama-3.1-70b")][-1] == 131_072


def test_a_short_model_gets_a_shorter_range(tmp_path: Path) -> None:
    spec = written(tmp_path, tiny())  # max_position_embeddings 64
    assert [int(row["context"]) for row in table("plot", "kv", spec)] == [4, 8, 16, 32, 64]


CHANGES = {
    "--as": "bf16",
    "--gpus": "16",
    "--tp": "4",
    "--pp": "2",
    "--dp": "2",
    "--ep": "all",
    "--dcp": "8",
    "--kv-dtype": "fp8",
    "--block-size": "1k",
    "--vision": "replicated",
    "--engine": "vllm-0.8",
    "--utilization": "0.5",
    "--batched-tokens": "32k",
    "--max-num-seqs": "2k",
    "--sampler": "torch",
    "--eager": "",
    "--language-only": "",
    "--draft": "llama-3.1-70b",
    "--mtp": "",
    "--lora-rank": "64",
    "--offload-experts": "9",
    "--overhead": "1GiB",
}
"""A value of each flag of `serve`, other than its own."""


@pytest.mark.parametrize("flag", CHANGES)
def test_every_flag_of_serve_changes_what_is_drawn(flag: str) -> None:
    spec = "deepseek-v3" if flag == "--mtp" else "k25"
    asked = ["plot", "memory", spec, "--gpu", "h200", "--context", "5000..6000", "--batch", "9"]
    given = {"--tp": "8", **({"--dp": "2"} if flag == "--ep" else {})}
    if flag == "--gpus":
        given = {"--gpus": "8"}
    before, after = (
        table(*asked, *(word for pair in flags.items() for word in pair if word))
        for flags in (given, {**given, flag: CHANGES[flag]})
    )
    drawn = ("weights_bytes", "overhead_bytes", "kv_bytes", "limit_bytes")
    for old, new in zip(before, after, strict=True):
        assert [old[key] for key in drawn] != [new[key] for key in drawn]


def test_every_flag_of_serve_is_tried() -> None:
    described = run("serve", "--help").out.partition("Options:")[2]
    beside = {"--gpu", "--context", "--batch", "--price", "--check", "--log", "--within"}
    beside |= {"--format", "--units", "--assumptions", "--help"}
    assert set(re.findall(r"^  (--[a-z-]+)", described, re.MULTILINE)) - beside == set(CHANGES)


@pytest.mark.parametrize(
    ("flag", "value", "part"), [("--tp", "8", 8), ("--pp", "5", 5), ("--dp", "2", 2), ("--dcp", "4", 4)]
)
def test_every_flag_of_a_layout_divides_the_cache(flag: str, value: str, part: int) -> None:
    # Llama 3.1 405B: 8 key-value heads; 126 layers, of which the fullest of 5 stages has 26.
    spec = "k25" if flag == "--dcp" else "llama-3.1-405b"
    more = ("--tp", "4") if flag == "--dcp" else ()
    for row in table("plot", "kv", spec, "--context", "4k..8k", "--batch", "8", flag, value, *more):
        whole, device = int(row["total_bytes"]), int(row["bytes_per_device"])
        assert device == (whole * 26 // 126 if flag == "--pp" else whole // part)


def test_pages_are_whole_in_the_copy_and_on_each_device() -> None:
    (first, second) = table("plot", "kv", "k25", "--context", "4097..5000", "--block-size", "4k")
    assert first["total_bytes"] == second["total_bytes"] == str(70_272 * 8192)
    assert first["bytes_per_device"] == first["total_bytes"]


def test_each_gpu_is_drawn_once_with_its_own_limit(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("kind: hardware\nname: h200\ntitle: Mine\nmemory_visible_bytes: 100GiB\n")
    gpus = ["h200", str(mine), "b200", "h200"]
    rows = table("plot", "memory", "k25", "--tp", "8", "--context", "4k..8k", *(w for g in gpus for w in ("--gpu", g)))
    # Two files of one name are told apart by what they were asked for as.
    assert [row["gpu"] for row in rows[::2]] == ["h200", str(mine), "b200"]
    assert len({row["limit_bytes"] for row in rows}) == 3
    assert len({row["path"] for row in rows}) == len(rows)


def test_devices_beyond_tp_hold_other_sequences() -> None:
    ours = {"context": "4k..8k", "batch": "8", "gpu": "h200"}
    flags = [word for name, value in ours.items() for word in (f"--{name}", value)]
    one = table("plot", "memory", "llama-3.1-70b", *flags, "--gpus", "8", "--tp", "8")
    two = table("plot", "memory", "llama-3.1-70b", *flags, "--gpus", "16", "--tp", "8")
    assert [int(row["kv_bytes"]) for row in one] == [2 * int(row["kv_bytes"]) for row in two]
    assert [row["weights_bytes"] for row in one] == [row["weights_bytes"] for row in two]


def test_without_a_file_the_plot_is_text_of_72_columns_and_nothing_else() -> None:
    ran = run("plot", "memory", "k25", "--gpu", "h200", "--batch", "8")
    assert (ran.code, ran.err.count("\n")) == (0, 1)
    assert "layout found for 262,144 tokens" in ran.err
    assert max(map(len, ran.out.splitlines())) <= 72
    assert "\x1b" not in ran.out
    assert "█ weights" in ran.out


def test_a_terminal_gets_the_same_text_in_colour() -> None:
    with terminal(200) as screen:
        assert run_here("plot", "kv", "k25") == 0
    assert "\x1b[" in screen.getvalue()
    with terminal(72, NO_COLOR="1") as plain:
        assert run_here("plot", "kv", "k25") == 0
    assert plain.getvalue() == run("plot", "kv", "k25").out


@pytest.mark.parametrize("kind", ["memory", "kv", "flops", "train"])
def test_a_text_plot_adapts_to_the_terminal_and_to_nothing_else(kind: str) -> None:
    plan = ("--plan", "k2-pretrain") if kind == "train" else ()
    for columns, widest in ((40, 40), (57, 57), (100, 100), (300, 120)):
        with terminal(columns, NO_COLOR="1") as screen:
            assert run_here("plot", kind, "k25", *plan) == 0
        longest = max(map(len, screen.getvalue().splitlines()))
        # A scale ends before the numbers beside it do, and bars have two columns for signs.
        assert widest - 2 <= longest <= widest
    piped = run("plot", kind, "k25", *plan)
    assert run("plot", kind, "k25", *plan, env={"COLUMNS": "40"}).out == piped.out


def run_here(*arguments: str) -> int:
    from archcalc.cli import main

    return main(list(arguments))


def test_units_reach_the_axis() -> None:
    assert "GiB" in run("plot", "memory", "k25").out
    out = run("plot", "memory", "k25", "--units", "gb").out
    assert "GB" in out
    assert "GiB" not in out


@pytest.mark.parametrize("kind", ["memory", "kv", "flops"])
def test_pictures_are_written_by_their_ending_and_stdout_stays_empty(kind: str, tmp_path: Path) -> None:
    svg, png = tmp_path / "p.svg", tmp_path / "p.PNG"
    ran = run("plot", kind, "k25", "--context", "4k..16k", "-o", str(svg), "-o", str(png))
    assert (ran.code, ran.out) == (0, "")
    assert ran.err.splitlines() == [f"wrote {svg}", f"wrote {png}"]
    assert svg.read_bytes().startswith(b"<?xml")
    assert png.read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.PNG", "p.svg"]


def test_numbers_go_beside_pictures_and_a_format_alone_to_stdout(tmp_path: Path) -> None:
    svg, numbers = tmp_path / "p.svg", tmp_path / "p.csv"
    ran = run(*MEMORY, "-o", str(svg), "-o", str(numbers))
    assert ran.code == 0
    assert numbers.read_text() == run(*MEMORY, "--format", "csv").out
    beside = run(*MEMORY, "-o", str(svg), "--format", "csv")
    assert beside.out == numbers.read_text()
    assert svg.read_bytes().startswith(b"<?xml")


def test_a_dash_is_the_text_plot_beside_a_picture(tmp_path: Path) -> None:
    ran = run(*MEMORY, "-o", str(tmp_path / "p.png"), "-o", "-")
    assert ran.out == run(*MEMORY).out


def test_training_plots_take_a_plan(tmp_path: Path) -> None:
    picture = tmp_path / "t.png"
    assert run("plot", "train", "kimi-k2", "--plan", "k2-pretrain", "-o", str(picture)).code == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    # 16 pipeline stages; then a quarter to eight times the plan's 4096 tokens.
    assert len(table("plot", "train", "kimi-k2", "--plan", "k2-pretrain")) == 16
    rows = table("plot", "memory", "kimi-k2", "--plan", "k2-pretrain")
    assert [int(row["seq"]) for row in rows] == [1024, 2048, 4096, 8192, 16384, 32768]


def test_lengths_past_the_models_limit_are_drawn_and_warned_about() -> None:
    ran = run("plot", "kv", "llama-3.1-70b", "--context", "64k..256k")
    assert ran.code == 0
    assert ran.err.startswith("warning: 262,144 tokens are more than max_position_embeddings, 131,072")


def test_matplotlib_is_loaded_for_pictures_only() -> None:
    code = (
        "import sys; from archcalc.cli import main\n"
        "assert main(['plot', 'memory', 'k25']) == 0\n"
        "assert main(['plot', 'kv', 'k25', '--format', 'csv']) == 0\n"
        "assert not {'matplotlib', 'numpy', 'torch'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_an_encoding_without_blocks_gets_plain_characters() -> None:
    code = "import sys; from archcalc.cli import main; sys.exit(main(['plot', 'memory', 'k25', '--gpu', 'h200']))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"PYTHONIOENCODING": "ascii", "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "# weights  o overhead" in done.stdout
    assert "\\u" not in done.stdout


# --------------------------------------------------------------------------------------------- refusals


def test_the_help_lists_the_kinds_and_of_each_the_options_that_it_takes() -> None:
    listed = run("plot", "--help").out.partition("Commands:")[2]
    assert [line.split()[0] for line in listed.splitlines() if line.strip()] == ["memory", "kv", "flops", "train"]
    always = {"--output", "--format", "--units", "--assumptions", "--help"}
    described = run("serve", "--help").out.partition("Options:")[2]
    serving = set(re.findall(r"^  (?:-[oh], )?(--[a-z-]+)", described, re.MULTILINE)) - always
    taken = {
        "memory": {"--context", "--plan", "--set", *(serving - {"--price", "--check", "--log", "--within"})},
        "kv": {"--context", "--batch", "--kv-dtype", "--tp", "--pp", "--dp", "--dcp", "--block-size"},
        "flops": {"--context", "--batch"},
        "train": {"--plan", "--set"},
    }
    for kind, options in taken.items():
        described = run("plot", kind, "--help").out.partition("Options:")[2]
        assert set(re.findall(r"^  (?:-[oh], )?(--[a-z-]+)", described, re.MULTILINE)) == options | always


REFUSED = {
    "a reversed range": (("kv", "k25", "--context", "256k..4k"), "runs backwards"),
    "one length": (("kv", "k25", "--context", "64k"), '--context "64k" is no range'),
    "an empty range": (("kv", "k25", "--context", "4k..4k"), "is empty"),
    "half a range": (("kv", "k25", "--context", "4k.."), "is not a range"),
    "a range from nothing": (("kv", "k25", "--context", "0..4k"), "must start at 1 token"),
    "a range without end": (("flops", "k25", "--context", "1..99999999999G"), "1G"),
    "a range of words": (("flops", "k25", "--context", "a..b"), "is not a number of tokens"),
    "an unknown kind": (("params", "k25"), "plot one of memory, kv, flops, train"),
    "a kind that is slightly wrong": (("trains", "k25"), "did you mean train?"),
    "a spec where the kind belongs": (("k25",), 'no kind of plot is named "k25"'),
    "an unknown spec": (("kv", "k52"), "did you mean k25?"),
    "an unknown GPU": (("memory", "k25", "--gpu", "hh200"), "did you mean h200?"),
    "an unknown cache dtype": (("kv", "k25", "--kv-dtype", "bf16,fp9"), "unknown cache dtype"),
    "no cache dtype": (("kv", "k25", "--kv-dtype", "bf16,"), "unknown cache dtype"),
    "a cache dtype of other attention": (("kv", "llama-3.1-70b", "--kv-dtype", "fp8_ds_mla"), "self_attn keeps key"),
    "no batch": (("kv", "k25", "--batch", "0"), '--batch "0" is no number of sequences'),
    "an empty batch": (("kv", "k25", "--batch", ""), "is no number of sequences"),
    "a batch of words": (("kv", "k25", "--batch", "1,many"), '--batch "many" is no number of sequences'),
    "a tp that does not divide heads": (("kv", "k25", "--tp", "3"), "can't be divided over tp 3"),
    "a tp that does not divide devices": (("memory", "k25", "--gpus", "8", "--tp", "3"), "tp 3 does not make 8 GPUs"),
    "a tp that divides no heads of a GPU's": (("memory", "k25", "--gpu", "h200", "--tp", "3"), "over tp 3"),
    "a dcp that does not divide tp": (("kv", "k25", "--tp", "4", "--dcp", "3"), "dcp 3 does not divide tp 4"),
    "more stages than layers": (("kv", "k25", "--pp", "62"), "more than the 61 layers"),
    "experts of none": (("memory", "llama-3.1-70b", "--tp", "8", "--ep", "8"), "ep needs routed experts"),
    "a layout that does not fit one of two": (
        ("memory", "k25", "llama-3.1-70b", "--gpu", "h200", "--tp", "8", "--ep", "8"),
        "Llama 3.1 70B: error: ep needs routed experts",
    ),
    "every GPU": (("memory", "k25", "--gpu", "all"), "hint: repeat it: --gpu h200 --gpu b200"),
    "an unknown GPU beside one": (("memory", "k25", "--gpu", "h200", "--gpu", "bb200"), "did you mean b200?"),
    "GPUs in one word": (("memory", "k25", "--gpu", "h200,b200"), 'no file and no bundled GPU is named "h200,b200"'),
    "GPUs of words": (("memory", "k25", "--gpus", "some"), '--gpus "some" is neither a whole number nor auto'),
    "an unknown engine": (("memory", "k25", "--engine", "vlm"), "did you mean vllm?"),
    "too much of a GPU": (("memory", "k25", "--gpu", "h200", "--utilization", "2"), "at most 1, not 2"),
    "a page of nothing": (("kv", "k25", "--block-size", "0"), "block_size must be at least 1"),
    "too many GPUs": (
        ("memory", "k25", "--batch", ",".join(map(str, range(1, 8))), "--gpu", "h200", "--gpu", "b200"),
        "14 lines of one picture: the limit `lines` is 12",
    ),
    "no plan": (("train", "kimi-k2"), "Missing option '--plan'"),
    "an unknown plan": (("train", "kimi-k2", "--plan", "k2"), "no file and no bundled plan"),
    "an unknown field": (("train", "kimi-k2", "--plan", "k2-pretrain", "--set", "a.b=1"), "--set names no field"),
    "a plan that does not fit one of two": (
        ("train", "k25", "llama-3.1-70b", "--plan", "k2-pretrain"),
        "Llama 3.1 70B: error: ep needs routed experts",
    ),
    "a plan that does not fit": (("train", "llama-3.1-70b", "--plan", "k2-pretrain"), "routed experts"),
    "a GPU for FLOPs": (("flops", "k25", "--gpu", "h200"), "No such option: --gpu"),
    "a cache dtype for FLOPs": (("flops", "k25", "--kv-dtype", "fp8"), "No such option: --kv-dtype"),
    "a plan for a cache": (("kv", "k25", "--plan", "k2-pretrain"), "No such option: --plan"),
    "lengths for ranks": (
        ("train", "k25", "--plan", "k2-pretrain", "--context", "4k..8k"),
        "No such option: --context",
    ),
    "a GPU beside a plan": (
        ("memory", "kimi-k2", "--plan", "k2-pretrain", "--gpu", "h200"),
        "does not look at --gpu\nhint: leave out --plan, or --gpu",
    ),
    "one device beside a plan": (("memory", "kimi-k2", "--plan", "k2-pretrain", "--tp", "1"), "does not look at --tp"),
    "defaults of serving beside a plan": (
        ("memory", "kimi-k2", "--plan", "k2-pretrain", "--eager", "--lora-rank", "0", "--engine", "vllm"),
        "does not look at --engine, --eager, --lora-rank\n",
    ),
    "overrides without a plan": (("memory", "k25", "--set", "a=1"), "--set overrides a field of a plan"),
    "options before the kind": (
        ("--context", "4k..8k", "kv", "k25"),
        "--context stands before the kind of plot\nhint: options stand after it, such as archcalc plot kv k25",
    ),
    "unknown units": (("kv", "k25", "--units", "miles"), "unknown units"),
    "an unknown format": (("kv", "k25", "--format", "pdf"), "unknown format"),
    "too many lines": (("kv", "k25", "--batch", ",".join(map(str, range(1, 14)))), "the limit `lines` is 12"),
}


@pytest.mark.parametrize(("arguments", "says"), REFUSED.values(), ids=REFUSED)
def test_what_can_not_be_drawn_is_refused(arguments: tuple[str, ...], says: str, tmp_path: Path) -> None:
    target = tmp_path / "x.svg"
    ran = run("plot", *arguments, "-o", str(target))
    assert (ran.code, ran.out) == (2, "")
    assert says in ran.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("target", ["missing/x.svg", "folder.png", "x.pdf", "x"])
def test_a_file_that_can_not_be_written_is_refused_and_nothing_is_left(target: str, tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    ran = run("plot", "kv", "k25", "-o", str(tmp_path / target))
    assert (ran.code, ran.out) == (2, "")
    assert "can't" in ran.err
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


def test_without_matplotlib_one_sentence_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "archcalc.render.plot", raising=False)
    ran = run("plot", "kv", "k25", "-o", str(tmp_path / "x.svg"), "-o", str(tmp_path / "x.csv"))
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == "error: a picture needs matplotlib: pip install 'archcalc[plot]'\n"
    assert not list(tmp_path.iterdir())
    assert run("plot", "kv", "k25").code == 0


def test_hostile_names_are_harmless_everywhere(tmp_path: Path) -> None:
    spec = tmp_path / "s.yaml"
    bad = '"<script>alert(1)</script> | `x` \\n\\e[31m =1+1"'
    spec.write_text(
        text("llama-3.1-70b")
        .replace("title: Llama 3.1 70B", f"title: {bad}")
        .replace("name: llama-3.1-70b", f"name: {bad}")
    )
    files = [tmp_path / f"x.{ending}" for ending in ("svg", "csv", "json", "md")]
    words = [word for file in files for word in ("-o", str(file))]
    ran = run("plot", "memory", str(spec), "k25", "--gpu", "h200", "--context", "64k..256k", *words, "-o", "-")
    assert ran.code == 0
    for shown in (ran.out, ran.err, *(file.read_text() for file in files)):
        assert "\x1b" not in shown
    for file in files[:1] + files[3:]:
        assert "<script" not in file.read_text()


@pytest.mark.parametrize("form", ["table", "svg"])
def test_a_cache_that_has_ended_is_a_flat_line(form: str, tmp_path: Path) -> None:
    # every layer slides over 16 tokens: the cache is the same from 16 tokens on
    content = copy.deepcopy(TINY)
    content["backbone"]["attention"]["gqa"]["sliding_window"] = 16
    path = written(tmp_path, content)
    out = ("-o", str(tmp_path / "flat.svg")) if form == "svg" else ()
    ran = run("plot", "kv", path, "--context", "16..64", *out)
    assert ran.code == 0, ran.err
    if form == "table":
        entry = 16 * 2 * 2 * 3 * 2 * 3  # tokens, keys and values, 2 heads of 3, bf16, 3 layers
        assert entry == 1152
        assert "KV cache: 1.13 KiB to 1.13 KiB" in ran.out
