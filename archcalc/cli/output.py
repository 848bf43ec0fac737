"""From a Report or a Figure to stdout or files."""

from __future__ import annotations

import os
import sys
from errno import ENOENT
from pathlib import Path
from typing import TYPE_CHECKING

from archcalc.documents.document import Report
from archcalc.errors import InputError, harmless
from archcalc.render import PICTURES as PICTURES
from archcalc.render import suited, text_of
from archcalc.units import check_units

if TYPE_CHECKING:
    from archcalc.documents.sweep.figure import Figure

_STDOUT = Path("-")


def emit(
    report: Report, format_name: str | None, outputs: list[Path] | None, units: str, assumptions: bool = False
) -> None:
    """Print a report, or write it to files. `-` among the files is stdout. `assumptions` lists all of them in every
    format; else people see how many there are.

    Raises:
        InputError: unknown format, units or file ending, or a file that can't be written.
    """
    check_units(units)
    targets = outputs or [_STDOUT]
    for path in targets:
        if path != _STDOUT and not path.resolve().parent.is_dir():
            raise InputError(f"can't write {path}: {os.strerror(ENOENT)}", value=str(path))
    if format_name == "":
        raise InputError("--format is empty", value="", hint="leave it out for a table")
    names = [format_name or ("table" if path == _STDOUT else _from_ending(path)) for path in targets]
    texts = [
        (_on_screen if path == _STDOUT else text_of)(report, name, units, assumptions)
        for path, name in zip(targets, names, strict=True)
    ]
    for path, text in zip(targets, texts, strict=True):
        if path == _STDOUT:
            sys.stdout.write(text)
            sys.stdout.flush()
        else:
            write_file(path, text.encode())


def say_warnings(report: Report) -> None:
    """A report's warnings once more, on stderr: there they are seen where the report goes to a file or a program."""
    for note in report.notes:
        if note.startswith("warning: "):
            print(harmless(note), file=sys.stderr)


def emit_figure(
    figure: Figure, format_name: str | None, outputs: list[Path] | None, units: str, assumptions: bool = False
) -> None:
    """Pictures into files by their endings, the numbers as any report; without either a text plot on stdout."""
    from archcalc.render.save import drawn_as

    outputs = outputs or []
    pictures = [path for path in outputs if path.suffix.lower() in PICTURES]
    others = [path for path in outputs if path not in pictures]
    drawn = [(path, drawn_as(figure, PICTURES[path.suffix.lower()], units)) for path in pictures]
    texts = [path for path in others if path == _STDOUT and format_name is None]
    files = [path for path in others if path not in texts]
    if files or format_name is not None:
        emit(figure.report, format_name, files, units, assumptions)
    if texts or not (outputs or format_name):
        _print(figure, units)
    for path, data in drawn:
        write_file(path, data)
    if drawn or texts or not (outputs or format_name):
        for note in figure.report.notes:
            print(harmless(note), file=sys.stderr)


def write_file(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, and say so. Raises InputError where it can't."""
    from archcalc.render.save import write

    write(path, data)
    print(f"wrote {harmless(str(path))}", file=sys.stderr)


def _from_ending(path: Path) -> str:
    from archcalc.render.save import from_ending

    return from_ending(path)


def _on_screen(report: Report, name: str, units: str, assumptions: bool) -> str:
    terminal = sys.stdout.isatty()
    color = colored(terminal)
    if name != "table" or not (terminal or color):
        return text_of(report, name, units, assumptions)
    from shutil import get_terminal_size

    from archcalc.render.terminal import render

    shown, width = suited(report, name, units, assumptions), get_terminal_size().columns if terminal else None
    return render(shown, units, width=width, color=color)


def colored(terminal: bool) -> bool:
    """NO_COLOR (no-color.org) goes before FORCE_COLOR; a terminal that is named dumb gets none."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or (terminal and os.environ.get("TERM") != "dumb")


def _print(figure: Figure, units: str) -> None:
    from shutil import get_terminal_size

    from archcalc.render.textplot import render
    from archcalc.render.textstyle import ASCII, BLOCKS, WIDTH

    terminal = sys.stdout.isatty()
    width = get_terminal_size().columns if terminal else WIDTH
    text = render(figure, units, width=width, color=colored(terminal))
    try:
        BLOCKS.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = text.translate(ASCII)
    sys.stdout.write(text)
    sys.stdout.flush()
