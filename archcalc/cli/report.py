"""`archcalc report`."""

from __future__ import annotations

import shlex
import sys
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from archcalc.cli.options import SpecArguments
from archcalc.errors import ArchcalcError, CheckFailed, harmless

if TYPE_CHECKING:
    from archcalc.documents.book import Book, Source
    from archcalc.proof.record import Record

    Order = tuple[Source, dict[str, list[str]]]
    """A spec, and the plans and GPUs that its report is about."""


class StaleReports(CheckFailed):
    """Reports that are not what archcalc would write now, each on a line of its own."""

    def __init__(self, lines: list[str], refresh: str) -> None:
        super().__init__("; ".join(lines))
        self.lines, self.refresh = lines, refresh

    def render(self, width: int = 100) -> str:
        """A line for each file, and the command that writes them again."""
        text = [f"error: {len(self.lines)} stale report file{'' if len(self.lines) == 1 else 's'}"]
        return "\n".join([*text, *(f"  {harmless(line)}" for line in self.lines), f"hint: {harmless(self.refresh)}"])


def command(
    specs: SpecArguments,
    directory: Annotated[
        Path, typer.Option("--dir", metavar="DIR", help="Where the reports are: NAME.md, NAME.json and pictures.")
    ] = Path("reports"),
    check: Annotated[
        bool,
        typer.Option("--check", help="Write nothing; exit 1 if a report is missing or is not what would be written."),
    ] = False,
    plan: Annotated[
        list[str] | None,
        typer.Option(
            "--plan",
            metavar="PLAN",
            help="A plan file, or a bundled plan, to report the training memory of. Repeatable. [default: those that"
            " DIR/books.yaml names]",
        ),
    ] = None,
    gpu: Annotated[
        list[str] | None,
        typer.Option(
            "--gpu",
            metavar="NAME",
            help="A bundled GPU or a hardware file to report the serving memory of. Repeatable. [default: as --plan]",
        ),
    ] = None,
) -> None:
    """Write a report of everything about each spec: Markdown, JSON and pictures."""
    from archcalc.documents.ask import FILES, called
    from archcalc.documents.book import check_stems, read_source
    from archcalc.documents.books_file import NAME, load_books

    sources = [read_source(argument) for argument in specs]
    check_stems(sources)
    said = load_books(directory)
    flags = {name: values for name, values in (("plan", plan), ("gpu", gpu)) if values}
    for name, values in flags.items():
        for value in values:
            called(value, FILES[name])  # a slip is told before a cross-check takes its minute
    for source in sources if said and not flags else ():
        if source.spec.name not in said:
            _tell(f"{source.word}: no entry in {directory / NAME}, so that its report is about no plan and no GPU")
    orders = [(source, {**said.get(source.spec.name, {}), **flags}) for source in sources]
    if check:
        again = [f"--{name}={value}" for name, values in flags.items() for value in values]
        _check(orders, directory, shlex.join(["archcalc", "report", *specs, "--dir", str(directory), *again]))
    else:
        _write(orders, directory)


# -- writing ----------------------------------------------------------------------------------------------------------


def _write(orders: list[Order], directory: Path) -> None:
    """Everything is worked out first; then every file is written."""
    from archcalc.cli.output import write_file
    from archcalc.proof.record import to_json

    files: dict[Path, bytes] = {}
    for source, carried in orders:
        record = _fresh_record(source, directory)
        if record is not None:
            files[_record_file(source, directory)] = to_json(record, source.spec.name).encode()
        book = _book(source, carried, record)
        files |= {directory / name: text for name, text in _texts(book).items()}
        files |= {directory / name: picture for name, picture in _pictures(book).items()}
    _make(directory)
    for path, data in files.items():
        write_file(path, data)


def _fresh_record(source: Source, directory: Path) -> Record | None:
    """The saved cross-check if it is of this spec and still agrees; else a new one, where there is torch."""
    from archcalc.proof import crosscheck
    from archcalc.proof.check import need_torch
    from archcalc.proof.record import agrees, record

    saved = _saved_record(source, directory)
    if agrees(source.spec, saved):
        return saved
    try:
        need_torch()
        _tell(f"{source.word}: cross-checking against the torch twin")
        report = crosscheck(source.spec, progress=lambda what: _tell(f"{source.word}: {what}"))
    except ArchcalcError as error:
        _tell(f"{source.word}: not cross-checked: {error}")
        return saved
    return record(source.spec, list(report.findings))


def _pictures(book: Book) -> dict[str, bytes]:
    try:
        from archcalc.render.plot import picture
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("archcalc"):
            raise
        _tell(f"{book.source.spec.name}: pictures left out, they need matplotlib: pip install 'archcalc[plot]'")
        return {}
    return {book.file_of(each): picture(each.figure(), "svg", "gib") for each in book.pictures}


def _make(directory: Path) -> None:
    from archcalc.errors import InputError

    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"can't make the folder {directory}: {error.strerror}", source="--dir", value=str(directory)
        ) from None


# -- checking ---------------------------------------------------------------------------------------------------------


def _check(orders: list[Order], directory: Path, refresh: str) -> None:
    stale = []
    for source, carried in orders:
        book = _book(source, carried, _saved_record(source, directory))
        for name, wanted in _texts(book).items():
            path = directory / name
            problem = _problem(path, wanted)
            if problem:
                stale.append(f"{path}: {problem}")
    if stale:
        raise StaleReports(stale, f"to write them again: {refresh}")
    _tell(f"{len(orders)} report{'' if len(orders) == 1 else 's'} up to date in {directory}")


def _problem(path: Path, wanted: bytes) -> str:
    """Why a file is stale, or nothing. Line ends don't count: git may have changed them."""
    from archcalc.errors import InputError

    try:
        found = path.read_bytes().replace(b"\r\n", b"\n")
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        raise InputError(f"can't read this report: {error.strerror}", source=str(path)) from None
    if found == wanted:
        return ""
    lines = zip_longest(wanted.split(b"\n"), found.split(b"\n"))
    return f"differs from line {next(n for n, (ours, theirs) in enumerate(lines, 1) if ours != theirs)} on"


# -- both -------------------------------------------------------------------------------------------------------------


def _book(source: Source, carried: dict[str, list[str]], record: Record | None) -> Book:
    from archcalc.documents.report import make_book
    from archcalc.errors import InputError
    from archcalc.proof.record import summary_report

    try:
        return make_book(source, summary_report(source.spec, record), **carried)
    except InputError as error:
        raise (error if error.source else error.at(source=source.word)) from None


def _texts(book: Book) -> dict[str, bytes]:
    from archcalc.render.book import json, markdown

    stem = book.source.stem
    return {f"{stem}.md": markdown(book).encode(), f"{stem}.json": json(book).encode()}


def _record_file(source: Source, directory: Path) -> Path:
    return directory / f"{source.stem}.crosscheck.json"


def _saved_record(source: Source, directory: Path) -> Record | None:
    from archcalc.proof.record import from_json

    path = _record_file(source, directory)
    try:
        return from_json(path.read_bytes(), str(path))
    except OSError:
        return None


def _tell(what: str) -> None:
    print(harmless(what), file=sys.stderr, flush=True)
