"""One case run in this process: in a folder of its own, on a clock of CPU time, with its memory watched."""

from __future__ import annotations

import io
import os
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from archcalc.cli import main
from tests.fuzz.case import LOOP, Case

MIB = 1 << 20
SLOW = ("crosscheck", "report")

BARE = 60 * MIB
"""What a process of archcalc takes before it does anything."""

GONE = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "TERM", "ARCHCALC_TRACEBACK", "_ARCHCALC_COMPLETE")
SET = {"HF_HUB_OFFLINE": "1", "LC_ALL": "C.UTF-8"}


@dataclass(frozen=True, slots=True)
class Limits:
    """What a command may take, and where it is stopped."""

    seconds: float
    peak: int

    @classmethod
    def of(cls, case: Case) -> Limits:
        """The limits of a command: CPU time, so that a busy machine changes nothing."""
        return cls(60, 1000 * MIB) if set(SLOW) & set(case.arguments[:1]) else cls(10, 500 * MIB)


class OverTime(BaseException):
    """Raised in a case that goes on for twice its time. No handler of archcalc's takes it for an error of its own."""


@dataclass(frozen=True, slots=True)
class Ran:
    """What a case did.

    Attributes:
        code: the exit code, -1 of a case that was stopped.
        seconds: CPU time [s].
        peak: the most memory of a process that does only this [bytes].
        before: the files of its folder before it.
        after: and after it.
    """

    case: Case
    code: int
    out: str
    err: str
    seconds: float
    peak: int
    before: dict[str, bytes]
    after: dict[str, bytes]


def run(case: Case, keep: Path | None = None) -> Ran:
    """Run a case in a new folder; `keep` is a folder to leave it in."""
    with tempfile.TemporaryDirectory(prefix="archcalc-fuzz-") as name:
        folder = Path(name)
        lay_out(case, folder)
        ran = _run(case, folder)
        if keep is not None:
            shutil.copytree(folder, keep, symlinks=True, dirs_exist_ok=True)
        return ran


def lay_out(case: Case, folder: Path) -> None:
    """Write the files of a case into a folder."""
    for path, raw in case.files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(raw)
    (folder / LOOP).symlink_to(LOOP)


def _run(case: Case, folder: Path) -> Ran:
    out, err = _Stream(), _Stream()
    env = {key: value for key, value in os.environ.items() if key not in GONE and not key.startswith("GITHUB_")}
    before, held = _files(folder), _memory("VmRSS")
    _forget_peak()
    peak, code, started = _memory("VmHWM"), -1, time.process_time()
    with (
        patch.dict(os.environ, {**env, **SET, **case.env}, clear=True),
        chdir(folder),
        patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO())),
        warnings.catch_warnings(),
        redirect_stdout(out),
        redirect_stderr(err),
        suppress(OverTime),
        _stopped_after(Limits.of(case).seconds * 2),
    ):
        warnings.simplefilter("error")
        code = main(list(case.arguments))
    seconds = time.process_time() - started
    risen = _memory("VmHWM")
    taken = risen - held if risen > peak or peak <= held else 0
    return Ran(case, code, out.text, err.text, seconds, BARE + taken, before, _files(folder))


class _Stream(io.TextIOWrapper):
    """Standard output or error as archcalc makes them of a file: what has no encoding is written as an escape."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), "utf-8", "backslashreplace", newline="")

    @property
    def text(self) -> str:
        """All that was written."""
        self.flush()
        raw: Any = self.buffer
        found: bytes = raw.getvalue()
        return found.decode()


@contextmanager
def _stopped_after(seconds: float) -> Iterator[None]:
    """Stop what takes more CPU time than this, or waits for so long that nothing will come."""

    def stop(*_: object) -> None:
        raise OverTime

    timers = ((signal.SIGPROF, signal.ITIMER_PROF, seconds), (signal.SIGALRM, signal.ITIMER_REAL, seconds * 20))
    former = [signal.signal(number, stop) for number, _, _ in timers]
    for _, timer, after in timers:
        signal.setitimer(timer, after)
    try:
        yield
    finally:
        for (number, timer, _), handler in zip(timers, former, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)


def _files(folder: Path) -> dict[str, bytes]:
    """The regular files of a folder and below it."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def _memory(name: str) -> int:
    """What Linux says of this process's memory [bytes]; elsewhere the most it ever took, which hides smaller peaks."""
    with suppress(OSError), open("/proc/self/status", "rb") as file:
        for line in file:
            if line.startswith(name.encode()):
                return int(line.split()[1]) << 10
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most << 10


def _forget_peak() -> None:
    """Let the peak start from what is held now (proc(5), clear_refs), where the system can."""
    with suppress(OSError), open("/proc/self/clear_refs", "wb") as file:
        file.write(b"5")
