"""YAML files that are the start of one of your own: on stdout, or written with the schema that their comment names."""

from __future__ import annotations

import os
import sys
from errno import ENOENT
from pathlib import Path

from archcalc.errors import InputError, harmless

MODELINE = "# yaml-language-server: $schema="
"""The comment by which editors find a file's schema; a path in it is read from the file's own folder."""

_STDOUT = Path("-")


def deliver(text: str, kind: str, outputs: list[Path] | None, *, force: bool, ours: bool = True) -> None:
    """Write a YAML text to files, or to stdout without any.

    A copy names a schema beside it, which is written too; where the text names one that is there, it stays so. On
    stdout nobody knows what will be beside it: `ours`, text that did not come from a file of the user's, names none.

    Raises:
        InputError: a file that can't be written, one with the ending of a report, or another one that is there already
            where `force` does not say that it may go.
    """
    written: dict[Path, str] = {}
    for path in outputs or (_STDOUT,):
        _refuse_endings(path)
        if path == _STDOUT or (os.path.exists(path) and not os.path.isfile(path)):
            written[path] = _without(text) if ours else text
        else:
            written |= _copy(path, text, kind)
    for path, new in () if force else written.items():
        _refuse_another(path, new)
    _write(written)


def _copy(path: Path, text: str, kind: str) -> dict[Path, str]:
    """The file and, unless it is there, the schema that its first line names."""
    if not os.path.isdir(os.path.dirname(os.path.realpath(path))):
        raise InputError(f"can't write {path}: {os.strerror(ENOENT)}", value=str(path), hint="make its folder first")
    schema = _schema(kind)
    name = text.partition("\n")[0].removeprefix(MODELINE) if text.startswith(MODELINE) else ""
    if name and _says(path.parent / name, schema):
        return {path: text}
    beside = path.parent / f"{kind}.schema.json"
    copy = {path: f"{MODELINE}{beside.name}\n{_without(text)}"}
    return copy if _says(beside, schema) else copy | {beside: schema}


def _without(text: str) -> str:
    """The text without the comment that names a schema."""
    return text.partition("\n")[2] if text.startswith(MODELINE) else text


def _schema(kind: str) -> str:
    from archcalc.documents.kinds import KINDS
    from archcalc.files.schema import schema_text

    return schema_text(kind, {kind: KINDS[kind].model})


def _says(path: Path, text: str) -> bool:
    """Whether a file is there and says just this."""
    try:
        return path.is_file() and path.read_bytes() == text.encode()
    except OSError:
        return False


def _refuse_another(path: Path, text: str) -> None:
    """Raises InputError for a file that is there and says something else."""
    if path == _STDOUT or not os.path.isfile(path) or _says(path, text):
        return
    raise InputError(
        f"{path} is there already, and says something else",
        value=str(path),
        hint="name another file, or add --force to write over it",
    )


def _refuse_endings(path: Path) -> None:
    """Raises InputError for a file that would be a report or a picture by its name."""
    from archcalc.cli.output import PICTURES
    from archcalc.render import ENDINGS

    ending = path.suffix.lower()
    if ending in PICTURES or ending.removeprefix(".") in ENDINGS:
        raise InputError(
            f"what is written is YAML, which {path.name} does not say", value=str(path), hint="end it in .yaml"
        )


def _write(texts: dict[Path, str]) -> None:
    from archcalc.cli.output import write_files

    write_files({path: text.encode() for path, text in texts.items() if path != _STDOUT})
    if _STDOUT in texts:
        text = texts[_STDOUT]
        sys.stdout.write(_on_screen(text) if sys.stdout.isatty() else text)


def _on_screen(text: str) -> str:
    """What a terminal may be told: a file may hold what it would obey."""
    return "\n".join("\t".join(map(harmless, line.split("\t"))) for line in text.splitlines()) + "\n"
