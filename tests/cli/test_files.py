"""What a command leaves on the disk when it fails or is stopped: what was there before, and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support import ROOT, Ran, run, tiny, written


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_signal_ends_it_with_its_own_code_and_leaves_no_file(here: Path) -> None:
    """Each run has written one file and waits for somebody to read the other, a pipe. Under nohup, or behind a `&`, it
    would take over that signals are ignored."""
    ended = {signal.SIGINT: 130, signal.SIGTERM: -signal.SIGTERM, signal.SIGHUP: -signal.SIGHUP}
    started = {}
    for number in ended:
        folder = here / number.name
        folder.mkdir()
        (folder / "r.md").write_text("old")
        os.mkfifo(folder / "pipe.json")
        code = (
            "import signal as s, sys; from pathlib import Path; s.signal(s.SIGINT, s.default_int_handler);"
            " s.signal(s.SIGHUP, s.SIG_DFL); from archcalc.cli import app; from archcalc.cli.output import write_files;"
            " app._invoke = lambda _: write_files({Path('r.md'): b'new', Path('pipe.json'): b'new'}) or 0;"
            " sys.exit(app.run([]))"
        )
        command = [sys.executable, "-c", code]
        started[number] = subprocess.Popen(command, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)})
    for number, process in started.items():
        folder = here / number.name
        while process.poll() is None and not list(folder.glob(".archcalc-*.tmp")):
            time.sleep(0.02)
        time.sleep(0.1)  # until it waits for the pipe
        process.send_signal(number)
    for number, process in started.items():
        assert process.wait(30) == ended[number]
        assert sorted(path.name for path in (here / number.name).iterdir()) == ["pipe.json", "r.md"]
        assert (here / number.name / "r.md").read_text() == "old"


def test_a_report_whose_picture_or_disk_fails_stays_as_it_was(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("archcalc.proof.check.find_spec", lambda name: None)
    monkeypatch.setattr("archcalc.render.plot.picture", lambda figure, *_: f"<svg>{figure.title}</svg>".encode())
    spec = written(here, tiny(max_position_embeddings=8192))
    reports = here / "reports"
    assert run("report", spec, "--dir", "reports").code == 0
    before = {path.name: path.read_bytes() for path in reports.iterdir()}
    assert {path.suffix for path in reports.iterdir()} == {".md", ".json", ".svg"}
    written(here, tiny(max_position_embeddings=8192, hidden_size=16) | {"title": "Other"})
    replace, renames = os.replace, []

    def failing(*_: object) -> bytes:
        raise OSError(28, os.strerror(28))

    def full_at_the_third(source: str, target: str) -> None:
        renames.append(target)
        (failing if len(renames) == 3 else replace)(source, target)

    for broken, instead in (("archcalc.render.plot.picture", failing), ("os.replace", full_at_the_third)):
        with monkeypatch.context() as patched:
            patched.setattr(broken, instead)
            ran = run("report", spec, "--dir", "reports")
        assert (ran.code, "No space left on device" in ran.err) == (2, True)
        assert {path.name: path.read_bytes() for path in reports.iterdir()} == before
    assert run("report", spec, "--dir", "reports").code == 0
    assert all((reports / name).read_bytes() != old for name, old in before.items())


def test_several_outputs_are_written_together(here: Path) -> None:
    (here / "a.json").write_text("old")
    (here / "folder.md").mkdir()
    for command in (("specs",), ("plot", "kv", "k25", "--context", "4k..8k")):
        ran = run(*command, "-o", "a.json", "-o", "folder.md")
        assert (ran.code, ran.err) == (2, "error: can't write folder.md: Is a directory\n")
        assert (here / "a.json").read_text() == "old"


@pytest.mark.parametrize("command", ["specs", "show k25", "schema", "plot kv k25 --context 4k..8k"])
def test_links_in_a_circle_are_an_error_of_ours(command: str, here: Path) -> None:
    ending = "yaml" if command.startswith("show") else "json"
    (here / f"one.{ending}").symlink_to(f"two.{ending}")
    (here / f"two.{ending}").symlink_to(f"one.{ending}")
    ran = run(*command.split(), "-o", f"one.{ending}")
    assert ran == Ran(2, "", f"error: can't write one.{ending}: Too many levels of symbolic links\n")


@pytest.mark.parametrize("command", ["specs", "show k25", "schema"])
def test_a_name_of_255_bytes_works_and_one_more_is_an_error(command: str, here: Path) -> None:
    ending = ".yaml" if command.startswith("show") else ".json"
    name = "n" * (255 - len(ending)) + ending
    assert run(*command.split(), "-o", name).code == 0
    assert (here / name).is_file()
    ran = run(*command.split(), "-o", f"n{name}")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == f"error: can't write n{name}: File name too long\n"
