"""Files written together or not at all, whatever stops it.

All are written to temporary files in their targets' folders first; then each is renamed over its target. So a full
disk, a missing permission or a signal leaves everything as it was. What fails between two renames is taken back, and
signals wait until the last. A process that is killed outright (SIGKILL) or a machine that stops may do so between two:
each file is whole then, an old one or a new one, and a temporary one may be left.
"""

from __future__ import annotations

import os
import signal
import stat
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from errno import ELOOP
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from archcalc.errors import InputError

ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""Signals that end a process where nobody handles them; SIGINT raises KeyboardInterrupt."""

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_THERE = os.O_WRONLY | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


class _Staged(NamedTuple):
    """A file that is written and not yet where it belongs."""

    path: Path
    target: str
    temporary: str
    replaces: bool


def write_all(files: Mapping[Path, bytes]) -> None:
    """Write files, all of them or none. A link stays a link, a file that is replaced keeps its mode, and what is no
    regular file (/dev/null, a pipe) is written as it is.

    Raises:
        InputError: naming the first file that can't be written.
    """
    temporaries: list[str] = []
    with _swept(temporaries):
        staged, others = [], []
        for path, data in files.items():
            with _told(path):
                target = _target(path)
                mode = os.stat(target).st_mode if os.path.lexists(target) else None
                if mode is not None and not stat.S_ISREG(mode):
                    others.append((path, target, data))
                    continue
                staged.append(_Staged(path, target, _stage(target, data, mode, temporaries), mode is not None))
        for path, target, data in others:
            with _told(path), open(os.open(target, _THERE), "wb") as file:
                file.write(data)
        with _undisturbed():
            _rename(staged, temporaries)


def _target(path: Path) -> str:
    """Where a path leads. Raises OSError for links that lead in a circle."""
    target = os.path.realpath(path)
    if os.path.islink(target):
        raise OSError(ELOOP, os.strerror(ELOOP))
    return target


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Failures inside as an InputError about the path."""
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or "not a usable path"
        raise InputError(f"can't write {path}: {reason}", value=str(path)) from None


def _stage(target: str, data: bytes, mode: int | None, temporaries: list[str]) -> str:
    """A new file beside the target with the data, and with the mode of the file that it will replace. Nobody can know
    its name before, and it is shorter than many a target's."""
    name = _unused(target, temporaries)
    with open(os.open(name, _NEW, 0o666 if mode is None else 0o600), "wb") as file:
        file.write(data)
        if mode is not None:
            os.fchmod(file.fileno(), stat.S_IMODE(mode))
    return name


def _unused(target: str, temporaries: list[str]) -> str:
    """A name beside the target that nothing has, and that is swept away."""
    name = os.path.join(os.path.dirname(target), f".archcalc-{os.urandom(8).hex()}.tmp")
    temporaries.append(name)
    return name


def _rename(staged: list[_Staged], temporaries: list[str]) -> None:
    """Each file over its target; where one fails, those before it go back. Raises InputError."""
    done: list[tuple[str, str | None]] = []
    try:
        for file in staged:
            with _told(file.path):
                former = None
                if file.replaces and file is not staged[-1]:
                    former = _keep(file.target, temporaries)
                os.replace(file.temporary, file.target)
            done.append((file.target, former))
    except InputError:
        for target, former in reversed(done):
            with suppress(OSError):
                if former is None:
                    os.unlink(target)
                else:
                    os.replace(former, target)
        raise


def _keep(target: str, temporaries: list[str]) -> str:
    """A second name of a file that is to be replaced; a copy where the file system has no such."""
    former = _unused(target, temporaries)
    try:
        os.link(target, former)
    except OSError:
        with open(target, "rb") as file, open(os.open(former, _NEW, 0o600), "wb") as copy:
            copy.write(file.read())
            os.fchmod(copy.fileno(), stat.S_IMODE(os.fstat(file.fileno()).st_mode))
    return former


def _sweep(temporaries: Iterable[str]) -> None:
    for name in temporaries:
        with suppress(OSError):
            os.unlink(name)


@contextmanager
def _swept(temporaries: list[str]) -> Iterator[None]:
    """Leaves none of the files behind, nor does a signal: they go first, then the process ends by it as it would."""

    def leave(number: int, frame: FrameType | None) -> None:
        _sweep(temporaries)
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    ours = [number for number in ENDING if _in_main_thread() and signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, leave)
    try:
        yield
    finally:
        _sweep(temporaries)
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Signals come when it is over."""
    came: list[int] = []

    def later(number: int, frame: FrameType | None) -> None:
        came.append(number)

    numbers = [n for n in (signal.SIGINT, *ENDING) if signal.getsignal(n) not in (signal.SIG_IGN, None)]
    before = {number: signal.signal(number, later) for number in numbers if _in_main_thread()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)


def _in_main_thread() -> bool:
    """Only there may handlers be set."""
    return threading.current_thread() is threading.main_thread()
