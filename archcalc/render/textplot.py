"""A figure as text for a terminal, fitted to its width: bars for stacks, a grid of letters for lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from archcalc.documents.sweep.figure import Figure, Limit, Panel
from archcalc.errors import harmless
from archcalc.render.axes import bar_names, heights, linear_scale, linear_ticks, value_text
from archcalc.render.fit import width_of, wrapped
from archcalc.render.inert import inert
from archcalc.render.textgrid import grid
from archcalc.render.textstyle import BLOCKS, COLORS, NARROWEST, WIDEST, WIDTH, Paint, numbered, shown

SHORTEST = 10
"""Cells of the longest bar; where beside its name and its number there are less, it stands below them."""


def render(figure: Figure, units: str = "gib", *, width: int = WIDTH, color: bool = False) -> str:
    """The figure as text of at most `width` columns, which are kept between NARROWEST and WIDEST, with ANSI colours if
    `color`. `units` is gib, gb or bytes."""

    def paint(text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if color and text.strip() else text

    lines = _lines(figure, units, min(max(width, NARROWEST), WIDEST), paint)
    return inert("\n".join(line.rstrip() for line in lines) + "\n")


def _lines(figure: Figure, units: str, width: int, paint: Paint) -> Iterator[str]:
    yield from (paint(line, "1") for line in shown(figure.title, width))
    yield from (paint(line, "2") for line in shown(figure.setting, width))
    for panel in figure.panels:
        yield ""
        yield from (paint(line, "1") for line in shown(panel.title, width))
        yield from shown(_verdict(figure, panel, units), width)
        yield from (grid if figure.shape == "lines" else _bars)(figure, panel, units, width, paint)
    if figure.shape != "lines":
        yield from _keys(figure, units, width, paint)


def _verdict(figure: Figure, panel: Panel, units: str) -> str:
    for mark in panel.marks:
        if mark.text:
            return f"{mark.text} {value_text(mark.y, figure.y_unit, units)}" if mark.valued else mark.text
    return panel.verdict


def _bars(figure: Figure, panel: Panel, units: str, width: int, paint: Paint) -> Iterator[str]:
    """A bar for each of the points, a scale below them; the limit is a stroke through all, named above them."""
    margin = 1 + max(len(name) for p in figure.panels for name in _names(figure, p).values())
    values = {total: value_text(total, figure.y_unit, units) for p in figure.panels for total in p.totals()}
    longest, top = max(map(len, values.values())), heights(figure).top
    size = width - margin - longest - 4
    below = size < SHORTEST
    if below:
        margin, size = 1, width - 10
    marked = {mark.x for mark in panel.marks if mark.valued}
    totals = panel.totals()
    if panel.limit:
        yield _named(figure, panel.limit, units, margin + _column(panel.limit.value, top, size), width)
    for n, name in _names(figure, panel).items():
        x, total = panel.xs[n], totals[n]
        cells = _cells([(BLOCKS[c.hue], COLORS[c.hue], c.values[n]) for c in panel.curves], top, size)
        if panel.limit:
            cells[min(_column(panel.limit.value, top, size), size)] = ("│", "1")
        bar = "".join(paint("".join(c for c, _ in run), code) for code, run in groupby(cells, lambda c: c[1]))
        sign = "×" * panel.over(total) + "←" * (x in marked)
        if below:
            yield f"{name}: {values[total]} {sign}"
            yield " " + bar
        else:
            yield f"{name.rjust(margin - 1)} {bar} {values[total].rjust(longest)}{sign.rjust(2)}"
    yield from _ruler(figure, units, top, size, margin, width)


def _named(figure: Figure, limit: Limit, units: str, column: int, width: int) -> str:
    """A stroke at the limit's column, its height and name left or right of it, or its height alone."""
    value = value_text(limit.value, figure.y_unit, units)
    for text in (harmless(" ".join((value, *limit.short))), value):
        if width_of(text) < column:
            return f"{' ' * (column - width_of(text) - 1)}{text} │"
        if column + 2 + width_of(text) <= width:
            return f"{' ' * column}│ {text}"
    return " " * column + "│"


def _names(figure: Figure, panel: Panel) -> dict[int, str]:
    """What each bar is called, by its number; only the points have one."""
    below = panel.below or ("",) * len(panel.xs)
    both = zip(panel.xs, bar_names(panel, figure.across.unit), below, strict=True)
    return {n: f"{name} {more}".strip() for n, (x, name, more) in enumerate(both) if x in panel.points}


def _column(value: int, top: int, size: int) -> int:
    """Cells below a value on a scale of `size` cells up to `top`, rounded half up."""
    return (2 * value * size + top) // (2 * top)


def _cells(layers: Sequence[tuple[str, str, int]], top: int, size: int) -> list[tuple[str, str]]:
    """The bar's cells and one more, which is a sign where the bar is cut off there.

    A layer ends where the sum up to it does, so rounding never adds up.
    """
    cells: list[tuple[str, str]] = []
    total = 0
    for block, code, value in layers:
        total += value
        cells += [(block, code)] * (min(_column(total, top, size), size) - len(cells))
    if total > top:
        return [*cells[:size], ("»", "1")]
    return cells + [(" ", "")] * (size + 1 - len(cells))


def _ruler(figure: Figure, units: str, top: int, size: int, margin: int, width: int) -> Iterator[str]:
    """A scale: a line with strokes, and the numbers below them, as many as have room."""
    scale = linear_scale(top, figure.y_unit, units)
    for most in range(5, 0, -1):
        ticks = linear_ticks(top, scale, most)
        strokes = {_column(tick.at, top, size) for tick in ticks}
        places = [(margin + _column(tick.at, top, size), tick.text) for tick in ticks]
        numbers = numbered(places, width, f" {scale.name}")
        if numbers is not None:
            yield " " * margin + "└" + "".join("┴" if n in strokes else "─" for n in range(1, size + 1))
            yield numbers
            return
    yield f"{' ' * margin}└{'─' * size}"
    yield f"{' ' * margin}0"


def _keys(figure: Figure, units: str, width: int, paint: Paint) -> Iterator[str]:
    """What the blocks, the stroke and the signs mean, as many in a line as have room."""
    keys = [(BLOCKS[c.hue], c.label, COLORS[c.hue]) for c in figure.panels[0].curves]
    for limit in sorted({limit for panel in figure.panels for limit in panel.limits}):
        keys.append(("│", f"{value_text(limit.value, figure.y_unit, units)} {limit.label}", "1"))
    if any(p.over(total) for p in figure.panels for total in p.totals()):
        keys.append(("×", "does not fit", ""))
    if heights(figure).cut:
        keys.append(("»", "cut off: longer than the scale", "1"))
    yield ""
    line, used = "", 0
    for sign, label, code in keys:
        first, *more = wrapped(harmless(label), width - 2)
        if used and (more or used + 4 + width_of(first) > width):
            yield line
            line, used = "", 0
        line += ("  " if used else "") + (paint(sign, code) if code else sign) + f" {first}"
        used += (2 if used else 0) + 2 + width_of(first)
        for part in more:
            yield line
            line, used = f"  {part}", 2 + width_of(part)
    yield line
