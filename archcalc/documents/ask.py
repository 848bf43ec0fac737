"""A command asked by name with plain arguments: the report it makes, and the line that asks for the same.

What a page says and what it tells its readers to type are both made from the same arguments, so they can't disagree.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from archcalc.documents.document import Report
from archcalc.documents.kept import texts
from archcalc.errors import InputError, harmless
from archcalc.files.loader import find, is_bundled, kept_alone, only_kept
from archcalc.files.model import Spec
from archcalc.hf.spec import called as called_release

COMMANDS = ("params", "claims", "flops", "kv", "weights", "serve", "train", "report")
"""Commands about one spec. Each is a module beside this one, with a function that has the module's name and takes the
spec and the command's flags by name."""

FILES = {"plan": "plans", "gpu": "hardware", "engine": "engines", "draft": ""}
"""Flags that name a file, and the folder of the bundled ones."""

MOST_VALUES = 1000
"""Images, videos or files that saved inputs may list; lengths have a limit of their own."""

SWITCHES = {"serve": dict.fromkeys(("eager", "language_only", "mtp"), (False, True))}
"""What inputs of a command can be that a command line lets nobody mistype."""

FRACTIONS = ("utilization", "price")
"""Inputs that are no whole numbers; their functions bound them."""

LARGEST = 10**64
"""No command line reads a number of more digits."""

_RENAMED = {"as": "as_", "images": "image", "videos": "video"}
"""Inputs of saved reports that are no name of a parameter; `images` and `videos` were written by earlier versions."""


def answer(command: str, spec: Spec, arguments: Mapping[str, Any]) -> Report:
    """The report of one of COMMANDS. Raises InputError."""
    report: Report = getattr(import_module(f"archcalc.documents.{command}"), command)(spec, **arguments)
    return report


def line(command: str, spec: str, arguments: Mapping[str, Any]) -> str:
    """A command line about the spec that a reader calls `spec`: one line that prints as it is.

    A list repeats its flag, but for lengths, which stand in one word; the sizes of a tuple are joined by x.
    """
    words = ["archcalc", *command.split(), spec]
    for name, value in arguments.items():
        one = ",".join(map(str, value)) if name == "lengths" else value
        for each in one if isinstance(one, list) else [one]:
            text = called(each, FILES[name]) if name in FILES and each != "all" else each
            text = "x".join(map(str, text)) if isinstance(text, tuple) else str(text)
            words += [f"--{name.rstrip('_').replace('_', '-')}", text]
    return harmless(shlex.join(words))


def called(argument: str, folder: str = "") -> str:
    """What a file is called in a text that does not depend on where it was written: a bundled one by its name, however
    it was found, another by its file's name, wherever it lies; a release of another's by what names the model. Raises
    InputError."""
    release = None if folder else called_release(argument)
    if release is not None:
        return release
    if kept_alone():
        return argument
    path = find(argument, folder)
    return path.stem if is_bundled(argument, folder) else path.name


def again(command: str, spec: Spec, inputs: Mapping[str, Any], files: Mapping[str, Any] | None = None) -> Report:
    """What a spec answers to one of COMMANDS under the inputs of a saved report, and the files that it holds.

    No file is read that such inputs name, but bundled ones: they may come from anybody.

    Raises:
        InputError: inputs that can't be used again; a plan, GPU, engine or draft that is neither bundled nor held.
    """
    unusable = InputError(f"the inputs of the saved {command} report can't be used again", value=command)
    given = {_RENAMED.get(name, name): value for name, value in inputs.items() if name not in ("spec", "choices")}
    choices = inputs.get("choices", {})  # an earlier version's place of `mla`
    if not isinstance(choices, Mapping) or not choices.keys() <= {"mla"}:
        raise unusable
    listed = [value for name, value in given.items() if isinstance(value, list) and name != "lengths"]
    if "log" in given or any(len(value) > MOST_VALUES for value in listed):
        raise unusable
    given |= choices
    if any(name in given and given[name] not in values for name, values in SWITCHES.get(command, {}).items()):
        raise unusable
    if not all(_is_whole(value) for name, value in given.items() if name not in FRACTIONS):
        raise unusable
    if any(not _is_named(value, several=command == "report") for name, value in given.items() if name in FILES):
        raise unusable
    try:
        with only_kept(texts(files or {})):
            return answer(command, spec, given)
    except InputError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        raise unusable from None


def _is_whole(value: object) -> bool:
    """Whether all numbers in an input are ones that a command line may hold: whole, and not below zero."""
    if isinstance(value, list | tuple):
        return all(map(_is_whole, value))
    return not isinstance(value, float) and not (isinstance(value, int) and not 0 <= value < LARGEST)


def _is_named(value: object, *, several: bool) -> bool:
    """Whether an input names a file, or files where a command takes several."""
    if several:
        return isinstance(value, list) and all(isinstance(each, str) for each in value)
    return value is None or isinstance(value, str)
