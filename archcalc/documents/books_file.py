"""`books.yaml` beside the reports: the plans and GPUs that the report of a spec is about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from os.path import exists, isfile, lexists
from pathlib import Path
from typing import Literal

from pydantic import Field

from archcalc.errors import InputError, Problem, SpecError, show_value
from archcalc.files.hints import name_hint
from archcalc.files.loader import NOUNS, bundled_names, validate
from archcalc.files.model import Text
from archcalc.files.yaml_loader import Document, load, read
from archcalc.section import Section

NAME = "books.yaml"
FOLDERS = {"plans": "plans", "gpus": "hardware"}
"""Keys of an entry, and the folder of the bundled files that they name."""


class Carried(Section):
    """What one report is about beside its spec: bundled names, or paths from the folder of this file.

    Attributes:
        plans: training plans, each with its memory on every pipeline rank.
        gpus: each with what its memory goes to in serving.
    """

    plans: list[Text] = Field(default_factory=list)
    gpus: list[Text] = Field(default_factory=list)


class Books(Section):
    """What the reports of a folder are about, by the `name` of the spec; without an entry, about the spec alone."""

    kind: Literal["books"]
    books: dict[Text, Carried]


def load_books(folder: Path) -> Mapping[str, Mapping[str, list[str]]]:
    """The values of `--plan` and `--gpu` for each spec, by its name; nothing where the folder has no such file.

    Raises:
        InputError: a file that can't be read.
        SpecError: an unknown key, plan or GPU, with line and column.
    """
    path = folder / NAME
    if not lexists(path):
        return {}
    if exists(path) and not isfile(path):
        raise InputError(
            "this is not a file", source=str(path), hint=f"{NAME} says which plans and GPUs reports are about"
        )
    document = load(read(path), str(path))
    entries = validate(document.data, document, Books).books
    problems = [problem for name, entry in entries.items() for problem in _unknown(name, entry, folder, document)]
    if problems:
        raise SpecError.from_problems(problems)
    return {
        name: {
            key.removesuffix("s"): [
                word if word in bundled_names(of) else str(folder / word) for word in getattr(entry, key)
            ]
            for key, of in FOLDERS.items()
        }
        for name, entry in entries.items()
    }


def _unknown(name: str, entry: Carried, folder: Path, document: Document) -> Iterator[Problem]:
    """A problem for each plan and GPU that is neither bundled nor a file."""
    for key, of in FOLDERS.items():
        names = bundled_names(of)
        for n, word in enumerate(getattr(entry, key)):
            if word not in names and not isfile(folder / word):
                yield document.problem(
                    f"no bundled {NOUNS[of]} is named {show_value(word)}, and there is no such file from {folder}",
                    ("books", name, key, n),
                    value=word,
                    hint=name_hint(word, of, "a path from this folder"),
                )
