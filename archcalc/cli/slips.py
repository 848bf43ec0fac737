"""What somebody meant whose command line can't be used: words in another order, an option of another command."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from archcalc.errors import near_miss

OPTIONS = {"plans": "--plan", "hardware": "--gpu", "engines": "--engine"}
"""The option that a bundled file stands behind, by its folder."""

EXAMPLES = {
    "SPEC": "a bundled model is a start: archcalc {} k25",
    "SPEC...": "a bundled model is a start: archcalc {} k25",
    "FILE|DIR|hf:ORG/NAME": "name the config.json of a release, or the folder that holds it",
    "HEAD": "name what was and what is: archcalc diff k25 mine.yaml",
}
"""What may stand where an argument is missing, by its name."""


def slip(error: Any, arguments: list[str]) -> tuple[str, str] | None:
    """What to say of a usage error and the hint to give, where more can be told than that there is help."""
    option = getattr(error, "option_name", None)
    if option is not None:
        return _option(error, option, arguments)
    if getattr(error, "param", None) is not None:
        hint = _missing(error) if type(error).__name__ == "MissingParameter" else None
        return None if hint is None else (error.format_message(), hint)
    if error.message.startswith("No such command"):
        return _command(arguments)
    if "unexpected extra argument" in error.message:
        return _extra(error, arguments)
    return None


def _option(error: Any, name: str, arguments: list[str]) -> tuple[str, str] | None:
    """An option that a command has not, or that stands without its value."""
    if "requires an argument" in error.message:
        found = next((p for command, p in _parameters(arguments[0]) if name in p.opts), None)
        return None if found is None or not found.help else (error.message, f"{name}: {found.help}")
    path = error.ctx.command_path
    if path == "archcalc":
        return f"No such option: {name}", "options stand behind the command, as in archcalc params k25 --format json"
    others = [command for command, p in _parameters() if name in p.opts]
    if others:
        has = "have" if len(others) > 1 else "has"
        own = path.removeprefix("archcalc ")
        return f"No such option: {name}", f"{own} has none; {_several(others)} {has} one"
    meant = near_miss(name, [opt for p in error.ctx.command.params for opt in p.opts])
    return f"No such option: {name}", f"did you mean {meant}?" if meant else f"{path} --help says how"


def _command(arguments: list[str]) -> tuple[str, str]:
    """A first word that is no command."""
    from archcalc.cli.app import COMMANDS
    from archcalc.files.hints import name_hint
    from archcalc.files.loader import bundled_names

    name, *others = arguments
    words = [name, *(word for word in others if not word.startswith("-"))]
    called = next((word for word in words[1:] if word in COMMANDS), None)
    meant = near_miss(name, COMMANDS)
    if meant is not None:
        hint = f"did you mean {meant}?"
    elif called is not None:
        rest = [word for word in arguments if word not in (called, "archcalc")]
        hint = f"the command stands first: {shlex.join(['archcalc', called, *rest])}"
    elif name.lower() in bundled_names() or os.path.exists(name):
        own = {opt for _, p in _parameters("card") for opt in p.opts}
        asked = (
            ["params", name] if any(word[:1] == "-" and word not in own for word in others) else ["card", *arguments]
        )
        hint = f"name a command first: {shlex.join(['archcalc', *asked])}"
    else:
        model = name_hint(name, "", "a path") if len(arguments) == 1 else ""
        hint = (
            model if model.startswith("did you mean") else f"commands are {', '.join(COMMANDS)}; or name a spec alone"
        )
        if hint != model and (os.sep in name or name.endswith((".yaml", ".yml", ".json"))):
            return f"No such command, and no such file: '{name}'.", hint
    return f"No such command '{name}'.", hint


def _extra(error: Any, arguments: list[str]) -> tuple[str, str] | None:
    """Words that a command has no place for."""
    from archcalc.files.loader import bundled_names

    own = [opt for p in error.ctx.command.params for opt in p.opts]
    for before, word in pairwise(arguments):
        for folder, option in OPTIONS.items():
            if option in own and before != option and word.lower() in bundled_names(folder):
                return error.message, f"did you mean {option} {word}?"
    if sum(word.lower() in bundled_names() for word in arguments[1:]) > 1:
        return error.message, f"{error.ctx.command.name} takes one model at a time; archcalc diff compares two"
    return None


def _missing(error: Any) -> str | None:
    """What may stand where something is missing."""
    from archcalc.files.loader import bundled_names

    if "--plan" in error.param.opts:
        return f"bundled plans: {', '.join(bundled_names('plans'))}; or a file of yours"
    example = EXAMPLES.get(error.param.metavar or "")
    return None if example is None else example.format(error.ctx.command_path.removeprefix("archcalc "))


def _parameters(only: str | None = None) -> Iterator[tuple[str, Any]]:
    """The parameters of all commands, or of one, each with what its command is called."""
    import typer

    from archcalc.cli.app import COMMANDS, application

    names = [name for name in COMMANDS if only in (None, name)]
    if not names:
        return
    for name, command in typer.main.get_command(application(names)).commands.items():  # type: ignore[attr-defined]
        for inner in getattr(command, "commands", {"": command}).values():
            yield from ((f"{name} {inner.name}" if inner is not command else name, p) for p in inner.params)


def _several(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
