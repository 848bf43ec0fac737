"""Tables as plain text, as wide as they need to be: for files and pipes. terminal.py fits the same blocks to a screen.

This file draws without rich, so that a command whose output is piped does not wait for its import.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from archcalc.errors import harmless
from archcalc.render.cells import cell, quantity_lines
from archcalc.report.document import Column, Report, Table


def render(report: Report, units: str) -> str:
    """The report as aligned text without colour or width limit."""
    return "\n".join(line.rstrip() for line in _lines(report, units)) + "\n"


def sections(report: Report) -> list[tuple[str, Sequence[str]]]:
    """The lists of sentences that stand below the tables, by heading; empty ones left out."""
    lists = (("notes", report.notes), ("assumed", report.assumptions), ("counted", report.conventions))
    return [(title, lines) for title, lines in lists if lines]


def tables(report: Report) -> list[Table]:
    """The tables of a report that have rows, in the order in which they are read."""
    return [t for t in (report.findings_table, report.rows, *report.tables) if t is not None and t.rows]


def table_cell(row: Mapping[str, Any], column: Column, position: int, units: str) -> str:
    """One cell; a row's label stands in its first column, indented by its depth."""
    if position == 0 and "label" in row:
        return "  " * row.get("depth", 0) + harmless(str(row["label"]))
    return cell(row.get(column.key), column.unit, units)


def is_numeric(column: Column) -> bool:
    """Whether a column is aligned to the right."""
    return column.unit not in ("text", "bool")


def _lines(report: Report, units: str) -> Iterator[str]:
    yield harmless(report.title)
    yield from _aligned([["  " + a, b, c] for a, b, c in quantity_lines(report, units)], [False, True, True])
    for table in tables(report):
        yield ""
        yield harmless(table.title)
        head = [column.title for column in table.columns]
        body = [[table_cell(row, c, i, units) for i, c in enumerate(table.columns)] for row in table.rows]
        head_line, *rest = _aligned([head, *body], [is_numeric(c) for c in table.columns])
        yield from (head_line, "-" * max(len(line.rstrip()) for line in (head_line, *rest)), *rest)
        if table.note:
            yield harmless(table.note)
    for title, sentences in sections(report):
        yield ""
        for i, sentence in enumerate(sentences):
            yield (f"{title}: " if i == 0 else " " * (len(title) + 2)) + harmless(sentence)


def _aligned(rows: list[list[str]], right: list[bool]) -> list[str]:
    """Rows with every column as wide as its widest cell, two spaces apart."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)) for row in rows
    ]
