"""What text plots are made of: widths, characters and colours, and numbers below an axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from string import ascii_letters

from archcalc.errors import harmless
from archcalc.render.fit import wrapped

WIDTH, NARROWEST, WIDEST = 72, 40, 120
"""Columns of the longest line off a terminal, and the least and the most on one."""

HEIGHT = 15
"""Lines of a grid."""

BLOCKS = "█▒▓░▚▞▖"
"""One for each layer's number, as `hue` counts them."""

LETTERS = ascii_letters
"""One for each line."""

COLORS = ("34", "36", "32", "31", "33", "35", "37")
"""Select Graphic Rendition parameters (ECMA-48, 8.3.117) by `hue`."""

ASCII = str.maketrans("█▒▓░▚▞▖│┤─└┴┬·×←»≈", "#=%-xo,|+-+++.!<>~")
"""For a terminal or file whose encoding has no blocks."""

Paint = Callable[[str, str], str]
"""(text, parameters) to the text as it is printed."""


def shown(text: str, width: int) -> list[str]:
    """A text in lines of at most `width` columns; none for no text."""
    return wrapped(harmless(text), width, 2) if text else []


def numbered(places: Sequence[tuple[int, str]], width: int, after: str = "") -> str | None:
    """Texts in one line, each centred at its column, the last one followed by `after`; None where they would touch
    each other or pass the width."""
    line = ""
    for n, (column, text) in enumerate(places):
        start = max(0, column - len(text) // 2)
        whole = text + after if n == len(places) - 1 else text
        if n == len(places) - 1 and not after:
            start = min(start, width - len(text))
        if start + len(whole) > width or (line and start <= len(line)):
            return None
        line = line.ljust(start) + whole
    return line
