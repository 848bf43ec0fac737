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
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 1.5, 1, 1.5)))
INK, FAINT, GRID = "#222222", "#666666", "#DDDDDD"

TITLE, TEXT, SMALL = 12.5, 9.0, 8.5
"""Sizes of type [points]."""

MARGIN, LEFT, RIGHT, BETWEEN = 0.18, 1.1, 0.35, 0.42
TITLE_LINE, TEXT_LINE, LEGEND_LINE, LEGEND_GAP = 0.24, 0.2, 0.18, 0.04
GAP, VERDICT = 0.14, 0.22
"""Room above a panel, and more where a verdict stands there [inches]."""
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


class Grid(NamedTuple):
    """How many panels stand beside and above each other, and how large each is [inches]."""

    columns: int
    rows: int
    width: float
    height: float

    @property
    def sheet_width(self) -> float:
        """All of a row and its margins [inches]."""
        return LEFT + self.columns * self.width + (self.columns - 1) * BETWEEN + RIGHT


def grid(panels: int) -> Grid:
    """Up to three panels beside each other; four stand in two rows."""
    columns = panels if panels <= 3 else 2 if panels == 4 else 3
    return Grid(columns, -(-panels // columns), *_SIZES[columns])


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
    """The longest beginning that fits, up to a space if one stands in its second half."""
    low, high = 1, min(len(text), _LONGEST)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if width(text[:middle]) <= room else (low, middle - 1)
    space = text.rfind(" ", 0, low + 1)
    return text[: space + 1] if at_space and space > low // 2 else text[:low]
