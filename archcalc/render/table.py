"""Tables as text: as wide as they need to be for files and pipes, or fitted to a screen and painted for terminals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from archcalc.documents.document import Column, Report, Table
from archcalc.errors import harmless
from archcalc.render.cells import cell_of, first_line, quantity_lines
from archcalc.render.fit import GAP, HANG, fitted, padded, width_of, wrapped

Paint = Callable[[str, str], str]
"""(text, style) to the text as it is printed; a style is bold, dim, a verdict, or empty."""


def render(report: Report, units: str) -> str:
    """The report as aligned text without colour or width limit."""
    return drawn(report, units, None, lambda text, style: text)


def drawn(report: Report, units: str, width: int | None, paint: Paint) -> str:
    """The report as text of at most `width` columns (None: any), painted."""
    return "\n".join(line.rstrip() for line in _lines(report, units, width, paint)) + "\n"


def is_numeric(column: Column) -> bool:
    """Whether a column is aligned to the right."""
    return column.unit not in ("text", "prose", "bool")


def _lines(report: Report, units: str, width: int | None, paint: Paint) -> Iterator[str]:
    yield from (paint(line, "bold") for line in wrapped(harmless(first_line(report, units)), width, 2))
    if not report.rows_tell:
        yield from _quantities(report, units, width, paint)
    for table in report.in_reading_order:
        if table.rows:
            yield ""
            if table.title:
                yield from (paint(line, "bold") for line in wrapped(harmless(table.title), width))
            yield from _table(table, units, width, paint)
            if table.note:
                yield from (paint(line, "dim") for line in wrapped(harmless(table.note), width))
    for title, sentences in (
        ("notes", report.notes),
        ("assumed", report.assumptions),
        ("counted", report.conventions),
    ):
        if sentences:
            yield ""
            yield from _list(title, sentences, width, paint)


def _quantities(report: Report, units: str, width: int | None, paint: Paint) -> Iterator[str]:
    lines = [("  " + label, text, more) for label, text, more in quantity_lines(report, units)]
    if not lines:
        return
    shown, sizes = fitted(lines, (True, False, False), width)
    for line in lines:
        heads = wrapped(line[0], sizes[0], 2)
        cells = [padded(line[i], size, True) for i, size in zip(shown[1:], sizes[1:], strict=True)]
        styled = [paint(text, style) for text, style in zip(cells, ("bold", "dim"), strict=False)]
        yield (" " * GAP).join([padded(heads[0], sizes[0], False), *styled])
        yield from heads[1:]


def _table(table: Table, units: str, width: int | None, paint: Paint) -> Iterator[str]:
    """Header, rule and rows; prose stands below its row, and columns that do not fit are named at the end."""
    columns = [column for column in table.columns if column.unit != "prose"]
    prose = [column for column in table.columns if column.unit == "prose"]
    body = [[_cell(row, c, i, units) for i, c in enumerate(columns)] for row in table.rows]
    head = [harmless(column.title) for column in columns]
    shown, sizes = fitted(
        [head, *body], [not is_numeric(c) for c in columns], width, [i for i, c in enumerate(columns) if c.keep]
    )
    numeric = [is_numeric(columns[i]) for i in shown]

    def line_up(cells: Sequence[str], styles: Sequence[str]) -> Iterator[str]:
        split = [wrapped(cells[i], size, HANG) for i, size in zip(shown, sizes, strict=True)]
        for n in range(max(map(len, split))):
            texts = [part[n] if n < len(part) else "" for part in split]
            yield (" " * GAP).join(
                paint(padded(text, size, right), styles[i])
                for text, size, right, i in zip(texts, sizes, numeric, shown, strict=True)
            )

    if any(head):
        yield from line_up(head, [""] * len(columns))
        yield "-" * (sum(sizes) + GAP * (len(shown) - 1))
    for row, cells in zip(table.rows, body, strict=True):
        styles = [cells[i] if c.key in ("verdict", "result") else "" for i, c in enumerate(columns)]
        yield from line_up(cells, styles)
        for column in prose:
            text = cell_of(row, column, units)
            if text:
                yield from wrapped(f"    {harmless(column.title)}: {text}", width, 2)
    if len(shown) < len(columns):
        left_out = ", ".join(harmless(columns[i].title) for i in range(len(columns)) if i not in shown)
        yield from (
            paint(line, "dim") for line in wrapped(f"too narrow for: {left_out} (--format json has all)", width)
        )


def _cell(row: Mapping[str, Any], column: Column, position: int, units: str) -> str:
    """One cell; a row's label stands in its first column, indented by its depth."""
    if position == 0 and "label" in row:
        return "  " * int(row.get("depth", 0)) + harmless(str(row["label"]))
    return cell_of(row, column, units)


def _list(title: str, sentences: Sequence[str], width: int | None, paint: Paint) -> Iterator[str]:
    """Sentences beside their common title; later lines stand below the first sentence."""
    margin = width_of(title) + 2
    room = None if width is None else max(8, width - margin)
    lines = [line for sentence in sentences for line in wrapped(harmless(sentence), room, 2)]
    for i, line in enumerate(lines):
        yield (paint(f"{title}: ", "dim") if i == 0 else " " * margin) + line
