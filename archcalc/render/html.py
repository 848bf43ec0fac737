"""HTML for notebooks: the answer, the quantities, the tables; long ones are folded. It takes the page's own colours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from archcalc.documents.document import Column, Report, Table
from archcalc.errors import harmless
from archcalc.render.cells import cell_of, first_line, quantity_lines
from archcalc.render.table import is_numeric

SHORT = 24
"""Rows of a table that stand open."""

MOST = 1000
"""Rows that are shown at all; the others are counted."""

_STYLE = (
    ".archcalc table{border-collapse:collapse;margin:.4em 0}"
    ".archcalc th,.archcalc td{padding:.15em .6em;border-bottom:1px solid rgba(128,128,128,.35);"
    "text-align:left;vertical-align:top}"
    ".archcalc .n{text-align:right;font-variant-numeric:tabular-nums}"
)


def render(report: Report, units: str) -> str:
    """A report as one block of HTML; every text is escaped."""
    if report.command == "diff":
        from archcalc.render.changes import readable

        report = readable(report, units)
    return f'<div class="archcalc"><style>{_STYLE}</style>\n' + "\n".join(_blocks(report, units)) + "\n</div>"


def picture(svg: str, title: str) -> str:
    """A picture by its base64 text: as an image, so that nothing in it reaches the page."""
    return f'<img alt="{safe(title)}" src="data:image/svg+xml;base64,{svg}" style="max-width:100%;background:#fff">\n'


def preformatted(text: str) -> str:
    """Text whose lines and spaces stay."""
    lines = (safe(line) for line in text.splitlines())
    return "<pre>" + "\n".join(lines) + "</pre>\n"


def safe(text: str) -> str:
    """Text that is no markup, with what does not print as itself shown as an escape."""
    return escape(harmless(text), quote=True)


def _blocks(report: Report, units: str) -> Iterator[str]:
    yield f"<p><strong>{safe(first_line(report, units))}</strong></p>"
    if report.quantities and not report.rows_tell:
        yield _grid(None, [False, True, True], [list(line) for line in quantity_lines(report, units)])
    for table in report.in_reading_order:
        if table.rows:
            yield _table(table, units)
    if report.notes:
        yield _list(report.notes)
    for title, sentences in (("assumed", report.assumptions), ("counted", report.conventions)):
        if sentences:
            yield _folded(f"{title} ({len(sentences)})", _list(sentences))


def _table(table: Table, units: str) -> str:
    columns = table.columns
    rows = [[_text(row, c, i, units) for i, c in enumerate(columns)] for row in table.rows[:MOST]]
    heads = [column.title for column in columns]
    body = _grid(heads if any(heads) else None, [is_numeric(column) for column in columns], rows)
    if (left := len(table.rows) - MOST) > 0:
        body += f"<p>[{left:,} more: to_dataframe and save have them]</p>"
    if table.note:
        body += f"<p><small>{safe(table.note)}</small></p>"
    if len(table.rows) > SHORT:
        return _folded(f"{table.title} ({len(table.rows):,})", body)
    return f"<p>{safe(table.title)}</p>{body}" if table.title else body


def _text(row: Mapping[str, Any], column: Column, position: int, units: str) -> str:
    if position == 0 and "label" in row:
        return "\u2003" * int(row.get("depth", 0)) + str(row["label"])
    return cell_of(row, column, units)


def _grid(head: Sequence[str] | None, numeric: Sequence[bool], rows: Sequence[Sequence[str]]) -> str:
    marks = [' class="n"' if right else "" for right in numeric]
    lines = [] if head is None else [_line("th", head, marks)]
    return "<table>" + "".join([*lines, *(_line("td", row, marks) for row in rows)]) + "</table>"


def _line(tag: str, cells: Sequence[str], marks: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}{m}>{_cell(text)}</{tag}>" for text, m in zip(cells, marks, strict=True)) + "</tr>"


def _cell(text: str) -> str:
    """A cell's text; the spaces that indent it stay."""
    bare = text.lstrip("\u2003")
    return "&emsp;" * (len(text) - len(bare)) + safe(bare)


def _folded(summary: str, body: str) -> str:
    return f"<details><summary>{safe(summary)}</summary>{body}</details>"


def _list(sentences: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{safe(line)}</li>" for line in sentences) + "</ul>"
