"""A figure as text for a terminal, at most 72 columns: bars for stacks, a grid of letters for lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from math import log2

from archcalc.documents.sweep.figure import Figure, Panel
from archcalc.errors import harmless
from archcalc.render.axes import (
    Tick,
    bar_names,
    heights,
    length_ticks,
    linear_scale,
    linear_ticks,
    log_ticks,
    place,
    value_text,
)
from archcalc.render.fit import padded, width_of, wrapped

WIDTH = 72
"""Columns of the longest line."""

HEIGHT = 15
"""Lines of a grid."""

BLOCKS = "█▒▓░▚▞▖"
"""One for each layer's number, as `hue` counts them."""

LETTERS = "abcdefghijkl"
"""One for each line."""

_COLORS = ("34", "36", "32", "31", "33", "35", "37")
"""Select Graphic Rendition parameters (ECMA-48, 8.3.117) by `hue`."""

ASCII = str.maketrans("█▒▓░▚▞▖│┤─└┴┬·×←", "#=%-xo,|+-+++.!<")
"""For a terminal or file whose encoding has no blocks."""

Paint = Callable[[str, str], str]
"""(text, parameters) to the text as it is printed."""


def render(figure: Figure, units: str = "gib", *, color: bool = False) -> str:
    """The figure as text, with ANSI colours if `color`. `units` is gib, gb or bytes."""

    def paint(text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if color and text.strip() else text

    lines = _lines(figure, units, paint)
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _lines(figure: Figure, units: str, paint: Paint) -> Iterator[str]:
    yield from (paint(line, "1") for line in _wrapped(figure.title))
    yield from (paint(line, "2") for line in _wrapped(figure.setting))
    for panel in figure.panels:
        yield ""
        yield from (paint(line, "1") for line in _wrapped(panel.title))
        yield from _wrapped(_verdict(figure, panel, units))
        yield from (_grid if figure.shape == "lines" else _bars)(figure, panel, units, paint)
    if figure.shape != "lines":
        yield from _keys(figure, units, paint)


def _wrapped(text: str) -> list[str]:
    return wrapped(harmless(text), WIDTH, 2) if text else []


def _verdict(figure: Figure, panel: Panel, units: str) -> str:
    for mark in panel.marks:
        if mark.text:
            return f"{mark.text} {value_text(mark.y, figure.y_unit, units)}" if mark.valued else mark.text
    return panel.verdict


def _bars(figure: Figure, panel: Panel, units: str, paint: Paint) -> Iterator[str]:
    """A bar for each of the points, a scale below them; the limit is a stroke through all."""
    margin = 1 + max(len(name) for p in figure.panels for name in _names(figure, p).values())
    values = {total: value_text(total, figure.y_unit, units) for p in figure.panels for total in p.totals()}
    longest = max(map(len, values.values()))
    size, top = WIDTH - margin - longest - 4, heights(figure)[1]
    marked = {mark.x for mark in panel.marks if mark.valued}
    totals = panel.totals()
    for n, name in _names(figure, panel).items():
        x, total = panel.xs[n], totals[n]
        cells = _cells([(BLOCKS[c.hue], _COLORS[c.hue], c.values[n]) for c in panel.curves], top, size)
        if panel.limit:
            cells[min(_column(panel.limit.value, top, size), size)] = ("│", "1")
        bar = "".join(paint("".join(c for c, _ in run), code) for code, run in groupby(cells, lambda c: c[1]))
        sign = "×" * panel.over(total) + "←" * (x in marked)
        yield f"{name.rjust(margin - 1)} {bar} {values[total].rjust(longest)}{sign.rjust(2)}"
    scale = linear_scale(top, figure.y_unit, units)
    yield from _ruler(linear_ticks(top, scale, 5), top, size, margin, scale.name)


def _names(figure: Figure, panel: Panel) -> dict[int, str]:
    """What each bar is called, by its number; only the points have one."""
    below = panel.below or ("",) * len(panel.xs)
    both = zip(panel.xs, bar_names(panel, figure.across.unit), below, strict=True)
    return {n: f"{name} {more}".strip() for n, (x, name, more) in enumerate(both) if x in panel.points}


def _column(value: int, top: int, size: int) -> int:
    """Cells below a value on a scale of `size` cells up to `top`, rounded half up."""
    return (2 * value * size + top) // (2 * top)


def _cells(layers: Sequence[tuple[str, str, int]], top: int, size: int) -> list[tuple[str, str]]:
    """The bar's cells and one more; a layer ends where the sum up to it does, so rounding never adds up."""
    cells: list[tuple[str, str]] = []
    total = 0
    for block, code, value in layers:
        total += value
        cells += [(block, code)] * (_column(total, top, size) - len(cells))
    return cells + [(" ", "")] * (size + 1 - len(cells))


def _ruler(ticks: Sequence[Tick], top: int, size: int, margin: int, unit: str) -> Iterator[str]:
    """A scale: a line with strokes, and the numbers below them."""
    marks, numbers = ["─"] * (size + 1), " " * margin
    for tick in ticks:
        column = _column(tick.at, top, size)
        marks[column] = "┴" if column else "└"
        numbers = numbers.ljust(margin + column - (len(tick.text) // 2 if column else 0)) + tick.text
    yield " " * margin + "".join(marks)
    yield f"{numbers} {unit}"


def _keys(figure: Figure, units: str, paint: Paint) -> Iterator[str]:
    """What the blocks, the stroke and the sign mean."""
    keys = [(BLOCKS[c.hue], c.label, _COLORS[c.hue]) for c in figure.panels[0].curves]
    for limit in sorted({limit for panel in figure.panels for limit in panel.limits}):
        keys.append(("│", f"{value_text(limit.value, figure.y_unit, units)} {limit.label}", "1"))
    if any(p.over(total) for p in figure.panels for total in p.totals()):
        keys.append(("×", "does not fit", ""))
    yield ""
    line, used = "", 0
    for sign, label, code in keys:
        text = f" {harmless(label)}"
        if used and used + 3 + width_of(text) > WIDTH:
            yield line
            line, used = "", 0
        line += ("  " if used else "") + (paint(sign, code) if code else sign) + text
        used += (2 if used else 0) + 1 + width_of(text)
    yield line


def _grid(figure: Figure, panel: Panel, units: str, paint: Paint) -> Iterator[str]:
    """Lines on two axes, as letters at the points and dots between them; a letter for each line, `*` for several."""
    low, high = heights(figure)
    ticks = log_ticks(low, high, figure.y_unit, units, 6)
    margin = max(len(tick.text) for tick in ticks)
    size = WIDTH - margin - 2
    names = {HEIGHT - 1 - _row(tick.at, low, high): tick.text for tick in ticks}
    cells = _plotted(panel, low, high, size)
    for n, row in enumerate(cells):
        edge = "┤" if n in names else "│"
        yield f"{names.get(n, '').rjust(margin)} {edge}" + "".join(paint(c, code) if code else c for c, code in row)
    yield from _lengths(panel, size, margin + 1)
    yield ""
    for letter, curve in zip(LETTERS, panel.curves, strict=False):
        ends = " to ".join(value_text(curve.values[n], figure.y_unit, units) for n in (0, -1))
        name = harmless(curve.label or figure.y_label)
        text = wrapped(f"{name}: {ends}", WIDTH - 2)
        text = text if len(text) == 1 else [*wrapped(f"{name}:", WIDTH - 2), f"  {ends}"]
        for i, line in enumerate(text):
            yield (paint(letter, _COLORS[curve.hue % len(_COLORS)]) if i == 0 else " ") + f" {line}"
    if any(char == "*" for row in cells for char, _ in row):
        yield "* several"
    for limit in panel.limits:
        yield from _wrapped(f"─ {value_text(limit.value, figure.y_unit, units)} {limit.label}")


def _row(value: int, low: int, high: int) -> int:
    """Row of a height on the grid, from the bottom."""
    return place(value, low, high, HEIGHT) if high > low else 0


def _plotted(panel: Panel, low: int, high: int, size: int) -> list[list[tuple[str, str]]]:
    """The grid's cells with their colours, from the top row down."""
    cells = [[(" ", "")] * size for _ in range(HEIGHT)]
    for limit in panel.limits:
        cells[HEIGHT - 1 - _row(limit.value, low, high)] = [("─", "2")] * size
    first, last = panel.xs[0], panel.xs[-1]
    for curve in panel.curves:
        code = _COLORS[curve.hue % len(_COLORS)]
        for column in range(size):
            height = _between(panel.xs, curve.values, first * (last / first) ** (column / (size - 1)))
            row = cells[HEIGHT - 1 - _row(height, low, high)]
            if row[column][0] in " ─":
                row[column] = ("·", code)
    for letter, curve in zip(LETTERS, panel.curves, strict=False):
        code = _COLORS[curve.hue % len(_COLORS)]
        for x in panel.points:
            row = cells[HEIGHT - 1 - _row(curve.values[panel.xs.index(x)], low, high)]
            column = place(x, first, last, size)
            row[column] = ("*", "") if row[column][0] in (*LETTERS, "*") else (letter, code)
    return cells


def _between(xs: Sequence[int], values: Sequence[int], x: float) -> int:
    """A line's height at a length: straight on logarithmic axes between its neighbours."""
    n = next((n for n in range(1, len(xs)) if xs[n] >= x), len(xs) - 1)
    share = log2(max(x, xs[n - 1]) / xs[n - 1]) / log2(xs[n] / xs[n - 1])
    return round(2 ** (log2(values[n - 1]) + share * (log2(values[n]) - log2(values[n - 1]))))


def _lengths(panel: Panel, size: int, margin: int) -> Iterator[str]:
    """The horizontal axis: a line with strokes, and the lengths below them."""
    low, high = panel.xs[0], panel.xs[-1]
    marks, numbers = ["─"] * size, " " * (margin + 1)
    for tick in length_ticks(low, high, 8):
        column = place(tick.at, low, high, size)
        marks[column] = "┬"
        start = min(margin + 1 + column - len(tick.text) // 2, WIDTH - len(tick.text))
        numbers = padded(numbers, max(start, len(numbers)), False) + tick.text
    yield " " * margin + "└" + "".join(marks)
    yield numbers
