"""Commands and options of the application, read from it: a new one is tried by itself."""

from __future__ import annotations

from functools import cache
from typing import Any, Literal, NamedTuple, get_args, get_origin

import typer

from archcalc.cli.app import COMMANDS, application


class Given(NamedTuple):
    """An option or argument of a command.

    Attributes:
        name: as in the code: `kv_dtype`.
        flags: how it is written; nothing for an argument.
        metavar: what its help calls the value.
        switch: takes no value.
        many: may be repeated.
        choices: all values, where the application lists them.
    """

    name: str
    flags: tuple[str, ...]
    metavar: str
    switch: bool
    many: bool
    required: bool
    choices: tuple[str, ...]


@cache
def commands() -> dict[tuple[str, ...], list[Given]]:
    """Every command by its words, with what it takes."""
    group = typer.main.get_command(application(list(COMMANDS)))
    return dict(_commands(group, ()))


def _commands(command: Any, above: tuple[str, ...]) -> Any:
    if hasattr(command, "commands"):
        for name, inner in command.commands.items():
            yield from _commands(inner, (*above, name))
    else:
        yield above, [_given(parameter) for parameter in command.params]


def _given(parameter: Any) -> Given:
    annotation = parameter.type_descriptor.annotation
    found = [annotation, *get_args(annotation)]
    choices = next((get_args(each) for each in found if get_origin(each) is Literal), ())
    option = parameter.param_type_name == "option"
    return Given(
        parameter.name,
        tuple(parameter.opts) if option else (),
        parameter.metavar or "",
        bool(getattr(parameter, "is_flag", False)),
        bool(getattr(parameter, "multiple", False)) or parameter.nargs == -1,
        bool(parameter.required),
        choices,
    )
