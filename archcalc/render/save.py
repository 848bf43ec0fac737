"""Into files: the format from the ending, and never half a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from archcalc.errors import InputError
from archcalc.render import ENDINGS

if TYPE_CHECKING:
    from archcalc.documents.sweep.figure import Figure


def from_ending(path: Path) -> str:
    """The format of a report that a file's ending names. Raises InputError for another ending."""
    ending = path.suffix.removeprefix(".").lower()
    if ending not in ENDINGS:
        raise InputError(
            f"can't tell the format of {path.name or path} from its ending",
            value=str(path),
            hint=f"end it in {', '.join('.' + e for e in ENDINGS)}, or name one with --format",
        )
    return ENDINGS[ending]


def write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all. Raises InputError where it can't."""
    from archcalc.render.atomic import write_all

    write_all({path: data})


def drawn_as(figure: Figure, form: Literal["svg", "png"], units: str) -> bytes:
    """The bytes of a picture. Raises InputError where matplotlib is missing."""
    try:
        from archcalc.render.plot import picture
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("archcalc"):
            raise
        raise InputError("a picture needs matplotlib: pip install 'archcalc[plot]'") from None
    return picture(figure, form, units)
