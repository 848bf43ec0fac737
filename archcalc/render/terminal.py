"""The same tables on a terminal, fitted to its width and coloured by rich."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from archcalc.errors import harmless
from archcalc.render.cells import quantity_lines
from archcalc.render.table import is_numeric, sections, table_cell, tables
from archcalc.report.document import Column, Report, Table

VERDICT_STYLES = {
    "confirmed": "green",
    "rounded": "green",
    "convention": "yellow",
    "refuted": "red",
    "unstated": "cyan",
    "equal": "green",
    "differs": "bold red",
}


def render(report: Report, units: str, *, width: int, color: bool) -> str:
    """The report fitted to `width` columns, with ANSI colours if `color`."""
    out = StringIO()
    console = Console(
        file=out,
        width=width,
        force_terminal=color,
        no_color=not color,
        color_system="standard" if color else None,
        highlight=False,
        emoji=False,
        legacy_windows=False,
    )
    for block in _blocks(report, units):
        console.print(block)
    return "\n".join(line.rstrip() for line in out.getvalue().split("\n"))


def _blocks(report: Report, units: str) -> list[RenderableType]:
    blocks: list[RenderableType] = [Text(harmless(report.title), style="bold")]
    if report.quantities:
        blocks.append(_quantities(report, units))
    for table in tables(report):
        blocks += [Text(""), Text(harmless(table.title), style="bold"), _table(table, units)]
        if table.note:
            blocks.append(Text(harmless(table.note), style="dim"))
    for title, sentences in sections(report):
        blocks += [Text(""), _list(title, sentences)]
    return blocks


def _quantities(report: Report, units: str) -> RichTable:
    grid = RichTable.grid(padding=(0, 2))
    grid.add_column()
    grid.add_column(justify="right", style="bold")
    grid.add_column(justify="right", style="dim")
    for label, text, exact in quantity_lines(report, units):
        grid.add_row(Text("  " + label), Text(text), Text(exact))
    return grid


def _list(title: str, sentences: Sequence[str]) -> RichTable:
    grid = RichTable.grid(padding=(0, 1))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column()
    for i, sentence in enumerate(sentences):
        grid.add_row(f"{title}:" if i == 0 else "", Text(harmless(sentence)))
    return grid


def _table(table: Table, units: str) -> RichTable:
    drawn = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1))
    for column in table.columns:
        numeric = is_numeric(column)
        drawn.add_column(
            Text(column.title), justify="right" if numeric else "left", no_wrap=numeric, overflow="fold"
        )
    for row in table.rows:
        drawn.add_row(*(_cell(row, column, i, units) for i, column in enumerate(table.columns)))
    return drawn


def _cell(row: Mapping[str, Any], column: Column, position: int, units: str) -> Text:
    text = table_cell(row, column, position, units)
    return Text(text, style=VERDICT_STYLES.get(text, "") if column.key in ("verdict", "result") else "")
