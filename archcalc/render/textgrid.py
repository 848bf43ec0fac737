"""Lines on two axes as text: letters at the points and dots between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import log2

from archcalc.documents.sweep.curves import Line
from archcalc.documents.sweep.figure import Figure, Panel
from archcalc.errors import harmless
from archcalc.render.axes import heights, length_ticks, log_ticks, place, value_text
from archcalc.render.fit import width_of, wrapped
from archcalc.render.textstyle import COLORS, HEIGHT, LETTERS, Paint, numbered, shown

Cells = list[list[tuple[str, str]]]
"""Characters with their colours, from the top row down."""


def grid(figure: Figure, panel: Panel, units: str, width: int, paint: Paint) -> Iterator[str]:
    """The lines of a grid: a letter for each curve, in turns where several lie on each other; `*` where others meet."""
    low, high, _ = heights(figure)
    ticks = log_ticks(low, high, figure.y_unit, units, 6)
    margin = max(len(tick.text) for tick in ticks)
    size = width - margin - 2
    names = {HEIGHT - 1 - _row(tick.at, low, high): tick.text for tick in ticks}
    cells = _plotted(panel, low, high, size)
    _label(figure, panel, units, cells, low, high)
    for n, row in enumerate(cells):
        edge = "┤" if n in names else "│"
        yield f"{names.get(n, '').rjust(margin)} {edge}" + "".join(paint(c, code) if code else c for c, code in row)
    yield from _lengths(panel, size, margin + 1, width)
    yield ""
    yield from _keys(figure, panel, units, width, paint)
    if any(char == "*" for row in cells for char, _ in row):
        yield "* several"
    for limit in panel.limits:
        yield from shown(f"─ {value_text(limit.value, figure.y_unit, units)} {limit.label}", width)


def _letters(panel: Panel) -> list[tuple[Line, str]]:
    """Each line with the letters of its curves, in the order of the legend."""
    letters = iter(LETTERS)
    return [(line, "".join(next(letters) for _ in line.curves)) for line in panel.lines]


def _keys(figure: Figure, panel: Panel, units: str, width: int, paint: Paint) -> Iterator[str]:
    """What each letter stands for and from where to where it goes; curves with the same values together."""
    for line, letters in _letters(panel):
        named = list(zip(letters, line.labels, line.curves, strict=True))
        if line.same and (line.alike or len(letters) + 1 + width_of(harmless(line.label)) <= width):
            named = [(letters, line.label, line.curves[0])]
        for letter, name, curve in named:
            hues = [curve.hue] if len(named) > 1 else [c.hue for c in line.curves]
            ends = " to ".join(value_text(curve.values[n], figure.y_unit, units) for n in (0, -1))
            yield from _key(letter, hues, harmless(name or figure.y_label), ends, width, paint)


def _key(letters: str, hues: Sequence[int], name: str, ends: str, width: int, paint: Paint) -> Iterator[str]:
    room = width - len(letters) - 1
    text = wrapped(f"{name}: {ends}", room)
    text = text if len(text) == 1 else [*wrapped(f"{name}:", room), *wrapped(f"  {ends}", room)]
    sign = "".join(paint(letter, COLORS[hue % len(COLORS)]) for letter, hue in zip(letters, hues, strict=True))
    for n, line in enumerate(text):
        yield (" " * len(letters) if n else sign) + f" {line}"


def _row(value: int, low: int, high: int) -> int:
    """Row of a height on the grid, from the bottom."""
    return place(value, low, high, HEIGHT) if high > low else 0


def _plotted(panel: Panel, low: int, high: int, size: int) -> Cells:
    """The grid's cells: limits, the lines' dots, and the letters over them."""
    cells = [[(" ", "")] * size for _ in range(HEIGHT)]
    for limit in panel.limits:
        cells[HEIGHT - 1 - _row(limit.value, low, high)] = [("─", "2")] * size
    first, last = panel.xs[0], panel.xs[-1]
    for curve in panel.curves:
        code = COLORS[curve.hue % len(COLORS)]
        for column in range(size):
            height = _between(panel.xs, curve.values, first * (last / first) ** (column / (size - 1)))
            row = cells[HEIGHT - 1 - _row(height, low, high)]
            if row[column][0] in " ─":
                row[column] = ("·", code)
    for line, letters in _letters(panel):
        for n, x in enumerate(panel.points):
            turn = n % len(line.curves)
            curve = line.curves[turn]
            row = cells[HEIGHT - 1 - _row(curve.values[panel.xs.index(x)], low, high)]
            column = place(x, first, last, size)
            taken = row[column][0] in (*LETTERS, "*")
            row[column] = ("*", "") if taken else (letters[turn], COLORS[curve.hue % len(COLORS)])
    return cells


def _label(figure: Figure, panel: Panel, units: str, cells: Cells, low: int, high: int) -> None:
    """Each limit's height and name into its own line, where that is free for long enough."""
    for limit in panel.limits:
        row = cells[HEIGHT - 1 - _row(limit.value, low, high)]
        drawn = "".join(char for char, _ in row)
        value = value_text(limit.value, figure.y_unit, units)
        for text in (f"─ {harmless(' '.join((value, *limit.short)))} ─", f"─ {value} ─"):
            start = drawn.rfind("─" * len(text))
            if start >= 0:
                row[start : start + len(text)] = [(char, "2" if char == "─" else "") for char in text]
                break


def _between(xs: Sequence[int], values: Sequence[int], x: float) -> int:
    """A line's height at a length: straight on logarithmic axes between its neighbours."""
    n = next((n for n in range(1, len(xs)) if xs[n] >= x), len(xs) - 1)
    share = log2(max(x, xs[n - 1]) / xs[n - 1]) / log2(xs[n] / xs[n - 1])
    return round(2 ** (log2(values[n - 1]) + share * (log2(values[n]) - log2(values[n - 1]))))


def _lengths(panel: Panel, size: int, margin: int, width: int) -> Iterator[str]:
    """The horizontal axis: a line with strokes, and the lengths below them, as many as have room."""
    low, high = panel.xs[0], panel.xs[-1]
    for most in range(8, 0, -1):
        ticks = [(place(tick.at, low, high, size), tick.text) for tick in length_ticks(low, high, most)]
        numbers = numbered([(margin + 1 + column, text) for column, text in ticks], width)
        if numbers is not None:
            strokes = {column for column, _ in ticks}
            yield " " * margin + "└" + "".join("┬" if n in strokes else "─" for n in range(size))
            yield numbers
            return
    yield f"{' ' * margin}└{'─' * size}"
