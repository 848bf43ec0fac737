"""What stands inside a panel: areas, bars, lines, limits, marks, and breaks where a stack is cut off."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.transforms import ScaledTranslation

from archcalc.documents.sweep.figure import Panel
from archcalc.render import sheet as look
from archcalc.render.axes import Heights

_TEETH = 36
"""Teeth of a break as wide as the panel."""


def share(axes: Axes, at: int, *, up: bool = False) -> float:
    """Where a place of an axis lies, from 0 to 1: of the horizontal one, or of the vertical one."""
    data = (1, at) if up else (at, 1)
    return float(axes.transAxes.inverted().transform(axes.transData.transform(data))[int(up)])


def _areas(axes: Axes, panel: Panel) -> None:
    base = (0,) * len(panel.xs)
    for curve in panel.curves:
        upper = tuple(a + b for a, b in zip(base, curve.values, strict=True))
        color, hatch = look.STACK[curve.hue]
        axes.fill_between(
            panel.xs, base, upper, facecolor=color, hatch=hatch, edgecolor="white", linewidth=0.0, zorder=2
        )
        axes.plot(panel.xs, upper, color="white", linewidth=1.0, zorder=2.5)
        base = upper


def _bars(axes: Axes, panel: Panel) -> None:
    base = (0,) * len(panel.xs)
    for curve in panel.curves:
        color, hatch = look.STACK[curve.hue]
        places = range(len(panel.xs))
        style: dict[str, Any] = {"color": color, "hatch": hatch, "edgecolor": "white", "linewidth": 0.7}
        axes.bar(places, curve.values, look.BAR, base, zorder=2, **style)
        base = tuple(a + b for a, b in zip(base, curve.values, strict=True))


def _lines(axes: Axes, panel: Panel) -> None:
    """Curves that lie on each other take turns, with their dashes and their markers, which no dash crosses."""
    places = [panel.xs.index(x) for x in panel.points]
    for line in panel.lines:
        of = len(line.curves)
        for n, curve in enumerate(line.curves):
            style = look.piece_style(curve.hue, curve.dash, n, of) | {"clip_on": False, "zorder": 3}
            if of > 1:
                axes.plot(panel.xs, curve.values, **style | {"marker": ""})
                style |= {"linestyle": "", "zorder": 3.2}
            axes.plot(panel.xs, curve.values, markevery=places[n::of], **style)


SHAPES: dict[str, Callable[[Axes, Panel], None]] = {"areas": _areas, "bars": _bars, "lines": _lines}


def edges(axes: Axes, panel: Panel, heights: Heights, *, bars: bool) -> None:
    """The limit, the model's own context limit, and the marks."""
    for limit in panel.limits:
        axes.axhline(limit.value, zorder=4, **look.LIMIT)
    if panel.edge:
        axes.axvline(panel.edge, zorder=3.5, **look.EDGE)
    for mark in panel.marks:
        if bars:
            axes.bar(panel.xs.index(mark.x), mark.y, look.BAR, zorder=3, **look.PEAK)
            continue
        if mark.text:
            foot = axes.get_ylim()[0]
            axes.plot([mark.x, mark.x], [foot, mark.y], color="black", linewidth=0.9, zorder=4.5)
        axes.plot(mark.x, mark.y, clip_on=False, zorder=5, **look.CROSSING)
    sheet = axes.get_figure()
    assert sheet is not None
    above = axes.transData + ScaledTranslation(0, 6 / 72, sheet.dpi_scale_trans)
    for n, total in enumerate(panel.totals()):
        if bars and panel.over(total):
            axes.plot(n, min(total, heights.top), clip_on=False, zorder=6, transform=above, **look.UNFIT)


def breaks(axes: Axes, panel: Panel, cut: Sequence[int], *, bars: bool) -> None:
    """A jagged white line through the stacks that are cut off, by their numbers, and two strokes on the axis."""
    for n in cut if bars else cut[:1]:
        ends = (n - look.BAR / 2, n + look.BAR / 2) if bars else (panel.xs[n], panel.xs[-1])
        left, right = (share(axes, x) for x in ends)  # type: ignore[arg-type]
        teeth = max(2, round(_TEETH * (right - left)))
        xs = [left + (right - left) * tooth / teeth for tooth in range(teeth + 1)]
        ys = [look.BREAK + 0.012 * (-1) ** tooth for tooth in range(teeth + 1)]
        axes.plot(xs, ys, transform=axes.transAxes, zorder=4.2, **look.BROKEN)
    for up in (0.0, 0.02):
        middle = look.BREAK + up - 0.01
        ends = (middle - 0.012, middle + 0.012)
        axes.plot((-0.012, 0.012), ends, transform=axes.transAxes, zorder=7, **look.STROKE)
