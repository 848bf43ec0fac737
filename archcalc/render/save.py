"""Into files: the format from the ending, and never half a file."""

from __future__ import annotations

import os
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
    """Write to a temporary file beside `path`, then rename: never half a file. Raises InputError where it can't.

    A link stays a link, and what is no regular file (/dev/null, a pipe) is written as it is.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp") if target.name else target
    try:
        if target.exists() and not target.is_file():
            target.write_bytes(data)
        else:
            temporary.write_bytes(data)
            if target.exists():
                os.chmod(temporary, target.stat().st_mode & 0o7777)
            os.replace(temporary, target)
    except OSError as error:
        if temporary.parent.is_dir() and temporary.is_file():
            temporary.unlink()
        raise InputError(f"can't write {path}: {error.strerror}", value=str(path)) from None


def drawn_as(figure: Figure, form: Literal["svg", "png"], units: str) -> bytes:
    """The bytes of a picture. Raises InputError where matplotlib is missing."""
    try:
        from archcalc.render.plot import picture
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("archcalc"):
            raise
        raise InputError("a picture needs matplotlib: pip install 'archcalc[plot]'") from None
    return picture(figure, form, units)
