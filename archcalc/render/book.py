"""A report of everything about a spec, as Markdown and as JSON. A book knows neither: another form is another file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from archcalc.documents.ask import line
from archcalc.documents.book import Asked, Book, Section
from archcalc.documents.document import Report, Table
from archcalc.render.cells import cell, other_form, quantity_lines
from archcalc.render.inert import inert
from archcalc.render.json import document, dumped
from archcalc.render.markdown import bullets, escape, pipes, quantities, render_table
from archcalc.render.seal import drawn_from

UNITS = "gib"

LONG = 24
"""Rows that stand open."""


def texts(book: Book) -> dict[str, bytes]:
    """Page and document, by file name."""
    stem = book.source.stem
    return {f"{stem}.md": markdown(book).encode(), f"{stem}.json": json(book).encode()}


def markdown(book: Book) -> str:
    """One page: a headline, then the sections, their pictures linked by file name; nothing is said twice."""
    blocks = [f"# {escape(book.source.spec.title)}", *_headline(book)]
    said: set[object] = set()
    for section in book.sections:
        blocks += _section(book, section, said)
    reports = (each.report for section in book.sections for each in section.asked)
    assumed = dict.fromkeys(f"{report.command}: {text}" for report in reports for text in report.assumptions)
    if assumed:
        blocks += ["## What the numbers rest on", bullets("Assumed", assumed)]
    sizes = line("show", book.source.word, {})
    blocks.append(f"All sizes, with their sources:\n\n{_shell(sizes)}")
    blocks.append(f"Written by `archcalc report`; to write it again:\n\n{_shell(book.command)}")
    return inert("\n\n".join(blocks) + "\n")


def _headline(book: Book) -> list[str]:
    """The table; a size without more to say of it stands in its other form."""
    rows = []
    for row in book.headline.rows:
        value, unit = row["value"], row["unit"]
        more = row.get("more") or other_form(value, unit, UNITS)
        rows.append([escape(text) for text in (row["question"], cell(value, unit, UNITS), more)])
    return [pipes(["", "", ""], ["---", "---:", "---:"], rows), *(escape(note) for note in book.notes)]


def _section(book: Book, section: Section, said: set[object]) -> Iterator[str]:
    """A section: the quantities of all its command lines side by side, and all else that the first one answers."""
    first = section.asked[0].report
    yield f"## {escape(section.title)}"
    yield _shell(*(each.command for each in section.asked), *(each.command for each in section.pictures))
    if len(section.asked) > 1:
        yield _side_by_side(section.asked)
    elif not first.quantities.items() <= said:
        yield from quantities(first, UNITS)
    said.update(first.quantities.items())
    for table in first.in_reading_order:
        if table.rows:
            yield from _table(table)
    for title, field in (("Notes", "notes"), ("Conventions", "conventions")):
        texts = dict.fromkeys(text for each in section.asked for text in getattr(each.report, field))
        if new := [text for text in texts if text not in said]:
            yield bullets(title, new)
        said.update(texts)
    for picture in section.pictures:
        yield f"![{escape(picture.caption)}]({book.file_of(picture)})"


def _side_by_side(asked: Sequence[Asked]) -> str:
    """All quantities, a column for each command line: as people read them, all digits below."""
    columns: list[dict[str, str]] = []
    labels: dict[str, str] = {}
    for each in asked:
        columns.append({})
        found = each.report.quantities
        for name, (label, text, more) in zip(found, quantity_lines(each.report, UNITS), strict=True):
            labels[name] = escape(label)
            columns[-1][name] = f"{escape(text)}<br>{escape(more)}" if more and found[name] else escape(text)
    rows = [[label, *(column.get(name, "") for column in columns)] for name, label in labels.items()]
    return pipes(["quantity", *(escape(each.title) for each in asked)], ["---", *("---:" for _ in asked)], rows)


def _table(table: Table) -> list[str]:
    """A table; a long one is folded until somebody opens it."""
    heading, rows, *note = render_table(table, UNITS)
    if len(table.rows) > LONG:
        rows = f"<details><summary>{len(table.rows)} rows</summary>\n\n{rows}\n\n</details>"
    return [heading, rows, *note]


def _shell(*commands: str) -> str:
    """Commands as a block; each is one printable line, so that none can end it."""
    return "\n".join(["```sh", *commands, "```"])


def json(book: Book) -> str:
    """One report document with all quantities, and the sections: the document of each one's main command line, and of
    the others what stands beside that on the page, their quantities."""
    sections: dict[str, Any] = {}
    for section in book.sections:
        sections[section.name] = {
            "title": section.title,
            "asked": [
                {
                    "title": each.title,
                    "command": each.command,
                    "report": _document(each.report, whole=not n),
                }
                for n, each in enumerate(section.asked)
            ],
            "pictures": [
                {
                    "file": book.file_of(picture),
                    "caption": picture.caption,
                    "command": picture.command,
                    "drawn_from": drawn_from(picture.figure(), UNITS),
                }
                for picture in section.pictures
            ],
        }
    whole = {**document(book.report), "sections": sections, "order": [section.name for section in book.sections]}
    return dumped(whole)


def _document(report: Report, *, whole: bool) -> dict[str, Any]:
    found = document(report)
    return found if whole else {key: found[key] for key in ("inputs", "quantities", "exact")}
