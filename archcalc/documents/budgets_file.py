"""A file of budgets: what quantities of specs may come to, and by how much they may grow."""

from __future__ import annotations

import os
import posixpath
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, WithJsonSchema, model_validator

from archcalc.documents.compare.git import PREFIX, blob, committed, from_top, split
from archcalc.errors import FieldError, InputError, show_value
from archcalc.files.hints import name_hint
from archcalc.files.loader import NOUNS, bundled_file, bundled_names, validate
from archcalc.files.model import Text
from archcalc.files.under import Under
from archcalc.files.yaml_loader import Document, load, read
from archcalc.section import About, Section

_AMOUNT = {"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "minLength": 1}]}
Amount = Annotated[int | float | str, WithJsonSchema(_AMOUNT)]
"""A number in the quantity's own unit, or text: 1.0T, 80GiB; of a growth also 1%."""


class Budget(Under):
    """What one quantity of a spec may come to. At least one of `max` and `max_increase` is there."""

    about = About(
        "What one quantity of a spec may come to; one of `max` and `max_increase` at least",
        spec="A spec, by a path from the folder of this file, or a bundled name",
        quantity="A name of docs/glossary.md, or params[PATH]",
        max="The most that it may be: 1.0T, 80GiB, or a number in its own unit",
        max_increase="How much it may grow from the revision that `--base` names: 1%, 2GiB, or a number",
        message="What to tell whoever goes past it",
    )

    spec: Text
    quantity: Text
    max: Amount | None = None
    max_increase: Amount | None = None
    message: Text | None = None

    @model_validator(mode="after")
    def _limited(self) -> Self:
        if self.max is None and self.max_increase is None:
            raise FieldError("neither max nor max_increase: this budget limits nothing", "quantity")
        return self


class Budgets(Section):
    """Limits that `archcalc check` holds specs against."""

    about = About(
        "Limits that `archcalc check` holds specs against",
        kind="What file this is; may be left out",
        budgets="The limits, each on one quantity of one spec",
    )

    kind: Literal["budgets"] = "budgets"
    budgets: Annotated[list[Budget], Field(min_length=1)]


class Placed(NamedTuple):
    """A file of budgets and where it lies: in a folder, or in a revision of git."""

    argument: str
    document: Document
    budgets: list[Budget]

    @property
    def in_git(self) -> bool:
        """Whether it was read out of git's objects: then nothing else is read from the working tree either."""
        return self.argument.startswith(PREFIX)

    @property
    def file(self) -> str:
        """Where people find it."""
        return split(self.argument)[1] if self.in_git else self.argument

    def spec(self, word: str) -> str:
        """A spec as commands take it. Raises InputError where there is none, or outside the repository."""
        if word in bundled_names():
            return bundled_file(word)
        if not self.in_git:
            if word.startswith("hf:"):
                return word
            path = os.path.join(os.path.dirname(self.argument) or ".", word)
            if not os.path.exists(path):
                raise _missing(word, "", "there is no such file from here")
            return path
        revision, path = split(self.argument)
        found = posixpath.normpath(posixpath.join(posixpath.dirname(path), word))
        if found.startswith(("../", "/")) or found == ".." or word.startswith("hf:"):
            raise InputError(f"{word} is no file of this repository", value=word)
        return f"{PREFIX}{revision}:{found}"

    def before(self, word: str, base: str) -> str:
        """The same spec at a revision, as commands take it. Raises InputError for one that no revision can have."""
        found = None
        if word not in bundled_names() and not word.startswith("hf:"):
            spec = self.spec(word)
            found = f"{PREFIX}{base}:{split(spec)[1]}" if self.in_git else committed(spec, base)
        if found is None:
            message = f"{word} is no file of this repository: it has no earlier revision"
            raise InputError(message, value=word, hint="name a file, or leave max_increase out")
        return found

    def named(self, word: str | None, folder: str) -> str | None:
        """A plan or GPU as commands take it: a bundled name, or a path from the folder of the file. Raises InputError
        where there is none, or where it would be read from beside a revision."""
        if word is None:
            return None
        if word in bundled_names(folder):
            return bundled_file(word, folder)
        path = Path(self.argument).parent / word
        if not self.in_git and os.path.isfile(path):
            return str(path)
        where = "files of a revision are read for specs alone" if self.in_git else "there is no such file from here"
        raise _missing(word, folder, where)


def _missing(word: str, folder: str, where: str) -> InputError:
    message = f"no bundled {NOUNS[folder]} is named {show_value(word)}, and {where}"
    return InputError(message, value=word, hint=name_hint(word, folder, "a path from the folder of the budgets"))


def load_budgets(argument: str) -> Placed:
    """A file of budgets: a path, or `git:REV:path`. Raises InputError or SpecError, with line and column."""
    in_git = argument.startswith(PREFIX)
    document = load(blob(argument) if in_git else read(Path(argument)), argument)
    budgets = validate(document.data, document, Budgets).budgets
    return Placed(from_top(argument) if in_git else argument, document, budgets)
