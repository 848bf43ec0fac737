"""pytest in a fork of this process, which has the libraries and not archcalc: nothing that a mutant does stays."""

from __future__ import annotations

import importlib
import json
import os
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

LIBRARIES = ("pytest", "_pytest.python", "pydantic", "yaml", "typer", "rich", "hypothesis", "jsonschema", "torch")
MEMORY = 3 << 30
"""What one run of the tests may take [bytes]."""

BROKEN = 70
"""The exit status of a fork whose answer could not be found, which says nothing about a mutant."""


def warm() -> None:
    """Import what every run would import; an extra that isn't installed is left out, as its tests do."""
    for name in LIBRARIES:
        with suppress(ImportError):
            importlib.import_module(name)


def forked(tree: Path, answer: Callable[[], Any], *, seconds: float | None = None, write: bool = False) -> Any:
    """What `answer` gives in a fork with `tree` as its folder and first in its path; None if it was cut off.

    What it prints goes to the file that MUTANTS_TRACE names, if any. `seconds` is the processor time it may take, and
    a sixth of the time on the clock. `write` keeps bytecode.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _child(tree, answer, seconds, write, writer)
    os.close(writer)
    return _answered(pid, reader, None if seconds is None else time.monotonic() + 6 * seconds)


def _child(tree: Path, answer: Callable[[], Any], seconds: float | None, write: bool, writer: int) -> None:
    try:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.chdir(tree)
        said = os.open(os.environ.get("MUTANTS_TRACE", os.devnull), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        for stream, to in ((0, os.open(os.devnull, os.O_RDONLY)), (1, said), (2, said)):
            os.dup2(to, stream)
        sys.path.insert(0, str(tree))
        os.environ["PYTHONPATH"] = str(tree)
        sys.dont_write_bytecode = not write
        if not write:
            os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        if seconds is not None:
            resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 2))
            resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        with os.fdopen(writer, "w") as pipe:
            json.dump(answer(), pipe)
        os._exit(0)
    except MemoryError:
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(BROKEN)


def _answered(pid: int, reader: int, until: float | None) -> Any:
    """What the child wrote, once it has closed its end; it and its own children are ended where time is up, or we are.

    Read while it runs: what a pipe holds is less than an answer may be.
    """
    pieces: list[bytes] = []
    done = False
    try:
        while not done and (until is None or time.monotonic() < until):
            if select.select([reader], [], [], 1)[0]:
                pieces.append(os.read(reader, 1 << 20))
                done = not pieces[-1]
    finally:
        os.close(reader)
        status = os.waitpid(pid, 0)[1] if done else 0
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)  # it, or what a test has started and left
        status = status if done else os.waitpid(pid, 0)[1]
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == BROKEN:
        raise RuntimeError("a run of the tests broke; MUTANTS_TRACE=FILE says why")
    text = b"".join(pieces)
    return json.loads(text) if done and text else None
