"""Where results go: stdout, files, pipes, terminals."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from archcalc.cli import main
from tests.support import ROOT, run, terminal, text


def archcalc(command: str, **env: str) -> subprocess.CompletedProcess[str]:
    """A shell line in which `archcalc` is this checkout's."""
    ours = f"{sys.executable} -c 'import sys; from archcalc.cli import main; sys.exit(main())'"
    return subprocess.run(
        ["bash", "-c", command.replace("archcalc", ours)],
        cwd=ROOT,
        env=os.environ | env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_files_get_the_format_of_their_ending_and_stdout_stays_empty(tmp_path: Path) -> None:
    files = [tmp_path / f"r.{ending}" for ending in ("json", "csv", "md", "txt", "JSON")]
    ran = run("params", "k25", *(word for file in files for word in ("-o", str(file))))
    assert (ran.code, ran.out) == (0, "")
    assert ran.err.splitlines() == [f"wrote {file}" for file in files]
    by_format = [run("params", "k25", "--format", name).out for name in ("json", "csv", "markdown", "table", "json")]
    assert [file.read_text() for file in files] == by_format


def test_a_named_format_goes_before_the_ending(tmp_path: Path) -> None:
    file = tmp_path / "report.out"
    assert run("params", "k25", "--format", "json", "-o", str(file)).code == 0
    assert json.loads(file.read_text())["command"] == "params"


def test_a_dash_is_stdout_beside_files(tmp_path: Path) -> None:
    ran = run("params", "k25", "-o", str(tmp_path / "r.json"), "-o", "-")
    assert ran.out == run("params", "k25").out
    assert (tmp_path / "r.json").exists()


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("r.xyz", "can't tell the format of r.xyz from its ending"),
        ("r", "can't tell the format of r"),
        ("", "can't tell the format of ."),
        ("missing/r.json", "No such file or directory"),
        ("folder.json", "Is a directory"),
    ],
)
def test_a_file_that_cant_be_written_is_an_error_and_leaves_nothing(tmp_path: Path, target: str, says: str) -> None:
    (tmp_path / "folder.json").mkdir()
    before = sorted(tmp_path.rglob("*"))
    ran = run("params", "k25", "-o", str(tmp_path / target) if target else "")
    assert (ran.code, ran.out) == (2, "")
    assert says in ran.err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_format_or_file_that_fails_keeps_the_others_from_being_written(tmp_path: Path) -> None:
    ran = run("params", "k25", "-o", str(tmp_path / "r.json"), "-o", str(tmp_path / "r.xyz"))
    assert ran.code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_file_keeps_its_mode_and_a_link_stays_a_link(tmp_path: Path) -> None:
    real, link = tmp_path / "real.json", tmp_path / "link.json"
    real.write_text("old")
    real.chmod(0o640)
    link.symlink_to(real)
    assert run("params", "k25", "-o", str(link)).code == 0
    assert link.is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert json.loads(real.read_text())["tool"] == "archcalc"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["link.json", "real.json"]


def test_what_is_no_regular_file_is_written_not_replaced(tmp_path: Path) -> None:
    # a pipe of our own: a test that named a device would destroy it for everybody if the code were wrong
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert run("specs", "--format", "json", "-o", str(pipe)).code == 0
        assert stat.S_ISFIFO(pipe.stat().st_mode)
        assert json.loads(os.read(reader, 1 << 16))["command"] == "specs"
    finally:
        os.close(reader)


def test_unknown_units_are_an_error() -> None:
    ran = run("params", "k25", "--units", "gi")
    assert (ran.code, ran.err) == (2, 'error: unknown units "gi"\nhint: use gib, gb or bytes\n')


@pytest.mark.parametrize("command", ["params k25", "claims k25", "show k25", "schema", "specs"])
def test_a_reader_that_stops_early_ends_it_quietly(command: str) -> None:
    done = archcalc(f"set -o pipefail; archcalc {command} | head -1")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1


def test_a_full_disk_is_one_error() -> None:
    for command in ("params k25", "show k25"):
        done = archcalc(f"archcalc {command} > /dev/full")
        assert done.returncode == 2
        assert done.stderr == "error: No space left on device\n"


def test_an_encoding_without_our_signs_shows_escapes() -> None:
    done = archcalc("archcalc params k25 --explain proj.2", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "text_hidden_size\\xb7(merge_kernel_size" in done.stdout


def test_a_pipe_gets_no_colour_and_no_width_limit() -> None:
    ran = run("claims", "k25", env={"COLUMNS": "40"})
    assert "\x1b" not in ran.out
    assert max(map(len, ran.out.splitlines())) > 200


@pytest.mark.parametrize(
    ("env", "colored"),
    [
        ({}, True),
        ({"NO_COLOR": "1"}, False),
        ({"FORCE_COLOR": "1"}, True),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
    ],
    ids=str,
)
def test_colour_on_a_terminal(env: dict[str, str], colored: bool) -> None:
    with terminal(80, **env) as screen:
        assert main(["params", "k25"]) == 0
    assert ("\x1b[" in screen.getvalue()) is colored


def test_forced_colour_in_a_pipe_has_no_width_limit() -> None:
    ran = run("claims", "k25", env={"FORCE_COLOR": "1", "COLUMNS": "40"})
    assert "\x1b[31mrefuted" in ran.out
    assert max(map(len, ran.out.splitlines())) > 200


def test_other_formats_on_a_terminal_stay_plain() -> None:
    with terminal(60) as screen:
        assert main(["params", "k25", "--format", "csv"]) == 0
    assert screen.getvalue() == run("params", "k25", "--format", "csv").out


def test_show_prints_the_very_text_of_a_spec_but_for_the_path_of_its_schema() -> None:
    first, _, rest = text("k25").partition("\n")
    assert first.startswith("# yaml-language-server: $schema=../")
    assert run("show", "k25").out == rest


def test_show_escapes_on_a_terminal_what_a_terminal_would_obey(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(text("k25").replace("kind: spec", "kind: spec  # \u202e\ttab"))
    with terminal(80) as screen:
        assert main(["show", str(file)]) == 0
    assert "kind: spec  # \\u202e\ttab\n" in screen.getvalue()
    assert run("show", str(file)).out == file.read_text()
