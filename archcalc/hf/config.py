"""One level of a `config.json` as a public class reads it: keys, aliases, class defaults, and who took what."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from archcalc.errors import SpecError
from archcalc.files.document import Document, Loc, cut


class Said(NamedTuple):
    """A value of the spec, and how it came about.

    Attributes:
        value: as the spec holds it.
        loc: where the config says it; empty where it does not.
        note: the comment beside it.
        default: whether the public class supplies it, not the file.
    """

    value: Any
    loc: Loc = ()
    note: str = ""
    default: bool = False


class Facts(NamedTuple):
    """What is frozen of a public class of transformers (`defaults.json`, written by tests/families/freeze.py).

    Attributes:
        config: name of the config class; empty where there is no public class, and so no default.
        defaults: value of each key that the class declares, before it derives anything.
        aliases: other names of a key (`attribute_map`).
    """

    config: str
    defaults: Mapping[str, Any]
    aliases: Mapping[str, str]
    rope_theta: float


NO_CLASS = Facts("", {}, {}, 0.0)


@cache
def frozen() -> Any:
    """The frozen facts of all classes."""
    import json

    return json.loads(Path(__file__).with_name("defaults.json").read_text(encoding="utf-8"))


def facts_of(type_name: str) -> Facts:
    """The facts of a model type's class; none for a type that transformers has not."""
    row = frozen()["types"].get(type_name)
    if row is None:
        return NO_CLASS
    return Facts(row["config"], row["defaults"], row["attribute_map"], row.get("rope_theta") or 10000.0)


class Config:
    """A mapping inside a config file, under a class's facts.

    Attributes:
        document: the file.
        loc: where the mapping stands in it.
        facts: of the class that reads it.
        outer: the mapping around it, where the spec needs both.
        taken: what became of each key that was read, by its own name.
        made: what the class supplied, by key.
        assumed: what neither the file nor the class says, and the spec needs.
    """

    def __init__(self, document: Document, loc: Loc, facts: Facts, outer: Config | None = None) -> None:
        self.document = document
        self.loc = loc
        self.facts = facts
        self.outer = outer
        self.taken: dict[str, str] = {}
        self.made: dict[str, str] = {}
        self.assumed: list[str] = []
        data: Any = document.data
        for part in loc:
            data = data[part]
        self.data: dict[str, Any] = data

    def names(self, key: str) -> tuple[str, ...]:
        """A key and its other names."""
        aliases = self.facts.aliases
        real = aliases.get(key, key)
        return tuple(dict.fromkeys((key, real, *(name for name, of in aliases.items() if of == real))))

    def given(self, key: str) -> str | None:
        """The name under which the file gives a key, or None. Raises SpecError where two names disagree."""
        found = [name for name in self.names(key) if name in self.data]
        for other in found[1:]:
            if self.data[other] != self.data[found[0]]:
                message = f"{found[0]} {show(self.data[found[0]])} and {other} {show(self.data[other])} are one key"
                raise self.error(message, other, hint="keep one of the two")
        for name in found:
            self.taken.setdefault(name, "used")
        return found[0] if found else None

    def read(self, key: str, absent: Any = ...) -> Said:
        """A key's value: the file's, else the class's default, else `absent`.

        Raises:
            SpecError: neither the file nor a public class gives it.
        """
        name = self.given(key)
        if name is not None:
            note = "" if name == key else name
            return Said(self.data[name], (*self.loc, name), note)
        for known in self.names(key):
            if known in self.facts.defaults:
                value = self.facts.defaults[known]
                note = f"default of {self.facts.config}: {show(value)}"
                if value is not None or absent is ...:
                    self.made[key] = note
                return Said(value, (), note, default=True)
        if absent is ...:
            what = (
                f"{self.facts.config} has no default for it" if self.facts.config else "no public class has a default"
            )
            raise self.error(f"{key} is missing, and {what}", None, hint=f"add {key} to {self.where}")
        return Said(absent)

    def value(self, key: str, absent: Any = ...) -> Any:
        """A key's value alone."""
        return self.read(key, absent).value

    def integer(self, key: str, absent: Any = ..., *, least: int = 0) -> int:
        """A key's value where the reader computes with it. Raises SpecError for what is no such integer."""
        said = self.read(key, absent)
        if type(said.value) is not int or said.value < least:
            raise self.error(f"{key} must be an integer of at least {least}, not {show(said.value)}", key)
        return said.value

    def flag(self, key: str, absent: Any = ...) -> bool:
        """A key's value where it decides something. Raises SpecError for what is neither true nor false."""
        value = self.value(key, absent)
        if type(value) is not bool:
            raise self.error(f"{key} must be true or false, not {show(value)}", key)
        return value

    def take(self, key: str, became: str) -> None:
        """Note what became of a key."""
        if key in self.data:
            self.taken[key] = became

    def supplied(self) -> list[str]:
        """The sizes that the class supplied, each with its value."""
        known = {key: self.facts.defaults.get(self.facts.aliases.get(key, key)) for key in self.made}
        sizes = {key: value for key, value in known.items() if type(value) is int or isinstance(value, list)}
        return [".".join(map(str, (*self.loc, key))) + f" {show(value)}" for key, value in sizes.items()]

    @property
    def where(self) -> str:
        """This mapping in words."""
        return ".".join(map(str, self.loc)) or "config.json"

    def error(self, message: str, key: str | None, *, hint: str | None = None) -> SpecError:
        """An error at a key of this mapping, or at the mapping."""
        name = next((name for name in self.names(key) if name in self.data), None) if key else None
        loc = (*self.loc, name) if name else self.loc
        value = self.data.get(name) if name else None
        problem = self.document.problem(message, loc, key=name is None, value=value, hint=hint)
        return SpecError.from_problems([problem])


def named(key: str) -> str:
    """A key of a file in a message: cut, and quoted where it would read as a word of the sentence."""
    return cut(key) if re.fullmatch(r"\w*_\w*", key) else f"`{cut(key)}`"


def show(value: Any) -> str:
    """A JSON value in a comment."""
    import json

    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 60 else f"{text[:57]}..."
