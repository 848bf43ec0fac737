"""Numbers that no size has are refused where they come in: no answer is made of them, and JSON has no Infinity."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from archcalc.render.json import dumped
from tests.support import run, tiny, written

ODD = ("0", "nan", "5e-324", "1e308", "1e999", "9" * 64)
"""Nothing, no number, the smallest and nearly the largest float, past it, as many digits as are read."""

FLAGS = {
    "flops --phase train": ("--tokens", "--seq", "--batch", "--lengths"),
    "kv": ("--context", "--memory"),
    "serve --gpu h200": ("--utilization", "--price=h200"),
    "diff s.yaml": ("--fail-on=params.total:", "--fail-on=moe.activation_ratio:+"),
}


def answers(*words: str) -> None:
    """An answer of finite numbers, or an error of ours."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{words}: {name}")

    ran = run(*words, "--format", "json")
    assert ran.code in (0, 1, 2), (words, ran.err[:300])
    assert bool(ran.out) == (ran.code != 2)
    if ran.out:
        json.loads(ran.out, parse_constant=refuse)


@pytest.mark.parametrize("command", FLAGS)
def test_no_number_of_a_flag_is_a_bug_of_ours(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, tiny())
    first, *rest = command.split()
    for flag in FLAGS[command]:
        for number in ODD:
            name, equals, start = flag.partition("=")
            value = f"{start}{'=' if start and not start.endswith((':', '+')) else ''}{number}"
            answers(first, *rest, "s.yaml", f"{name}={value}" if equals else f"{name}={number}")


def test_a_run_of_no_tokens_is_refused() -> None:
    ran = run("flops", "k25", "--phase", "train", "--tokens", "0")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == "error: a run has at least 1 token, not 0\nhint: write --tokens 15.5T\n"


@pytest.mark.parametrize("value", [1e308, 5e-324, 0.5, -1, 10**64])
def test_a_saved_report_was_not_asked_with_such_a_number(
    value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = written(tmp_path, tiny())
    for command, names in {"flops": ("batch", "seq"), "kv": ("batch", "context"), "serve": ("lora_rank",)}.items():
        flags = ("--gpu", "h200", "--context", "64") if command == "serve" else ()
        saved: dict[str, Any] = json.loads(run(command, spec, *flags, "--format", "json").out)
        for name in names:
            Path("saved.json").write_text(json.dumps(saved | {"inputs": saved["inputs"] | {name: value}}))
            for sides in (("saved.json", spec), (spec, "saved.json")):
                ran = run("diff", *sides, "--format", "json")
                assert (ran.code, ran.out) == (2, ""), (command, name)
                assert "can't be used again" in ran.err


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_a_document_never_holds_what_is_no_number_of_json(value: float) -> None:
    with pytest.raises(ValueError, match="Out of range float values"):
        dumped({"quantities": {"params.total": value}})
