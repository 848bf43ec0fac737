"""Help, usage errors, start-up."""

from __future__ import annotations

import subprocess
import sys

import pytest

from archcalc.cli.app import COMMANDS
from tests.support import ROOT, run


def test_help_lists_every_command_with_its_first_sentence() -> None:
    ran = run("--help")
    assert ran.code == 0
    listed = [line.split()[0] for line in ran.out.partition("Commands:")[2].splitlines() if line.strip()]
    assert [name for name in listed if name in COMMANDS] == list(COMMANDS)


def test_no_arguments_at_all_print_the_help() -> None:
    assert run().out == run("--help").out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_a_summary_and_described_flags(name: str) -> None:
    ran = run(name, "--help")
    assert (ran.code, ran.err) == (0, "")
    summary = ran.out.split("\n\n")[1].strip()
    assert summary.endswith((".", "?")), summary
    assert "int range" not in ran.out  # a metavar says it better


def test_version() -> None:
    ran = run("--version")
    assert ran.code == 0
    assert ran.out.startswith("archcalc ")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["param", "k25"], "did you mean params?"),
        (["zzz"], "No such command 'zzz'"),
        ([""], "No such command"),
        (["params"], "Missing argument 'SPEC'"),
        (["params", "k25", "extra"], "unexpected extra argument"),
        (["params", "k25", "--dpeth", "1"], "--depth"),
        (["params", "k25", "--depth", "0"], "--depth"),
        (["params", "k25", "--depth", "-1"], "--depth"),
        (["params", "k25", "--depth", "x"], "--depth"),
        (["params", "k25", "--depth"], "--depth"),
        (["params", "k25", "--top", "1e9"], "--top"),
        (["params", "k25", "--depth", "9" * 5000], "--depth"),
        (["params", "--", "--help"], '"--help"'),
        (["--format", "json", "params", "k25"], "No such option"),
        (["validate"], "Missing argument"),
        (["schema", "nope"], "no file kind is named"),
        (["\x1b[31m"], "\\x1b[31m"),
        (["params", "\x1b[31m"], "\\x1b[31m"),
        (["params", "k25", "--\x1b[31m"], "\\x1b[31m"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_nonsense_is_one_error_on_stderr_and_exit_2(arguments: list[str], says: str) -> None:
    ran = run(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert says in ran.err
    assert ran.err.startswith("error: ")
    assert "Traceback" not in ran.err
    assert ran.err.replace("\n", "").isprintable()


def test_params_in_a_pipe_loads_neither_drawing_nor_arithmetic_libraries() -> None:
    code = (
        "import io, sys; from archcalc.cli import main; out, sys.stdout = sys.stdout, io.StringIO();"
        "code = main(['params', 'k25']); print(code, *sorted(m for m in sys.modules), file=out)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    exit_code, *loaded = done.stdout.split()
    assert exit_code == "0"
    assert "archcalc.documents.params" in loaded
    absent = {"torch", "matplotlib", "numpy", "transformers", "rich", "archcalc.documents.claims"}
    assert absent & set(loaded) == set()
