"""The tables on a terminal: fitted to its width, coloured with the eight standard colours."""

from __future__ import annotations

from archcalc.documents.document import Report
from archcalc.render.inert import inert
from archcalc.render.table import drawn

STYLES = {
    "bold": "1",
    "dim": "2",
    "confirmed": "32",
    "rounded": "32",
    "equal": "32",
    "convention": "33",
    "unstated": "36",
    "refuted": "31",
    "differs": "1;31",
}
"""Select Graphic Rendition parameters (ECMA-48, 8.3.117) by style."""


def render(report: Report, units: str, *, width: int | None, color: bool) -> str:
    """The report fitted to `width` columns (None: any width), with ANSI colours if `color`."""
    return inert(drawn(report, units, width, painted if color else lambda text, style: text))


def painted(text: str, style: str) -> str:
    """The text between the escape sequences of a style; text without a style, or without ink, stays as it is."""
    code = STYLES.get(style)
    return text if code is None or not text.strip() else f"\x1b[{code}m{text}\x1b[0m"
