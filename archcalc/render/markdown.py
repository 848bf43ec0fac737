"""Markdown: headings, pipe tables, folded details."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from archcalc.documents.document import Column, Report, Table
from archcalc.errors import harmless
from archcalc.render.cells import cell, quantity_lines

_ESCAPES = str.maketrans({char: f"\\{char}" for char in "\\`*_[]|~#"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;"})
Draw = Callable[[Table, str], list[str]]

_NUMERIC = ("count", "bytes", "flops", "share", "int", "number", "tokens")


def render(report: Report, units: str) -> str:
    """The whole report under one second-level heading."""
    return "\n\n".join([f"## {escape(report.title)}", *body(report, units)]) + "\n"


def body(report: Report, units: str, draw: Draw | None = None) -> list[str]:
    """The blocks below the heading; `draw` makes those of a table."""
    blocks = []
    if report.quantities:
        lines = [(escape(a), escape(b), escape(c)) for a, b, c in quantity_lines(report, units)]
        blocks.append(pipes(["quantity", "value", ""], ["---", "---:", "---:"], lines))
    for table in report.in_reading_order:
        if table.rows:
            blocks += (draw or render_table)(table, units)
    for title, lines_ in (
        ("Notes", report.notes),
        ("Assumed", report.assumptions),
        ("Conventions", report.conventions),
    ):
        if lines_:
            blocks.append(f"**{title}**\n\n" + "\n".join(f"- {escape(line)}" for line in lines_))
    return blocks


def render_table(table: Table, units: str) -> list[str]:
    """Heading, pipe table and note of one table."""
    marks = ["---:" if c.unit in _NUMERIC else "---" for c in table.columns]
    body = [[_indented(row, c, i, units) for i, c in enumerate(table.columns)] for row in table.rows]
    blocks = [f"### {escape(table.title)}", pipes([escape(c.title) for c in table.columns], marks, body)]
    if table.note:
        blocks.append(escape(table.note))
    return blocks


def escape(text: str) -> str:
    """Text that no Markdown or HTML reader takes for markup, on one line."""
    return harmless(text).translate(_ESCAPES)


def _indented(row: Mapping[str, Any], column: Column, position: int, units: str) -> str:
    if position == 0 and "label" in row:
        return "&emsp;" * int(row.get("depth", 0)) + escape(str(row["label"]))
    return escape(cell(row.get(column.key), column.unit, units))


def pipes(head: Sequence[str], marks: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A pipe table of cells that are safe already."""
    lines = [head, marks, *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
