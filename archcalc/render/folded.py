"""Markdown for pull requests and job summaries: the answer on top, details folded, never longer than GitHub takes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from textwrap import wrap
from typing import Any

from archcalc.documents.document import Column, Report, Table
from archcalc.errors import harmless
from archcalc.render.cells import cell_of, first_line, quantity_lines
from archcalc.render.markdown import escape

LIMIT = 60_000
"""Characters; GitHub refuses a comment past 65,536."""

LONGEST = 160
"""Characters of a text from a file, before it is cut."""

SHORT = 24
"""Rows that stand open; a longer table is folded, and so is one of rows by path or of mere descriptions."""

DETAILS = ("rows", "descriptions")

_STEPS = (1000, 300, 100, 50, 20, 10, 5, 2)
"""Most rows of a table: the first that keeps the whole within the limit is taken."""


def render(report: Report, units: str, limit: int = LIMIT) -> str:
    """A report as Markdown of at most `limit` characters; rows that don't fit are counted."""
    text = ""
    for most in _STEPS:
        text = "\n\n".join(_blocks(report, units, most)) + "\n"
        if len(text) <= limit:
            return text
    return f"## {safe(first_line(report, units))}\n\nThe result is too long to show here.\n"


def safe(text: str) -> str:
    """Text that makes no markup, no link and no mention, on one line, cut where it is long."""
    cut = text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
    broken = escape(cut).replace("@", "@&#8203;").replace("://", ":&#8203;//")
    return re.sub(r"www\.", "www&#8203;.", broken, flags=re.IGNORECASE)


def pipes(head: Sequence[str], numeric: Sequence[bool], rows: Sequence[Sequence[str]]) -> str:
    """A pipe table of cells that are safe already."""
    marks = ["---:" if right else "---" for right in numeric]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, marks, *rows))


def details(summary: str, body: str) -> str:
    """A block that is folded until somebody opens it."""
    return f"<details><summary>{summary}</summary>\n\n{body}\n\n</details>"


def _blocks(report: Report, units: str, most: int) -> Iterator[str]:
    yield f"## {safe(first_line(report, units))}"
    if report.quantities and not report.rows_tell:
        lines = [[safe(text) for text in line] for line in quantity_lines(report, units)]
        yield pipes(["quantity", "value", ""], [False, True, True], _cut(lines, most, 3))
    tables = (report.findings_table, *report.tables, report.rows)
    for table in (report.rows, *tables[:-1]) if report.rows_tell else tables:
        if table is not None and table.rows:
            folded = table.title and table.name in DETAILS
            yield _table(table, units, most, folded=bool(folded) or len(table.rows) > SHORT)
    if report.notes:
        yield "\n".join(f"- {safe_long(line)}" for line in report.notes)
    for title, sentences in (("Assumed", report.assumptions), ("Counted", report.conventions)):
        if sentences:
            yield details(title, "\n".join(f"- {safe_long(line)}" for line in sentences[:most]))


def safe_long(sentence: str) -> str:
    """A sentence of our own, which may be longer than a text from a file."""
    return " ".join(map(safe, wrap(sentence, LONGEST)[:8]))


def _table(table: Table, units: str, most: int, *, folded: bool) -> str:
    columns = table.columns
    rows = [[safe(_text(row, c, i, units)) for i, c in enumerate(columns)] for row in table.rows[: most + 1]]
    shown = _cut(rows, most, len(columns), len(table.rows))
    numeric = [column.unit not in ("text", "prose", "bool") for column in columns]
    body = pipes([safe(column.title) for column in columns], numeric, shown)
    if table.note:
        body += f"\n\n{safe_long(table.note)}"
    title = safe(table.title)
    if folded:
        return details(f"{title} ({len(table.rows):,})", body)
    return f"**{title}**\n\n{body}" if title else body


def _text(row: Mapping[str, Any], column: Column, position: int, units: str) -> str:
    if position == 0 and "label" in row:
        return "· " * min(int(row.get("depth", 0)), 9) + harmless(str(row["label"]))
    return cell_of(row, column, units)


def _cut(rows: list[list[str]], most: int, width: int, total: int | None = None) -> list[list[str]]:
    """At most so many rows, and a last one that counts the others."""
    left = (len(rows) if total is None else total) - most
    return rows if left <= 0 else [*rows[:most], [f"\\[{left:,} more\\]", *[""] * (width - 1)]]
