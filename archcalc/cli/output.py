"""From a Report or a Figure to stdout or files."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from errno import ENOENT
from pathlib import Path
from typing import TYPE_CHECKING

from archcalc.cli.streams import tell
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
    files, shown = _texts(report, format_name, outputs or [_STDOUT], units, assumptions)
    write_files(files)
    _show(shown)


def say_warnings(report: Report) -> None:
    """A report's warnings once more, on stderr: there they are seen where the report goes to a file or a program."""
    for note in report.notes:
        if note.startswith("warning: "):
            tell(harmless(note))


def emit_figure(
    figure: Figure, format_name: str | None, outputs: list[Path] | None, units: str, assumptions: bool = False
) -> None:
    """Pictures into files by their endings, the numbers as any report; without either a text plot on stdout."""
    from archcalc.render.save import drawn_as

    outputs = outputs or []
    pictures = [path for path in outputs if path.suffix.lower() in PICTURES]
    others = [path for path in outputs if path not in pictures]
    drawn = {path: drawn_as(figure, PICTURES[path.suffix.lower()], units) for path in pictures}
    plotted = format_name is None and (_STDOUT in others or not outputs)
    numbers = [path for path in others if not (plotted and path == _STDOUT)]
    if format_name is not None and not numbers:
        numbers = [_STDOUT]
    files, shown = _texts(figure.report, format_name, numbers, units, assumptions)
    write_files(files | drawn)
    _show(shown)
    if plotted:
        _print(figure, units)
    if drawn or plotted:
        for note in figure.report.notes:
            tell(harmless(note))


def write_files(files: Mapping[Path, bytes]) -> None:
    """Write files, all or none, and say so. Raises InputError where one can't be written."""
    if not files:
        return
    from archcalc.render.atomic import write_all

    write_all(files)
    for path in files:
        tell(f"wrote {harmless(str(path))}")


def _texts(
    report: Report, format_name: str | None, targets: list[Path], units: str, assumptions: bool
) -> tuple[dict[Path, bytes], list[str]]:
    """What goes into files, and what to stdout. Raises InputError."""
    check_units(units)
    for path in targets:
        if path != _STDOUT and not os.path.isdir(os.path.dirname(os.path.realpath(path))):
            raise InputError(f"can't write {path}: {os.strerror(ENOENT)}", value=str(path))
    if format_name == "":
        raise InputError("--format is empty", value="", hint="leave it out for a table")
    files: dict[Path, bytes] = {}
    shown: list[str] = []
    for path in targets:
        name = format_name or ("table" if path == _STDOUT else _from_ending(path))
        if path == _STDOUT:
            shown.append(_on_screen(report, name, units, assumptions))
        else:
            files[path] = text_of(report, name, units, assumptions).encode()
    return files, shown


def _show(texts: list[str]) -> None:
    for text in texts:
        sys.stdout.write(text)
        sys.stdout.flush()


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
