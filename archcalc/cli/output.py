"""From a Report to stdout or files."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from archcalc.errors import InputError
from archcalc.render import ENDINGS, renderer
from archcalc.report.document import Report


def emit(report: Report, format_name: str | None, outputs: list[Path] | None, units: str) -> None:
    """Print a report, or write it to files.

    Raises:
        InputError: unknown format, units or file ending, or a file that can't be written.
    """
    if units not in ("gib", "gb", "bytes"):
        raise InputError(f"unknown units {units}", value=units, hint="use gib, gb or bytes")
    names = [format_name or _from_ending(path) for path in outputs or []]
    texts = [renderer(name)(report, units) for name in names]
    if not outputs:
        sys.stdout.write(_on_screen(report, format_name or "table", units))
        sys.stdout.flush()
    for path, text in zip(outputs or [], texts, strict=True):
        write_file(path, text.encode())


def write_file(path: Path, data: bytes) -> None:
    """Write to a temporary file beside `path`, then rename: never half a file. Raises InputError where it can't."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True) if temporary.parent.is_dir() else None
        raise InputError(f"can't write {path}: {error.strerror}", source=None, value=str(path)) from None
    print(f"wrote {path}", file=sys.stderr)


def _from_ending(path: Path) -> str:
    ending = path.suffix.removeprefix(".").lower()
    if ending not in ENDINGS:
        raise InputError(
            f"can't tell the format of {path.name} from its ending",
            value=str(path),
            hint=f"end it in {', '.join('.' + e for e in ENDINGS)}, or name one with --format",
        )
    return ENDINGS[ending]


def _on_screen(report: Report, name: str, units: str) -> str:
    terminal = sys.stdout.isatty()
    color = (terminal and not os.environ.get("NO_COLOR")) or bool(os.environ.get("FORCE_COLOR"))
    if name != "table" or not (terminal or color):
        return renderer(name)(report, units)
    from shutil import get_terminal_size

    from archcalc.render.terminal import render

    return render(report, units, width=get_terminal_size().columns, color=color)
