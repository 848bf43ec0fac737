"""What a shell may put behind the words of a command line: `archcalc --install-completion` makes it ask.

typer completes commands, options and choices by itself. Here are the values that it doesn't know, by the option or the
metavar that they stand for, so that no command declares them and none pays for them when it runs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

from archcalc.files.bundled import bundled_names

FILES = (".yaml", ".yml", ".json")
"""Endings of the files that may stand where a bundled name may."""

PLAIN = r"\w[\w.,@%+=-]*"
"""A file's name that no shell reads otherwise, and that is not hidden."""


class Word(NamedTuple):
    """One word that may stand there, as typer's writers for the shells read it."""

    value: str
    help: str | None = None


def _formats() -> Iterable[str]:
    from archcalc.render import FORMATS

    return FORMATS


def _units() -> Iterable[str]:
    from archcalc.units import UNITS

    return UNITS


def _groups() -> Iterable[str]:
    from archcalc.documents.params import GROUPS

    return GROUPS


def _cache_dtypes() -> Iterable[str]:
    from archcalc.calc.kv_cache import LAYOUTS

    return LAYOUTS


def _optimizers() -> Iterable[str]:
    from archcalc.training.optimizer import OPTIMIZERS

    return OPTIMIZERS


def _opponents() -> Iterable[str]:
    from archcalc.proof.check import OPPONENTS

    return OPPONENTS


def _file_kinds() -> Iterable[str]:
    from archcalc.files.loader import KINDS

    return KINDS


BUNDLED = {
    "SPEC": "",
    "SPEC...": "",
    "BASE": "",
    "HEAD": "",
    "--draft": "",
    "--plan": "plans",
    "--gpu": "hardware",
    "--engine": "engines",
}
"""What names a file, to the folder of the bundled ones."""

VALUES: dict[str, Callable[[], Iterable[str]]] = {
    "--format": _formats,
    "--units": _units,
    "--by": _groups,
    "--kv-dtype": _cache_dtypes,
    "--optimizer": _optimizers,
    "--against": _opponents,
    "KIND": _file_kinds,
    **{name: partial(bundled_names, folder) for name, folder in BUNDLED.items()},
}
"""Options and metavars of arguments, to the values that they may have."""


def teach(command: Any) -> None:
    """Give every parameter of a command, and of those below it, the values that are known for it."""
    for parameter in command.params:
        called = [*parameter.opts, parameter.metavar] if parameter.param_type_name == "argument" else parameter.opts
        name = next((name for name in called if name in VALUES), None)
        if name is not None:
            parameter.shell_complete = partial(_words, name)
    for inner in getattr(command, "commands", {}).values():
        teach(inner)


def _words(name: str, _: Any, incomplete: str) -> list[Word]:
    """Values that go on from what is typed. Where there is none, the shell offers files of its own."""
    values = list(VALUES[name]()) + (sorted(_files()) if name in BUNDLED and os.sep not in incomplete else [])
    return [Word(value) for value in values if value.startswith(incomplete)]


def _files() -> Iterator[str]:
    """Files in this folder that may be one of ours. Only names that mean themselves to every shell: zsh expands what it
    is offered, and a name may hold a command."""
    with os.scandir() as entries:
        for entry in entries:
            if entry.name.endswith(FILES) and re.fullmatch(PLAIN, entry.name):
                yield entry.name
