"""Tables for a terminal, drawn by rich; as wide as they need to be off a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import StringIO
from os import environ
from typing import Any

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from archcalc.errors import harmless
from archcalc.render.cells import cell, quantity_lines
from archcalc.report.document import Column, Report, Table

OFF_TERMINAL_WIDTH = 10_000
"""Columns where nothing needs to be cut: files and pipes have no edge."""

VERDICT_STYLES = {
    "confirmed": "green",
    "rounded": "green",
    "convention": "yellow",
    "refuted": "red",
    "unstated": "cyan",
    "equal": "green",
    "differs": "bold red",
}


def render(report: Report, units: str, *, width: int | None = None, color: bool = False) -> str:
    """The report for people.

    Args:
        width: columns of the terminal, or None off a terminal.
        color: whether to style with ANSI colours.
    """
    out = StringIO()
    console = Console(
        file=out,
        width=width or OFF_TERMINAL_WIDTH,
        force_terminal=color,
        no_color=not color,
        highlight=False,
        soft_wrap=False,
        legacy_windows=False,
        _environ={} if not color else dict(environ),
    )
    for block in _blocks(report, units):
        console.print(block)
    lines = out.getvalue().split("\n")
    return "\n".join(line.rstrip() for line in lines) if not color else out.getvalue()


def _blocks(report: Report, units: str) -> list[RenderableType]:
    blocks: list[RenderableType] = [Text(harmless(report.title), style="bold")]
    if report.quantities:
        blocks.append(_quantities(report, units))
    for table in (report.findings_table, report.rows, *report.tables):
        if table is not None and table.rows:
            blocks += ["", Text(harmless(table.title), style="bold"), _table(table, units)]
            if table.note:
                blocks.append(Text(harmless(table.note), style="dim"))
    for title, lines in (("notes", report.notes), ("assumed", report.assumptions), ("counted", report.conventions)):
        if lines:
            blocks += ["", _list(title, lines)]
    return blocks


def _quantities(report: Report, units: str) -> RichTable:
    grid = RichTable.grid(padding=(0, 2))
    grid.add_column()
    grid.add_column(justify="right", style="bold")
    grid.add_column(justify="right", style="dim")
    for label, text, exact in quantity_lines(report, units):
        grid.add_row(Text("  " + harmless(label)), Text(text), Text(exact))
    return grid


def _list(title: str, lines: Sequence[str]) -> RichTable:
    grid = RichTable.grid(padding=(0, 1))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column()
    for i, line in enumerate(lines):
        grid.add_row(f"{title}:" if i == 0 else "", Text(harmless(line)))
    return grid


def _table(table: Table, units: str) -> RichTable:
    drawn = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1))
    for i, column in enumerate(table.columns):
        numeric = column.unit not in ("text", "bool")
        drawn.add_column(
            Text(column.title), justify="right" if numeric else "left", no_wrap=numeric, overflow="fold", ratio=None if i else None
        )
    for row in table.rows:
        drawn.add_row(*(_cell(row, column, i, units) for i, column in enumerate(table.columns)))
    return drawn


def _cell(row: Mapping[str, Any], column: Column, position: int, units: str) -> Text:
    if position == 0 and "label" in row:
        return Text("  " * row.get("depth", 0) + harmless(str(row["label"])))
    text = cell(row.get(column.key), column.unit, units)
    return Text(text, style=VERDICT_STYLES.get(text, "") if column.key in ("verdict", "result") else "")
