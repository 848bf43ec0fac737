"""The last line of an SVG picture: what it was drawn from, and a digest of what stands above.

With it a picture is checked without drawing it again, where matplotlib is missing or of another version. It is no
signature: whoever alters a picture on purpose can write the line that fits.
"""

from __future__ import annotations

import re
from hashlib import sha256

from archcalc.documents.sweep.figure import Figure

_SEAL = re.compile(rb"<!-- archcalc: drawn from ([0-9a-f]{64}), picture ([0-9a-f]{64}) -->\n\Z")


def drawn_from(figure: Figure, units: str = "gib") -> str:
    """A digest of all that a picture of the figure shows: words, curves, limits, marks."""
    axes = (figure.shape, figure.across.unit, figure.x_label, figure.y_label, figure.y_unit)
    shown = repr((figure.title, figure.setting, axes, figure.panels, units))
    return sha256(shown.encode(errors="backslashreplace")).hexdigest()


def sealed(svg: bytes, figure: Figure, units: str = "gib") -> bytes:
    """The picture with its last line."""
    digest = sha256(svg).hexdigest()
    return svg + f"<!-- archcalc: drawn from {drawn_from(figure, units)}, picture {digest} -->\n".encode()


def is_ours(svg: bytes) -> bool:
    """Whether a picture is as archcalc drew it, whatever it shows. Line ends don't count: git may have changed them."""
    return _read(svg) is not None


def fault(svg: bytes, wanted: str) -> str:
    """Why a picture is not one drawn from `wanted`, or nothing."""
    found = _SEAL.search(svg.replace(b"\r\n", b"\n"))
    if found is None:
        return "does not say what it was drawn from"
    source = _read(svg)
    if source is None:
        return "was altered after it was drawn"
    return "" if source == wanted else "was drawn from other numbers"


def _read(svg: bytes) -> str | None:
    """What an unaltered picture was drawn from."""
    text = svg.replace(b"\r\n", b"\n")
    found = _SEAL.search(text)
    if found is None or sha256(text[: found.start()]).hexdigest().encode() != found[2]:
        return None
    return found[1].decode()
