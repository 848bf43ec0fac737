"""`archcalc report`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from archcalc.cli.options import Context, Gpus, SpecArguments
from archcalc.cli.stale import PLOT, StaleReports, read_report, record_file, stale_files, strays, without_matplotlib
from archcalc.cli.streams import tell
from archcalc.errors import ArchcalcError, harmless

if TYPE_CHECKING:
    from archcalc.documents.book import Book, Source
    from archcalc.proof.record import Record

    Order = tuple[Source, dict[str, Any]]
    """A spec, and the plans, GPUs and sizes that its report is about."""


HELP = "Write a report of everything about each spec: Markdown, JSON and pictures."


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
    gpus: Gpus = None,
    seq: Annotated[
        str | None, typer.Option("--seq", metavar="N", help="Text tokens of the FLOPs: 8k. [default: 4096]")
    ] = None,
    image: Annotated[
        list[str] | None,
        typer.Option("--image", metavar="HxW", help="An image to report the FLOPs of. Repeatable. [default: 1024x768]"),
    ] = None,
    context: Context = None,
) -> None:
    """Answer a command line."""
    from archcalc.documents.ask import FILES, called
    from archcalc.documents.book import check_stems, read_source
    from archcalc.documents.books_file import NAME, load_books

    sources = [read_source(argument) for argument in specs]
    check_stems(sources)
    said = load_books(directory)
    flags = _flags(plan=plan, gpu=gpu, gpus=gpus, seq=seq, image=image, context=context)
    for name in ("plan", "gpu"):
        for value in flags.get(name, ()):
            called(value, FILES[name])  # a slip is told before a cross-check takes its minute
    for source in sources if said and not flags.keys() & {"plan", "gpu"} else ():
        if source.spec.name not in said:
            _tell(f"{source.word}: no entry in {directory / NAME}, so that its report is about no plan and no GPU")
    orders = [(source, {**said.get(source.spec.name, {}), **flags}) for source in sources]
    if check:
        typed = {"plan": plan, "gpu": gpu, "gpus": gpus, "seq": seq, "image": image, "context": context}
        again = [
            f"--{name}={value}"
            for name, values in typed.items()
            for value in ([values] if isinstance(values, str) else values or ())
        ]
        _check(orders, directory, shlex.join(["archcalc", "report", *specs, "--dir", str(directory), *again]))
    else:
        _write(orders, directory)


def _flags(*, image: list[str] | None, **texts: Any) -> dict[str, Any]:
    """The flags that were given, as `make_book` takes them. Raises InputError."""
    from archcalc.documents.sizes import parse_images, serving_flags

    files = {name: texts.pop(name) for name in ("plan", "gpu")}
    found = {**files, **serving_flags(**texts), "image": parse_images(image)}
    return {name: value for name, value in found.items() if value not in (None, [])}


# -- writing ----------------------------------------------------------------------------------------------------------


def _write(orders: list[Order], directory: Path) -> None:
    """All is worked out first; then every file is written or none, and pictures that are no longer drawn go."""
    from archcalc.cli.output import write_files
    from archcalc.proof.record import to_json
    from archcalc.render.book import texts

    files: dict[Path, bytes] = {}
    left_over: list[Path] = []
    for source, carried in orders:
        record = _fresh_record(source, directory)
        if record is not None:
            files[record_file(source, directory)] = to_json(record, source.spec.name).encode()
        book = _book(source, carried, record)
        files |= {directory / name: text for name, text in texts(book).items()}
        files |= {directory / name: picture for name, picture in _pictures(book).items()}
        left_over += strays(book, directory)
        for note in book.notes:
            _tell(f"{source.word}: {note}")
    _make(directory)
    write_files(files)
    for path in left_over:
        _remove(path)


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
    from archcalc.render.book import UNITS

    try:
        from archcalc.render.plot import picture
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("archcalc"):
            raise
        _tell(f"{book.source.spec.name}: pictures left out, they need matplotlib: {PLOT}")
        return {}
    return {book.file_of(each): picture(each.figure(), "svg", UNITS) for each in book.pictures}


def _remove(path: Path) -> None:
    """Delete a picture that archcalc drew for this report, as it was told to then; leave any other."""
    from archcalc.render.seal import is_ours

    try:
        if path.is_symlink() or not is_ours(path.read_bytes()):
            _tell(f"{path}: no part of the report, and not as archcalc drew it: it is left there")
            return
        path.unlink()
    except OSError as error:
        _tell(f"{path}: no part of the report any more, and can't be deleted: {error.strerror}")
    else:
        _tell(f"removed {path}, which is no part of the report any more")


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
    stale: list[tuple[Path, str]] = []
    for source, carried in orders:
        record = _saved_record(source, directory)
        stale += stale_files(_book(source, carried, record), directory, record)
    if stale:
        paths = [path for path, _ in stale]
        lines = [f"{path}: {problem}" for path, problem in stale]
        raise StaleReports(lines, f"to write them again: {refresh}{without_matplotlib(paths)}")
    _tell(f"{len(orders)} report{'' if len(orders) == 1 else 's'} up to date in {directory}")


# -- both -------------------------------------------------------------------------------------------------------------


def _book(source: Source, carried: dict[str, Any], record: Record | None) -> Book:
    from archcalc.documents.report import make_book
    from archcalc.errors import InputError
    from archcalc.proof.record import summary_report

    try:
        return make_book(source, summary_report(source.spec, record), **carried)
    except InputError as error:
        raise (error if error.source else error.at(source=source.word)) from None


def _saved_record(source: Source, directory: Path) -> Record | None:
    from archcalc.proof.record import from_json

    path = record_file(source, directory)
    saved = read_report(path)
    return None if saved is None else from_json(saved, str(path))


def _tell(what: str) -> None:
    tell(harmless(what))
