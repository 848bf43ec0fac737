"""What a picture's legend lists: a style and its text, curves first, then limits and signs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from archcalc.documents.sweep.figure import Figure
from archcalc.render import sheet as look
from archcalc.render.axes import value_text


class Entry(NamedTuple):
    """One entry: the style of its sample, whether that is an area or a line, and its text."""

    style: dict[str, Any]
    area: bool
    text: str


def curve_entries(figure: Figure) -> Iterator[Entry]:
    """What the areas, bars or lines stand for; a single line is named by the title."""
    curves = figure.panels[0].curves
    for curve in curves:
        if figure.shape != "lines":
            color, hatch = look.STACK[curve.hue]
            yield Entry({"facecolor": color, "hatch": hatch, "edgecolor": "white"}, True, curve.label)
        elif len(curves) > 1:
            yield Entry(look.line_style(curve.hue, curve.dash), False, curve.label)


def guide_entries(figure: Figure, units: str) -> Iterator[Entry]:
    """The limit, and what the signs mean."""
    for limit in sorted({limit for panel in figure.panels for limit in panel.limits}):
        yield Entry(look.LIMIT, False, f"{value_text(limit.value, figure.y_unit, units)} {limit.label}")
    if any(panel.edge for panel in figure.panels):
        yield Entry(look.EDGE, False, "the model's own context limit")
    if figure.shape == "bars" and any(panel.over(total) for panel in figure.panels for total in panel.totals()):
        yield Entry(look.UNFIT, False, "does not fit")
