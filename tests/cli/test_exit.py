"""The exit code, whoever closes stdout or stderr, and what a run leaves behind in a process that goes on."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from archcalc.cli import main
from tests.support import ROOT

MANY = 12
"""Runs into a pipe that closes: who is first, the reader or the writer, is up to the scheduler."""


@pytest.fixture
def invalid(tmp_path: Path) -> Path:
    file = tmp_path / "bad.yaml"
    file.write_text("kind: spec\nname: x\ntitle: 3\nbackbone: 1\n")
    return file


def code(line: str) -> tuple[int, str]:
    """The exit code of the first command of a shell's pipe, and what came to a stderr that is not redirected."""
    ours = f"{sys.executable} -c 'from archcalc.cli.process import script; script()'"
    text = f"{line.replace('archcalc', ours, 1)}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", text], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr


def test_a_check_that_fails_fails_whenever_its_reader_leaves(invalid: Path) -> None:
    codes = {code(f"archcalc validate {invalid} 2>&1 | head -1")[0] for _ in range(MANY)}
    assert codes == {1}


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("claims k25 --strict", 1),
        ("claims k25 --strict --format json", 1),  # longer than a pipe holds
        ("params nope", 2),
        ("--nope", 2),
        ("params k25", 0),
        ("--help", 0),
        ("show k25", 0),
    ],
)
@pytest.mark.parametrize("leaving", ["| true", "2>&1 | true", "2>&1 | head -1", ">&-", "2>&-", ">&- 2>&-"])
def test_a_closed_stream_changes_no_exit_code(command: str, expected: int, leaving: str) -> None:
    found, told = code(f"archcalc {command} {leaving}")
    assert found == expected
    assert "Traceback" not in told
    assert "Exception ignored" not in told


@pytest.mark.parametrize(("command", "expected"), [("params k25", 0), ("params nope", 2), ("claims k25 --strict", 1)])
def test_a_full_stderr_changes_no_exit_code(command: str, expected: int) -> None:
    assert code(f"archcalc {command} 2>/dev/full")[0] == expected


def test_a_full_stdout_is_2_and_told_and_does_not_hide_a_verdict(invalid: Path) -> None:
    assert code("archcalc params k25 >/dev/full") == (2, "error: No space left on device\n")
    found, told = code(f"archcalc validate k25 {invalid} >/dev/full")
    assert found == 1
    assert told.endswith("error: No space left on device\n")
    assert "Traceback" not in told


@pytest.mark.parametrize("line", ["--help | head -1", "validate {} | true", ">/dev/full params k25"])
def test_the_module_ends_as_the_command_does(line: str, invalid: Path) -> None:
    """`python -m archcalc` ends the way of any Python program, which writes out what is left and may fail there."""
    text = f"{sys.executable} -m archcalc {line.format(invalid)}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", text], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == {"-": 0, "v": 1, ">": 2}[line[0]]
    assert "Exception ignored" not in done.stderr


def test_the_module_calls_itself_archcalc() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "archcalc", "params", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert done.stdout.lstrip().startswith("Usage: archcalc params ")


def test_a_run_leaves_the_process_as_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr, sys.stdout.errors, warnings.showwarning, dict(os.environ), gc.get_threshold()
    for arguments, expected in (
        (["params", "k25"], 0),
        (["params", "nope"], 2),
        (["--nope"], 2),
        (["claims", "--help"], 0),
    ):
        assert main(arguments) == expected
    after = sys.stdout, sys.stderr, sys.stdout.errors, warnings.showwarning, dict(os.environ), gc.get_threshold()
    assert after == before
    print("and writes on")
    assert capfd.readouterr().out.endswith("and writes on\n")
