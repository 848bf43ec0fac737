"""Functions and commands take the same: parameters, defaults, choices and bounds are those of the flags."""

from __future__ import annotations

import inspect
import keyword
import re
from importlib import import_module
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import pytest
import typer

import archcalc
from archcalc.api.arguments import READERS, SWEPT
from archcalc.cli.app import COMMANDS
from archcalc.errors import InputError

FUNCTIONS = {"import": "import_config"}
"""Commands whose function has another name: `import` is a keyword."""

NO_FUNCTION = {
    "report": "writes files",
    "validate": "is archcalc.load, which raises",
    "show": "is archcalc.load(...).text",
    "schema": "prints a file for editors",
    "specs": "lists what load takes",
}
"""Commands without a function, and what there is instead."""

OUTPUT = {"format", "output", "units", "assumptions", "force"}
"""Where a command's answer goes, and how much of it is shown: what Report.save and str() are for."""

VERDICTS = {
    "claims": {"strict"},
    "serve": {"check"},
    "train": {"check"},
    "diff": {"exit_code"},
    "import": {"strict", "explain"},
}
"""Flags that change the exit code alone, and the receipt that import_config always returns."""


class Flag(NamedTuple):
    """What a command says of one parameter: its default, its choices, its bounds."""

    required: bool
    default: Any
    choices: tuple[str, ...]
    low: int | None
    high: int | None


def flags(name: str) -> dict[str, Flag]:
    """A command's options and arguments by the name that a parameter should have; of several kinds, all together."""
    command = import_module(f"archcalc.cli.{COMMANDS[name]}").command
    several = [kind.callback for kind in command.registered_commands] if isinstance(command, typer.Typer) else [command]
    found: dict[str, Flag] = {}
    for one in several:
        found |= {name: flag for name, flag in named(one).items() if name not in found or not flag.required}
    return found


def named(command: Any) -> dict[str, Flag]:
    """The parameters of one function of the command line."""
    hints = get_type_hints(command, include_extras=True)
    found = {}
    for key, parameter in inspect.signature(command).parameters.items():
        if hints[key] is typer.Context:
            continue
        plain, info = get_args(hints[key])
        spelled = (info.default, *(info.param_decls or ()))  # where the flag is all that typer is told, as its default
        option = next((text for text in spelled if str(text).startswith("--")), key)
        name = option.lstrip("-").replace("-", "_")
        words = [each for part in (plain, *get_args(plain)) if get_origin(part) is Literal for each in get_args(part)]
        required = parameter.default is inspect.Parameter.empty
        flag = Flag(required, parameter.default, tuple(words), info.min, info.max)
        found[f"{name}_" if keyword.iskeyword(name) else name] = flag
    return found


def compared(name: str) -> dict[str, Flag]:
    """The flags that a function should have."""
    return {key: flag for key, flag in flags(name).items() if key not in {*OUTPUT, *VERDICTS.get(name, ())}}


def function(name: str) -> Any:
    return getattr(archcalc, FUNCTIONS.get(name, name))


WITH_FUNCTION = [name for name in COMMANDS if name not in NO_FUNCTION]


def test_every_command_is_a_function_or_says_why_not() -> None:
    assert [name for name in WITH_FUNCTION if FUNCTIONS.get(name, name) not in archcalc.__all__] == []
    assert NO_FUNCTION.keys() <= COMMANDS.keys()
    public = set(archcalc.__all__) - {"load", "Plot", "Report", "Spec", "ArchcalcError", "InputError", "SpecError"}
    assert public == {FUNCTIONS.get(name, name) for name in WITH_FUNCTION}


@pytest.mark.parametrize("name", WITH_FUNCTION)
def test_a_function_has_the_parameters_and_defaults_of_its_command(name: str) -> None:
    parameters = dict(inspect.signature(function(name)).parameters)
    if name == "plot":  # plot KIND SPEC...
        assert parameters.pop("kind").kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        assert parameters["specs"].kind is inspect.Parameter.VAR_POSITIONAL
    wanted = compared(name)
    assert parameters.keys() == wanted.keys()
    for key, flag in wanted.items():
        if flag.required:
            assert parameters[key].default is inspect.Parameter.empty, key
        else:
            assert parameters[key].kind is inspect.Parameter.KEYWORD_ONLY, key
            assert str(parameters[key].default) == str(flag.default), key


@pytest.mark.parametrize("name", WITH_FUNCTION)
def test_choices_and_bounds_are_those_of_the_flags(name: str) -> None:
    readers = SWEPT if name == "plot" else READERS
    for key, flag in compared(name).items():
        if key in ("spec", "specs", "base", "head", "source", "path"):
            continue
        read = readers[key]
        assert [read(word) for word in flag.choices] == list(flag.choices)
        if flag.choices:
            with pytest.raises(InputError, match="nonsense"):
                read("nonsense")
        for bound, past in ((flag.low, -1), (flag.high, 1)):
            if bound is not None:
                assert read(bound) == bound
                with pytest.raises(InputError, match=f"{bound + past}"):
                    read(bound + past)


@pytest.mark.parametrize("name", [*WITH_FUNCTION, "load"])
def test_every_parameter_is_explained_and_so_is_what_is_raised(name: str) -> None:
    text = inspect.getdoc(function(name)) or ""
    about, _, raised = text.partition("Raises:")
    heads = re.findall(r"^ {4}(\w+(?:,\s+\w+)*):", about.partition("Args:")[2], re.MULTILINE)
    explained = [word for head in heads for word in re.split(r",\s+", head)]
    assert sorted(explained) == sorted(inspect.signature(function(name)).parameters)
    assert "InputError:" in raised
    assert "SpecError:" in raised
    assert text.partition("\n")[0].endswith(".")
