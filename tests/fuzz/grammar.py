"""A value of an option or argument of a command line."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from archcalc.documents.quantities import QUANTITIES
from archcalc.training.overrides import PATHS
from tests.fuzz.choices import ANY, FILES, NUMBERS, OF, OUTPUTS, PICTURES, SETTINGS, SIZES, SWEPT, VALUES
from tests.fuzz.documents import words_of
from tests.fuzz.options import Given
from tests.fuzz.values import word
from tests.fuzz.written import json_text

File = Callable[[str], str]
"""Makes a file of a kind for the case and gives its name, or names one that is there."""


def value(rng: Random, command: tuple[str, ...], option: Given, file: File, wild: int) -> str:
    """A value of an option or argument: mostly one that may be meant, one in `wild` nonsense."""
    if rng.randrange(wild) == 0:
        return word(rng)
    if option.choices:
        return rng.choice(option.choices)
    if made := _named(rng, option, file):
        return made
    if command[0] == "plot" and option.name in SWEPT:
        return _early(rng, SWEPT[option.name])
    if option.name == "output":
        return rng.choice(PICTURES if command[0] == "plot" and rng.randrange(40) == 0 else OUTPUTS)
    return _early(rng, OF.get((command[0], option.name)) or VALUES.get(option.name, SIZES))


def _early(rng: Random, values: tuple[str, ...]) -> str:
    """One of some values, those that stand first more often: they are the usual ones."""
    return values[min(rng.randrange(len(values)), rng.randrange(len(values)))]


def _named(rng: Random, option: Given, file: File) -> str | None:
    """The value of an option that names a file, or a quantity or field of one; None for every other."""
    if option.name == "override":
        path = (
            rng.choice(list(PATHS)) if rng.randrange(10) else rng.choice(("parallel", "batch", "train", "fsdp", "x.y"))
        )
        return f"{path}={_setting(rng, path)}"
    if option.name == "fail_on":
        name, sign, amount = (
            rng.choice(list(QUANTITIES)),
            rng.choice(("+", "-", "±", "")),
            rng.choice(("1%", "0", "1B", "2GiB", "1e999%")),
        )
        return f"{name}:{sign}{amount}"
    if option.name in ("spec", "specs"):
        return file(rng.choice(("spec", "spec", "spec", "config")))
    if option.name in ("base", "head") and not option.flags:
        return rng.choice(
            (file("report"), file("report"), file("spec"), file("spec"), "k25", "/dev/null", "git:HEAD:s.yaml")
        )
    if option.name in ("files", "name"):
        return file(rng.choice(ANY))
    if option.name in FILES and (option.flags or option.name in ("source", "path")):
        kind, bundled = FILES[option.name]
        return bundled if bundled and rng.randrange(8 if kind == "plan" else 2) == 0 else file(kind)
    return None


def _setting(rng: Random, path: str) -> str:
    """A value of a field of a plan: one of its kind, one that a plan has there, or any."""
    sort = rng.randrange(10)
    if sort < 5 and PATHS.get(path):
        return _early(rng, NUMBERS)
    known = words_of("plan").values.get(path.rpartition(".")[2], [])
    if sort < 8 and known:
        return json_text(rng.choice(known))
    return word(rng) if sort == 9 else rng.choice(SETTINGS)
