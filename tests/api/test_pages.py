"""docs/python.md and docs/programs.md: every example is run, and prints what the page says."""

from __future__ import annotations

import doctest
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import archcalc
from tests.support import ROOT

PYTHON, PROGRAMS = ((ROOT / "docs" / f"{name}.md").read_text() for name in ("python", "programs"))
NEEDS = {"to_dataframe": "pandas", "plot.save": "matplotlib"}
"""What a block of the page needs that may be missing."""


def blocks(page: str, kind: str) -> list[str]:
    """The fenced blocks of a kind."""
    return re.findall(f"```{kind}\n(.*?)```", page, re.DOTALL)


def test_the_examples_of_the_notebook_page_give_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = blocks(PYTHON, "pycon")
    missing = {word for word, library in NEEDS.items() if find_spec(library) is None}
    kept = [block for block in found if not any(word in block for word in missing)]
    assert len(found) - len(kept) == len(missing)
    test = doctest.DocTestParser().get_doctest("\n".join(kept), {}, "docs/python.md", "docs/python.md", 0)
    said: list[str] = []
    result = doctest.DocTestRunner(verbose=False).run(test, out=said.append)
    assert result.attempted >= 20
    assert result.failed == 0, "".join(said)
    assert {path.name for path in tmp_path.iterdir()} >= {"serve.md"}


def test_the_notebook_page_lists_every_function() -> None:
    listed = re.findall(r"^\| `(\w+)\(", PYTHON, re.MULTILINE)
    functions = [name for name in archcalc.__all__ if name[0].islower()]
    assert sorted(listed) == functions


@pytest.fixture
def shell(tmp_path: Path) -> dict[str, str]:
    """An environment in which `archcalc` is this one, in a folder of its own."""
    script = tmp_path / "bin" / "archcalc"
    script.parent.mkdir()
    call = "import sys; from archcalc.cli import main; sys.exit(main())"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{call}" "$@"\n')
    script.chmod(0o755)
    clean = {name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "COLUMNS")}
    return clean | {"PATH": f"{script.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}


COMMANDS = [
    tuple(part.split("\n", 1))
    for block in blocks(PROGRAMS, "console")
    for part in re.split(r"^\$ ", block, flags=re.M)[1:]
]


@pytest.mark.parametrize(("line", "wanted"), COMMANDS)
def test_a_command_of_the_programs_page_prints_what_it_says(
    line: str, wanted: str, tmp_path: Path, shell: dict[str, str]
) -> None:
    if "jq" in line and shutil.which("jq") is None:
        pytest.skip("jq is not installed")
    done = subprocess.run(["sh", "-c", line], cwd=tmp_path, env=shell, capture_output=True, text=True, check=True)
    assert done.stdout == wanted


def test_the_program_of_the_page_prints_what_it_says(tmp_path: Path, shell: dict[str, str]) -> None:
    (program,), (wanted,) = blocks(PROGRAMS, "python"), blocks(PROGRAMS, "text")
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, env=shell, capture_output=True, text=True, check=True)
    assert done.stdout == wanted


def test_the_program_of_the_page_raises_where_there_is_no_answer(tmp_path: Path, shell: dict[str, str]) -> None:
    (program,) = blocks(PROGRAMS, "python")
    function = program.partition("\n\ndocument, passed")[0]
    command = [sys.executable, "-c", f'{function}\n\narchcalc("params", "k52")']
    done = subprocess.run(command, cwd=tmp_path, env=shell, capture_output=True, text=True, check=False)
    assert done.stderr.endswith(
        'RuntimeError: error: no file and no bundled spec is named "k52"\nhint: did you mean k25?\n'
    )
