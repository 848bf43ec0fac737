"""Nothing that a file, a folder or a flag is called makes a CI runner obey: whatever archcalc prints for people has no
line that GitHub's runner takes for a command.

The runner looks for `::name` behind blanks, and for `##[name` anywhere in a line (actions/runner,
src/Runner.Common/ActionCommand.cs, TryParseV2 and TryParse).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from archcalc.cli import main
from archcalc.cli.app import COMMANDS as NAMES
from archcalc.cli.options import FORMATS
from archcalc.render.inert import inert
from tests.support import ROOT, TINY, dumped, run, terminal, text, tiny

EVIL = "::add-mask::1 ##[add-mask]2"
OURS = re.compile(r"::(error|warning|notice) (file=[^:]*,)?(line=\d+,)?title=[^:]*::")
"""An annotation of `--format github`."""

GRID = ("table", "csv", "markdown", "github")
MODEL = "::model.yaml"
CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 32,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "_name_or_path": EVIL,
    "torch_dtype": "bfloat16",
}
GQA = TINY["backbone"]["attention"]["gqa"] | {"head_dim": 4}
SERVED = ("--gpu", "::gpu.yaml", "--engine", "::engine.yaml", "--tp", "1")

LAYOUT = {
    "parallel": "{world: 1, pp: 1, vpp: 1, layout: auto, ep: 1, etp: 1, tp: 1, sp: false, cp: 1, zero: 0}",
    "schedule": "{kind: 1f1b}",
    "batch": "{seq: 64, micro_batch: 1, global_tokens: 64}",
}
"""Of a plan that the tiny model runs under."""

REPORTS: dict[str, list[tuple[str, ...]]] = {
    "card": [(MODEL,)],
    "params": [(MODEL,), (MODEL, "--by", "role")],
    "claims": [(MODEL,)],
    "flops": [(MODEL, "--seq", "64")],
    "kv": [(MODEL, "--context", "64")],
    "weights": [(MODEL,)],
    "train": [(MODEL, "--plan", "::plan.yaml")],
    "serve": [(MODEL, *SERVED, "--log", "::log")],
    "plot": [
        ("kv", MODEL, "--context", "32..64"),
        ("flops", MODEL, "--context", "32..64"),
        ("train", MODEL, "--plan", "::plan.yaml"),
        ("memory", MODEL, "--gpu", "::gpu.yaml", "--context", "32..64"),
    ],
    "diff": [
        (MODEL, "::other.yaml"),
        ("::saved.json", "::other.yaml"),
        (MODEL, "::other.yaml", "--plan", "::plan.yaml"),
    ],
    "check": [("::budgets.yaml",)],
    "import": [("::config.json", "--explain")],
}
"""Commands that print a report, and what they are asked."""

OTHERS: list[tuple[str, ...]] = [
    ("validate", MODEL, "::plan.yaml", "::gpu.yaml", "::bad.yaml", "::nowhere.yaml", "::budgets.yaml"),
    ("params", "::bad.yaml"),
    ("params", "::nowhere.yaml"),
    ("params", "::folder"),
    ("params", MODEL, "--explain", EVIL),
    ("params", MODEL, "--by", EVIL),
    ("params", MODEL, "--format", EVIL),
    ("params", MODEL, "-o", "::out.md"),
    ("params", MODEL, "-o", "::nowhere/out.md"),
    ("train", MODEL, "--plan", "::plan.yaml", "--set", f"{EVIL}=1"),
    ("train", MODEL, "--plan", "::plan.yaml", "--set", f"batch={EVIL}"),
    ("plot", "kv", MODEL, "--context", "32..64", "-o", "::out.svg"),
    ("report", MODEL, "--dir", "::reports", "--seq", "64"),
    ("report", MODEL, "--dir", "::reports", "--check", "--seq", "32"),
    ("crosscheck", MODEL),
    ("schema", EVIL),
    ("specs", "--kind", EVIL),
    ("show", EVIL),
    ("import", "::folder"),
    ("import", "::config.json"),
    (EVIL,),
    (EVIL, "k25"),
    ("params", f"--{EVIL}"),
]
"""Command lines that say something else: errors, verdicts, what was written."""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which everything is called like a command, and every text is one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    claim = {"claim": EVIL, "quantity": "params.total", "value": "1", "source": EVIL}
    evil = {"name": EVIL, "title": EVIL, "sources": {EVIL: EVIL}, "assumed": [EVIL, f"{EVIL}2"]}
    spec = {**tiny(attention={"gqa": GQA}), **evil, "claims": [claim]}
    hardware = text("hardware/h200").replace("title:", f'title: "{EVIL}"\n#', 1)
    plan = text("plans/k2-pretrain").replace("title:", f'title: "{EVIL}"\n#', 1).replace("h800", '"::gpu.yaml"', 1)
    for section, said in LAYOUT.items():
        plan = re.sub(rf"(?m)^{section}:(\n .*)*", f"{section}: {said}", plan)
    budget = {"spec": MODEL, "quantity": "params.total", "max": 1, "message": EVIL}
    files = {
        MODEL: dumped(spec),
        "::other.yaml": dumped({**spec, "title": f"{EVIL}3", "backbone": spec["backbone"] | {"vocab_size": 64}}),
        "::bad.yaml": dumped({**spec, EVIL: EVIL, "kind": EVIL}),
        "::plan.yaml": plan,
        "::gpu.yaml": hardware,
        "::engine.yaml": text("engines/vllm").replace("title:", f'title: "{EVIL}"\n#', 1),
        "::log": f"{EVIL}\nModel loading took 0.01 GiB memory and 1 seconds\nGPU KV cache size: 708,992 tokens\n",
        "::budgets.yaml": dumped({"budgets": [budget]}),
        "::config.json": json.dumps(CONFIG | {EVIL: EVIL}),
    }
    for name, content in files.items():
        Path(name).write_text(content)
    Path("::folder").mkdir()
    assert run("params", MODEL, "-o", "::saved.json").code == 0
    return tmp_path


def obeyed(output: str, *, ours: bool = False) -> list[str]:
    """The lines that a runner would obey, but for annotations of our own."""
    lines = [line for line in output.splitlines() if line.lstrip().startswith("::") or "##[" in line]
    return [line for line in lines if not (ours and OURS.match(line))]


def test_a_command_at_the_start_of_a_line_is_shown_with_an_escape() -> None:
    assert inert("a ::b\n  ::add-mask::1\n\x1b[1m::c::\n") == "a ::b\n  \\x3a:add-mask::1\n\x1b[1m\\x3a:c::\n"
    assert inert("title: ##[group]x") == "title: \\x23#[group]x"
    assert inert("\u00a0\ufe0f::x") == "\u00a0\ufe0f\\x3a:x"  # blanks, and what a comparison of words skips
    assert inert("## [a](b): c::d") == "## [a](b): c::d"


def test_every_command_is_asked_here() -> None:
    assert {*REPORTS, *(words[0] for words in OTHERS)} >= {*NAMES}
    assert {*GRID, "json"} == {*FORMATS}


@pytest.mark.parametrize("command", REPORTS)
def test_no_format_for_people_has_a_line_that_is_obeyed(command: str, here: Path) -> None:
    for words in REPORTS[command]:
        for form in GRID:
            ran = run(command, *words, "--format", form)
            assert ran.code in (0, 1), ran.err
            assert ran.out, ran.err
            assert obeyed(ran.out, ours=form == "github") == []
            assert obeyed(ran.err) == []


def test_no_error_and_no_verdict_is_obeyed(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("archcalc.proof.check.find_spec", lambda name: None)  # torch, which takes seconds
    for words in OTHERS:
        ran = run(*words)
        assert ran.out + ran.err, words
        assert obeyed(ran.out + ran.err) == [], words
    pages = [path.read_text() for path in here.rglob("*.md")]
    assert len(pages) == 2  # one of `-o`, one of `report`
    assert [obeyed(page) for page in pages] == [[], []]


def test_a_terminal_in_colour_gets_none_either(here: Path) -> None:
    for words in (("params", MODEL), ("plot", "kv", MODEL, "--context", "32..64")):
        with terminal(60) as screen:
            main([*words])
        plain = re.sub(r"\x1b\[[0-9;]*m", "", screen.getvalue())
        assert EVIL[2:10] in plain
        assert obeyed(plain) == []


def test_json_has_every_text_as_it_is(here: Path) -> None:
    said = json.loads(run("params", MODEL, "--format", "json").out)
    assert said["title"].startswith(EVIL)
    assert said["inputs"]["spec"] == EVIL


def test_whatever_goes_to_stderr_is_told_in_one_place() -> None:
    """`tell` makes it inert; a print to stderr beside it would not."""
    for path in sorted((ROOT / "archcalc").rglob("*.py")):
        if path.relative_to(ROOT / "archcalc") != Path("cli/streams.py"):
            assert "sys.stderr" not in path.read_text(), path
