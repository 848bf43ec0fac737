"""A report of everything about a spec, as Markdown and as JSON. A book knows neither: another form is another file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from archcalc.documents.book import HEADLINE, Book, Section
from archcalc.documents.document import Report, Table
from archcalc.render.cells import quantity_lines
from archcalc.render.json import document, dumped
from archcalc.render.markdown import body, escape, pipes, render_table

UNITS = "gib"

LONG = 24
"""Rows that stand open."""


def markdown(book: Book) -> str:
    """One page: a headline, then a section for each command, its pictures linked by file name."""
    blocks = [f"# {escape(book.title)}", *_headline(book)]
    for section in book.sections:
        blocks += _section(book, section)
    blocks.append(f"Written by `archcalc report`; to write it again:\n\n{_shell(book.command)}")
    return "\n\n".join(blocks) + "\n"


def _headline(book: Book) -> list[str]:
    found = {name: n for name, n in book.quantities.items() if name in HEADLINE}
    glance = Report(command="report", title="", inputs={}, quantities=found)
    lines = zip(found, quantity_lines(glance, UNITS), strict=True)
    rows = [(escape(HEADLINE[name]), escape(text), escape(more)) for name, (_, text, more) in lines]
    return [pipes(["", "", ""], ["---", "---:", "---:"], rows)]


def _section(book: Book, section: Section) -> Iterator[str]:
    yield f"## {escape(section.title)}"
    commands = [*section.commands, *(picture.command for picture in section.pictures)]
    if commands:
        yield _shell(*commands)
    keeps = section.name == "assumptions"
    yield from body(section.report if keeps else replace(section.report, assumptions=()), UNITS, _folded)
    for picture in section.pictures:
        yield f"![{escape(picture.caption)}]({book.file_of(picture)})"


def _folded(table: Table, units: str) -> list[str]:
    """A table; a long one is folded until somebody opens it."""
    heading, rows, *note = render_table(table, units)
    if len(table.rows) > LONG:
        rows = f"<details><summary>{len(table.rows)} rows</summary>\n\n{rows}\n\n</details>"
    return [heading, rows, *note]


def _shell(*commands: str) -> str:
    """Commands as a block; each is one printable line, so that none can end it."""
    return "\n".join(["```sh", *commands, "```"])


def json(book: Book) -> str:
    """One report document with all quantities, and the document of each section."""
    sections: dict[str, Any] = {}
    for section in book.sections:
        sections[section.name] = {
            "title": section.title,
            "commands": list(section.commands),
            "pictures": [
                {"file": book.file_of(picture), "caption": picture.caption, "command": picture.command}
                for picture in section.pictures
            ],
            "report": document(section.report),
        }
    whole = {**document(book.report), "sections": sections, "order": [section.name for section in book.sections]}
    return dumped(whole)
