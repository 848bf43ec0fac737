"""Files are written together or not at all, by names that nobody can know, and nothing is left behind."""

from __future__ import annotations

import os
import resource
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from archcalc.errors import InputError
from archcalc.render.atomic import write_all


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    """Two files that are there and one that is not."""
    paths = [tmp_path / name for name in ("a.md", "b.json", "c.svg")]
    for path in paths[:2]:
        path.write_text("old")
    return paths


def said(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


OLD = {"a.md": "old", "b.json": "old"}


@contextmanager
def full_after(size: int) -> Iterator[None]:
    """A disk that takes files of so many bytes; Python ignores SIGXFSZ, so that a write fails instead."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_all_are_written(three: list[Path]) -> None:
    write_all(dict.fromkeys(three, b"new"))
    assert said(three[0].parent) == dict.fromkeys(("a.md", "b.json", "c.svg"), "new")


def test_a_disk_that_is_full_leaves_all_as_it_was(three: list[Path]) -> None:
    with full_after(100), pytest.raises(InputError, match=r"can't write .*c.svg: File too large"):
        write_all({three[0]: b"new", three[1]: b"new", three[2]: b"x" * 101})
    assert said(three[0].parent) == OLD


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_what_fails_between_two_renames_is_taken_back(
    nth: int, links: bool, three: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, calls = os.replace, []

    def failing(source: str, target: str) -> None:
        calls.append(target)
        if len(calls) == nth:
            raise OSError(28, os.strerror(28))
        replace(source, target)

    def no_link(*_: Any) -> None:
        raise OSError(1, "this file system has none")

    monkeypatch.setattr(os, "replace", failing)
    if not links:
        monkeypatch.setattr(os, "link", no_link)
    three[0].chmod(0o604)
    three.insert(0, three.pop())  # the new one first
    with pytest.raises(InputError, match=f"can't write {three[nth - 1]}: No space left on device"):
        write_all(dict.fromkeys(three, b"new"))
    assert said(three[0].parent) == OLD
    assert stat.S_IMODE(three[1].stat().st_mode) == 0o604


def test_a_link_under_the_name_of_a_temporary_file_is_not_followed(
    three: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = three[0].parent
    (folder / "precious").write_text("kept")
    monkeypatch.setattr(os, "urandom", bytes)  # the name could be known
    (folder / f".archcalc-{'00' * 8}.tmp").symlink_to("precious")
    with pytest.raises(InputError, match="File exists"):
        write_all({three[0]: b"new"})
    assert (folder / "precious").read_text() == "kept"
    assert three[0].read_text() == "old"


def test_no_two_temporary_files_have_the_same_name(three: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    opened = os.open

    def watched(path: str, flags: int, mode: int = 0o777) -> int:
        names.append(os.path.basename(path))
        assert flags & os.O_EXCL
        assert flags & os.O_NOFOLLOW
        return opened(path, flags, mode)

    monkeypatch.setattr(os, "open", watched)
    for _ in range(2):
        write_all({three[0]: b"new"})
    assert len(set(names)) == 2
    assert not any("a.md" in name or str(os.getpid()) in name for name in names)


def test_a_name_may_have_255_bytes(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 252 + ".md")
    write_all({path: b"new"})
    assert path.read_text() == "new"
    with pytest.raises(InputError, match="File name too long"):
        write_all({tmp_path / ("n" * 253 + ".md"): b"new"})


def test_a_new_file_gets_the_mode_that_the_umask_leaves(three: list[Path]) -> None:
    before = os.umask(0o027)
    try:
        write_all({three[2]: b"new"})
    finally:
        os.umask(before)
    assert stat.S_IMODE(three[2].stat().st_mode) == 0o640


def test_links_are_written_through_and_circles_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("real")
    write_all({tmp_path / "link": b"new"})  # to nothing yet
    assert (tmp_path / "real").read_text() == "new"
    assert (tmp_path / "link").is_symlink()
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    for path in (tmp_path / "one", tmp_path / "one" / "r.md", tmp_path / "a\0b"):
        with pytest.raises(InputError, match="can't write"):
            write_all({path: b"new"})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_last_rename(
    number: signal.Signals, three: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def disturbed(source: str, target: str) -> None:
        signal.raise_signal(number)
        replace(source, target)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", disturbed)
    former = signal.signal(number, stop)
    try:
        with pytest.raises(KeyboardInterrupt):
            write_all(dict.fromkeys(three, b"new"))
        assert signal.getsignal(number) is stop
    finally:
        signal.signal(number, former)
    assert said(three[0].parent) == dict.fromkeys(("a.md", "b.json", "c.svg"), "new")
