"""Markdown: headings, pipe tables, folded details."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from archcalc.documents.document import Column, Report, Table
from archcalc.errors import harmless
from archcalc.render.cells import cell_of, first_line, quantity_lines
from archcalc.render.table import is_numeric

_ESCAPES = str.maketrans({char: f"\\{char}" for char in "\\`*_[]|~#"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;"})


def render(report: Report, units: str) -> str:
    """The whole report under one second-level heading."""
    return "\n\n".join([f"## {escape(first_line(report, units))}", *body(report, units)]) + "\n"


def body(report: Report, units: str) -> list[str]:
    """The blocks below the heading."""
    blocks = quantities(report, units) if report.quantities and not report.rows_tell else []
    for table in report.in_reading_order:
        if table.rows:
            blocks += render_table(table, units)
    lists = (("Notes", report.notes), ("Assumed", report.assumptions), ("Conventions", report.conventions))
    return [*blocks, *(bullets(title, lines) for title, lines in lists if lines)]


def quantities(report: Report, units: str) -> list[str]:
    """The quantities, exact and rounded."""
    lines = [(escape(a), escape(b), escape(c)) for a, b, c in quantity_lines(report, units)]
    return [pipes(["quantity", "value", ""], ["---", "---:", "---:"], lines)]


def bullets(title: str, lines: Iterable[str]) -> str:
    """Sentences below a word that says what they are."""
    return f"**{title}**\n\n" + "\n".join(f"- {escape(line)}" for line in lines)


def render_table(table: Table, units: str) -> list[str]:
    """Heading, pipe table and note of one table."""
    marks = ["---:" if is_numeric(c) else "---" for c in table.columns]
    body = [[_indented(row, c, i, units) for i, c in enumerate(table.columns)] for row in table.rows]
    heading = [f"### {escape(table.title)}"] if table.title else []
    blocks = [*heading, pipes([escape(c.title) for c in table.columns], marks, body)]
    if table.note:
        blocks.append(escape(table.note))
    return blocks


def escape(text: str) -> str:
    """Text that no Markdown or HTML reader takes for markup, on one line."""
    return harmless(text).translate(_ESCAPES)


def _indented(row: Mapping[str, Any], column: Column, position: int, units: str) -> str:
    if position == 0 and "label" in row:
        return "&emsp;" * int(row.get("depth", 0)) + escape(str(row["label"]))
    return escape(cell_of(row, column, units))


def pipes(head: Sequence[str], marks: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A pipe table of cells that are safe already."""
    lines = [head, marks, *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
