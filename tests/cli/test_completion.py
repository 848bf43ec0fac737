"""What Tab offers, asked as the shells ask: through environment variables, of a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from archcalc.cli.app import COMMANDS, application
from archcalc.cli.completion import BUNDLED, VALUES
from archcalc.documents.ask import FILES
from archcalc.files.bundled import bundled_names
from archcalc.render import FORMATS
from tests.support import ROOT

SCRIPT = "from archcalc.cli.process import script; script()"


def asked(variables: dict[str, str], cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=cwd,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def offered(*words: str, cwd: Path = ROOT) -> list[str]:
    """What bash is offered for the last of the words, which may be empty."""
    variables = {"COMP_WORDS": "\n".join(["archcalc", *words]), "COMP_CWORD": str(len(words))}
    done = asked({"_ARCHCALC_COMPLETE": "complete_bash", **variables}, cwd)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["va"], ["validate"]),
        (["plot", ""], ["memory", "kv", "flops", "train"]),
        (["params", "k25", "--dep"], ["--depth"]),
        (["params", "k25", "--format", ""], list(FORMATS)),
        (["params", "k25", "--units", "g"], ["gib", "gb"]),
        (["flops", "k25", "--phase", "p"], ["prefill"]),
        (["params", "k2"], ["k25"]),
        (["plot", "kv", "k25", "mix"], ["mixtral-8x22b"]),
        (["diff", "k25", "qwen2"], ["qwen2-72b"]),
        (["train", "k25", "--plan", ""], bundled_names("plans")),
        (["plot", "train", "k25", "--plan", "k2-p"], ["k2-pretrain"]),
        (["serve", "k25", "--gpu", "h20"], ["h20", "h200"]),
        (["serve", "k25", "--gpu", "h200", "--engine", "v"], ["vllm", "vllm-0.8", "vllm-v0"]),
        (["serve", "k25", "--draft", "llama-3.1-8"], ["llama-3.1-8b"]),
        (["kv", "k25", "--kv-dtype", "fp8_"], ["fp8_ds_mla"]),
    ],
    ids=" ".join,
)
def test_bash_is_offered_what_can_stand_there(words: list[str], expected: list[str], tmp_path: Path) -> None:
    assert offered(*words, cwd=tmp_path) == expected


@pytest.mark.parametrize("words", [["plot", "nope", ""], ["params", "--nope", "x"], ["params", "a/b"]])
def test_a_line_that_is_wrong_is_offered_nothing_and_told_nothing(words: list[str]) -> None:
    assert offered(*words) == []


def test_files_that_may_be_specs_are_offered_beside_the_bundled_ones(tmp_path: Path) -> None:
    for name in ("k-mine.yaml", "k-config.json", "k-notes.txt", ".k.yaml"):
        (tmp_path / name).touch()
    assert offered("params", "k-", cwd=tmp_path) == ["k-config.json", "k-mine.yaml"]
    assert offered("params", "k2", cwd=tmp_path) == ["k25"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_file_whose_name_holds_a_command_is_not_offered(shell: str, tmp_path: Path) -> None:
    # Of typer's answer to zsh a shell makes words twice; "\\$(...)" in double quotes is a backslash and a command.
    for name in (r"zz\$(touch made).yaml", "zz`touch made`.yaml", "zz'; touch made; '.yaml", "zz\n.yaml", "zz.yaml"):
        (tmp_path / name).touch()
    words = {"COMP_WORDS": "archcalc params zz", "COMP_CWORD": "2", "_TYPER_COMPLETE_ARGS": "archcalc params zz"}
    shown = asked(
        {"_ARCHCALC_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_FISH_ACTION": "get-args", **words}, tmp_path
    )
    assert "touch" not in shown.stdout
    assert shown.stdout.count("zz") == 1


def test_zsh_and_fish_are_offered_the_same() -> None:
    line = {"_TYPER_COMPLETE_ARGS": "archcalc serve k25 --gpu h20"}
    assert '"h200"' in asked({"_ARCHCALC_COMPLETE": "complete_zsh", **line}).stdout
    fish = {"_ARCHCALC_COMPLETE": "complete_fish", **line}
    assert asked({**fish, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}).stdout.split() == ["h20", "h200"]
    assert asked({**fish, "_TYPER_COMPLETE_FISH_ACTION": "is-args"}).returncode == 0
    none = {**fish, "_TYPER_COMPLETE_ARGS": "archcalc params zzz"}  # then fish offers files
    assert asked({**none, "_TYPER_COMPLETE_FISH_ACTION": "is-args"}).returncode == 1


def test_the_script_for_bash_completes_in_bash(tmp_path: Path) -> None:
    bash = shutil.which("bash")
    assert bash
    command = tmp_path / "archcalc"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{SCRIPT}" "$@"\n')
    command.chmod(0o755)
    text = (
        "source <(archcalc --show-completion bash); complete -p archcalc;"
        " COMP_WORDS=(archcalc train k25 --plan k2); COMP_CWORD=4; _archcalc_completion archcalc;"
        ' echo "${COMPREPLY[@]}"'
    )
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    env = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([bash, "-c", text], env=env, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["complete -o default -F _archcalc_completion archcalc", "k2-pretrain"]


def test_every_value_belongs_to_a_parameter_of_some_command() -> None:
    """A key that no command has any more would be dead."""
    known: set[str] = set()
    pending = [typer.main.get_command(application(list(COMMANDS)))]
    while pending:
        command = pending.pop()
        for parameter in command.params:
            known |= {*parameter.opts, getattr(parameter, "metavar", None) or ""}
        pending += getattr(command, "commands", {}).values()
    assert set(VALUES) <= known
    assert {f"--{flag}": folder for flag, folder in FILES.items()}.items() <= BUNDLED.items()


def test_a_command_is_not_slowed_by_completion() -> None:
    code = "import sys; from archcalc.cli import main; main(['specs']); print('archcalc.cli.completion' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
