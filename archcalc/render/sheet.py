"""How a picture is laid out and styled: sizes in inches, colours, hatches, line styles, text cut to fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

STACK = (
    ("#0072B2", ""),
    ("#56B4E9", "////"),
    ("#009E73", "||||"),
    ("#D55E00", "\\\\\\\\"),
    ("#F0E442", "xxxx"),
    ("#E69F00", "----"),
    ("#BBBBBB", "++++"),
)
"""Colour and hatch of each layer: Okabe and Ito's colours (jfly.uni-koeln.de/color), neighbours apart in grey too."""

LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*")
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 1.5, 1, 1.5)), (0, (5, 1, 1, 1, 1, 1)))
PIECE = 6
"""Length of a curve's part where several lie on each other, in widths of the line."""
INK, FAINT, GRID = "#222222", "#666666", "#DDDDDD"

TITLE, TEXT, SMALL = 12.5, 9.0, 8.5
"""Sizes of type [points]."""

MARGIN, LEFT, RIGHT, BETWEEN = 0.18, 1.1, 0.35, 0.42
LABEL = 0.34
"""What the vertical axis takes beside the texts of its ticks [inches]."""
TITLE_LINE, TEXT_LINE, SMALL_LINE, LEGEND_LINE, LEGEND_GAP = 0.24, 0.2, 0.14, 0.18, 0.04
GAP, VERDICT, CUT, SIGNS = 0.14, 0.22, 0.2, 0.1
"""Room above a panel, and more where a verdict, the height of what is cut off, or signs of cut bars stand there
[inches]."""
STUB = 0.1
"""From a panel's edge to the text of a limit beside it [inches]."""
SAMPLE, SAMPLES = 4.6, 2.3
"""Width of a sample in the legend, and of each where there are several in one, in sizes of type."""
BELOW, SECOND = 0.56, 0.14
"""Room below a panel for its axis, and more for a second line of tick labels [inches]."""

_SIZES = {1: (6.6, 3.7), 2: (4.6, 3.2), 3: (3.9, 2.9)}
"""Columns of panels to the width and height of each [inches]."""

LIMIT: dict[str, Any] = {"color": "black", "linestyle": (0, (4, 2)), "linewidth": 1.3}
EDGE: dict[str, Any] = {"color": INK, "linestyle": (0, (1, 1.5)), "linewidth": 1.3}
BAR = 0.72
"""Width of a bar, of the distance to its neighbour."""

CROSSING: dict[str, Any] = {
    "marker": "o",
    "markersize": 6,
    "markerfacecolor": "white",
    "markeredgecolor": "black",
    "markeredgewidth": 1.3,
    "linestyle": "none",
}
PEAK: dict[str, Any] = {"color": "none", "edgecolor": "black", "linewidth": 2.0}
UNFIT: dict[str, Any] = {
    "marker": "x",
    "markersize": 5.5,
    "markeredgewidth": 1.6,
    "color": "black",
    "linestyle": "none",
}


BREAK = 0.955
"""Where what is cut off is broken, in heights of the panel."""
BROKEN: dict[str, Any] = {"color": "white", "linewidth": 3.0, "solid_joinstyle": "miter"}
STROKE: dict[str, Any] = {"color": INK, "linewidth": 0.8, "clip_on": False}


def line_style(hue: int, dash: int) -> dict[str, Any]:
    """Colour and marker by `hue`, dashes and the marker's filling by `dash`."""
    color = LINES[hue % len(LINES)]
    return {
        "color": color,
        "linestyle": DASHES[dash % len(DASHES)],
        "marker": MARKERS[hue % len(MARKERS)],
        "markersize": 4.5,
        "markerfacecolor": "white" if dash else color,
        "linewidth": 1.6,
    }


def piece_style(hue: int, dash: int, n: int, of: int) -> dict[str, Any]:
    """The same of the curve `n` of `of` that lie on each other: its part of the line, none of which hides another."""
    if of == 1:
        return line_style(hue, dash)
    inked = 0.6 * PIECE if dash else PIECE
    return line_style(hue, dash) | {"linestyle": ((of - n) % of * PIECE, (inked, of * PIECE - inked))}


class Grid(NamedTuple):
    """How many panels stand beside and above each other, how large each is, and the room left of the first and right of
    each [inches]."""

    columns: int
    rows: int
    width: float
    height: float
    left: float
    beside: float

    @property
    def step(self) -> float:
        """From a panel's left edge to the next one's [inches]."""
        return self.width + _more(self.beside) + BETWEEN

    @property
    def sheet_width(self) -> float:
        """All of a row and its margins [inches]."""
        return self.left + self.columns * self.step - BETWEEN + RIGHT


def grid(panels: int, ticks: float = 0.0, beside: float = 0.0) -> Grid:
    """Up to three panels beside each other; four stand in two rows. What stands beside a panel takes of its width; wide
    texts of the vertical axis' `ticks` make the sheet wider [inches]."""
    columns = panels if panels <= 3 else 2 if panels == 4 else 3
    width, height = _SIZES[columns]
    left = max(LEFT, LABEL + ticks)
    return Grid(columns, -(-panels // columns), width - _more(beside), height, left, beside)


def _more(beside: float) -> float:
    """What stands beside a panel past the room that is there anyway [inches]."""
    return max(0.0, beside - (RIGHT - MARGIN))


def spread(wanted: list[float], sizes: list[float], room: float) -> list[float]:
    """Places for blocks of these sizes, in ascending order: each as near to its own as the others and the room from 0
    to `room` let it."""
    places: list[float] = []
    for n, (at, size) in enumerate(zip(wanted, sizes, strict=True)):
        lowest = places[-1] + (sizes[n - 1] + size) / 2 if places else size / 2
        places.append(max(at, lowest))
    highest = room
    for n in reversed(range(len(places))):
        places[n] = min(places[n], highest - sizes[n] / 2)
        highest = places[n] - sizes[n] / 2
    return places


def cut(text: str, width: Callable[[str], float], room: float, most: int) -> list[str]:
    """The text in at most `most` lines no wider than `room`; what is too long ends in an ellipsis."""
    lines: list[str] = []
    rest = text
    while rest and len(lines) < most:
        last = len(lines) == most - 1
        fits = width(rest[:_LONGEST]) <= room and len(rest) <= _LONGEST
        head = rest if fits else _head(rest, width, room - (width("…") if last else 0.0), at_space=not last)
        lines.append(head.rstrip() + ("…" if last and not fits else ""))
        rest = rest[len(head) :].lstrip()
    return lines


_LONGEST = 500
"""No line has more characters than this, however narrow they are."""


def _head(text: str, width: Callable[[str], float], room: float, *, at_space: bool) -> str:
    """The longest beginning that fits, up to a comma or else a space if one stands in its second half."""
    low, high = 1, min(len(text), _LONGEST)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if width(text[:middle]) <= room else (low, middle - 1)
    if at_space:
        for mark in (", ", " "):
            end = text.rfind(mark, 0, low + 1) + len(mark)
            if end - 1 > low // 2:
                return text[:end]
    return text[:low]
