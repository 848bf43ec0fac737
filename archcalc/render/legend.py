"""What a picture's legend lists: a style and its text, curves first, then limits and signs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from archcalc.documents.sweep.figure import Figure
from archcalc.render import sheet as look
from archcalc.render.axes import value_text


class Entry(NamedTuple):
    """One entry: the styles of its samples, whether those are areas or lines, and its text."""

    styles: tuple[dict[str, Any], ...]
    area: bool
    text: str


def curve_entries(figure: Figure, fits: Callable[[str], bool]) -> Iterator[Entry]:
    """What the areas, bars or lines stand for; a single line is named by the title.

    Curves that lie on each other have one entry with all names where that fits, or else one after the other.
    """
    panel = figure.panels[0]
    if figure.shape != "lines":
        for curve in panel.curves:
            color, hatch = look.STACK[curve.hue]
            yield Entry(({"facecolor": color, "hatch": hatch, "edgecolor": "white"},), True, curve.label)
    elif len(panel.curves) > 1:
        for line in panel.lines:
            styles = [look.line_style(curve.hue, curve.dash) for curve in line.curves]
            if len(styles) == 1 or (line.same and fits(line.label)):
                yield Entry(tuple(styles), False, line.label)
            else:
                yield from (Entry((s,), False, text) for s, text in zip(styles, line.labels, strict=True))


def guide_entries(figure: Figure, units: str) -> Iterator[Entry]:
    """The limit, and what the signs mean."""
    for limit in sorted({limit for panel in figure.panels for limit in panel.limits}):
        yield Entry((look.LIMIT,), False, f"{value_text(limit.value, figure.y_unit, units)} {limit.label}")
    if any(panel.edge for panel in figure.panels):
        yield Entry((look.EDGE,), False, "the model's own context limit")
    if figure.shape == "bars" and any(panel.over(total) for panel in figure.panels for total in panel.totals()):
        yield Entry((look.UNFIT,), False, "does not fit")
