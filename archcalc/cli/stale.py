"""What `archcalc report --check` finds: files of a report that are not what would be written now."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from archcalc.errors import CheckFailed, InputError, harmless
from archcalc.limits import INDEX_BYTES

if TYPE_CHECKING:
    from archcalc.documents.book import Book, Source
    from archcalc.proof.record import Record

PICTURES = r"(flops|kv|memory(-.+)?|train-.+)\.svg"
"""What follows the name of a report in the names of its pictures."""

PLOT = "pip install 'archcalc[plot]'"


class StaleReports(CheckFailed):
    """Reports that are not what archcalc would write now, each on a line of its own."""

    def __init__(self, lines: list[str], refresh: str) -> None:
        super().__init__("; ".join(lines))
        self.lines, self.refresh = lines, refresh

    def render(self, width: int = 100) -> str:
        """A line for each file, and the command that writes them again."""
        text = [f"error: {len(self.lines)} stale report file{'' if len(self.lines) == 1 else 's'}"]
        return "\n".join([*text, *(f"  {harmless(line)}" for line in self.lines), f"hint: {harmless(self.refresh)}"])


def stale_files(book: Book, directory: Path, record: Record | None) -> Iterator[tuple[Path, str]]:
    """Every file of a report that is stale, with what is wrong with it: page, document, record, pictures.

    Raises:
        InputError: a file that can't be read.
    """
    from archcalc.render.book import texts

    for name, wanted in texts(book).items():
        if problem := _text_problem(directory / name, wanted):
            yield directory / name, problem
    path = record_file(book.source, directory)
    if problem := _record_problem(path, record, book.source, directory):
        yield path, problem
    yield from _pictures(book, directory)
    yield from ((path, "no part of this report; delete it") for path in strays(book, directory))


def record_file(source: Source, directory: Path) -> Path:
    """Where the cross-check of a report is kept."""
    return directory / f"{source.stem}.crosscheck.json"


def strays(book: Book, directory: Path) -> list[Path]:
    """Pictures that are named as this report's are, and are none of them."""
    stem, own = book.source.stem, {book.file_of(picture) for picture in book.pictures}
    try:
        names = sorted(path.name for path in directory.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"can't read this folder: {error.strerror}", source=str(directory)) from None
    stems = {name.removesuffix(ending) for name in names for ending in (".md", ".json") if name.endswith(ending)}
    longer = tuple(f"{other}-" for other in stems if other.startswith(f"{stem}-"))  # kimi-k2 and kimi-k2-thinking
    mine = re.compile(f"{re.escape(stem)}-{PICTURES}")
    return [directory / n for n in names if mine.fullmatch(n) and n not in own and not n.startswith(longer)]


def without_matplotlib(paths: Iterable[Path]) -> str:
    """What is needed to draw again what is stale, where it is not installed."""
    if any(path.suffix == ".svg" for path in paths) and find_spec("matplotlib") is None:
        return f" (pictures need matplotlib: {PLOT})"
    return ""


def _pictures(book: Book, directory: Path) -> Iterator[tuple[Path, str]]:
    """Pictures that are missing, were altered, or show other numbers than these; none is drawn for that."""
    from archcalc.render.book import UNITS
    from archcalc.render.seal import drawn_from, fault

    for picture in book.pictures:
        path = directory / book.file_of(picture)
        found = read_report(path)
        problem = "missing" if found is None else fault(found, drawn_from(picture.figure(), UNITS))
        if problem:
            yield path, problem


def _text_problem(path: Path, wanted: bytes) -> str:
    """Why a file is stale, or nothing. Line ends don't count: git may have changed them."""
    found = read_report(path)
    if found is None:
        return "missing"
    found = found.replace(b"\r\n", b"\n")
    if found == wanted:
        return ""
    lines = zip_longest(wanted.split(b"\n"), found.split(b"\n"))
    return f"differs from line {next(n for n, (ours, theirs) in enumerate(lines, 1) if ours != theirs)} on"


def _record_problem(path: Path, record: Record | None, source: Source, directory: Path) -> str:
    """Why a saved cross-check is stale: altered, or gone though the document beside it has its rows."""
    from archcalc.proof.record import to_json

    if record is not None:
        return _text_problem(path, to_json(record, source.spec.name).encode())
    if read_report(path) is not None:
        return "no record of a cross-check"
    return "missing" if _had_record(directory / f"{source.stem}.json") else ""


def _had_record(path: Path) -> bool:
    """Whether the document of a report was written with the record of a cross-check."""
    try:
        document = json.loads(read_report(path) or b"")
        return bool(document["sections"]["crosscheck"]["asked"][0]["report"]["rows"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return False


def read_report(path: Path) -> bytes | None:
    """The bytes of a file of a report, None where there is none. Raises InputError for a folder, a device or what else
    is no report of ours: such a link may come from a stranger."""
    from archcalc.files.text_file import contents, refuse_larger

    if not os.path.exists(path):
        return None
    if os.path.isdir(path):
        raise InputError("a folder stands where a file of the report belongs", source=str(path), hint="move it away")
    found = contents(path, INDEX_BYTES.most + 1)
    refuse_larger(len(found), INDEX_BYTES, str(path), "archcalc writes no report so large: delete it")
    return found
