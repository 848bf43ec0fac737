"""Output that a reader may leave: `archcalc validate bad.yaml 2>&1 | head -1` ends with the command's exit code."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO


class _Outlet(io.FileIO):
    """A file descriptor that drops what is written once nobody can have it any more.

    A pipe without a reader is no error: the command goes on to its verdict. Any other failure, such as a full disk, is
    raised once, so that it can be told; with `mute` never, for the stream that it would be told on.
    """

    def __init__(self, descriptor: int, *, mute: bool) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._mute, self._lost = mute, False

    def write(self, data: Any) -> int:
        if not self._lost:
            try:
                return super().write(data)
            except OSError as error:
                self._lost = True
                if not (self._mute or isinstance(error, BrokenPipeError)):
                    raise
        return memoryview(data).nbytes


def tell(text: str) -> None:
    """Tell people something on stderr. Nothing else is written there; the text is harmless already."""
    from archcalc.render.inert import inert

    print(inert(text), file=sys.stderr, flush=True)


@contextmanager
def lasting() -> Iterator[None]:
    """stdout and stderr that outlive their readers, and show an escape for what their encoding has not; afterwards they
    are what they were. Ours stay open: a library that logs to the one it met may keep it."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _lasting(sys.stdout, mute=False), _lasting(sys.stderr, mute=True)
    try:
        yield
    finally:
        ours = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = before
        for stream, former in zip(ours, before, strict=True):
            if stream is not former:
                stream.flush()


def _lasting(stream: TextIO | None, *, mute: bool) -> TextIO:
    """The stream over an outlet; one of no file, as in a notebook, as it is; for a closed one, any."""
    if stream is None:
        return io.StringIO()
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    try:
        outlet = _Outlet(stream.fileno(), mute=mute)
        stream.flush()
    except (OSError, ValueError):
        return stream
    lines = mute or stream.isatty()
    return io.TextIOWrapper(io.BufferedWriter(outlet), stream.encoding, "backslashreplace", line_buffering=lines)
