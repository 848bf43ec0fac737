"""`books.yaml` beside the reports: the plans, GPUs and sizes that the report of a spec is about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from os.path import exists, isfile, lexists
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from archcalc.errors import InputError, Problem, SpecError, show_value
from archcalc.files.hints import name_hint
from archcalc.files.loader import NOUNS, bundled_names, validate
from archcalc.files.model import Text
from archcalc.files.under import Sizes
from archcalc.files.yaml_loader import Document, load, read
from archcalc.section import About, Section, Size

NAME = "books.yaml"
FOLDERS = {"plans": "plans", "gpus": "hardware"}
"""Keys of an entry, and the folder of the bundled files that they name."""


class Carried(Sizes):
    """What one report is about beside its spec: bundled names, or paths from the folder of this file."""

    about = About(
        "What one report is about beside its spec",
        plans=(
            "Training plans, each with its memory on every pipeline rank: bundled names, or paths from the folder of "
            "this file"
        ),
        gpus="GPUs, each with what its memory goes to in serving: bundled names, or paths from the folder of this file",
        gpu_count="How many of each GPU; the fewest that fit where it is left out",
    )

    plans: list[Text] = Field(default_factory=list)
    gpus: list[Text] = Field(default_factory=list)
    gpu_count: Size | Literal["auto"] | None = None


class Books(Section):
    """What the reports of a folder are about, by the `name` of the spec; without an entry, about the spec alone."""

    about = About(
        "What the reports of a folder are about: `books.yaml` beside them, read by `archcalc report`",
        kind="What file this is",
        books=(
            "By the `name` of a spec, what its report is about beside it; a spec without an entry is reported on alone"
        ),
    )

    kind: Literal["books"]
    books: dict[Text, Carried]


def load_books(folder: Path) -> Mapping[str, Mapping[str, Any]]:
    """The flags of `report` for each spec, by its name; nothing where the folder has no such file.

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
    books = validate(document.data, document, Books)
    problems = list(unknown(books, folder, document))
    if problems:
        raise SpecError.from_problems(problems)
    return {name: _flags(entry, folder) for name, entry in books.books.items()}


def _flags(entry: Carried, folder: Path) -> dict[str, Any]:
    """An entry as the flags of `report`; files are found from the folder."""
    count = {} if entry.gpu_count is None else {"gpus": entry.gpu_count}
    files = {
        key.removesuffix("s"): [
            word if word in bundled_names(of) else str(folder / word) for word in getattr(entry, key)
        ]
        for key, of in FOLDERS.items()
    }
    return {**files, **count, **entry.sizes}


def unknown(books: Books, folder: Path, document: Document) -> Iterator[Problem]:
    """A problem for each plan and GPU of a file in a folder that is neither bundled nor there."""
    for name, entry in books.books.items():
        yield from _unknown(name, entry, folder, document)


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
