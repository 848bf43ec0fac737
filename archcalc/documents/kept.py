"""Files of one's own that a report rests on: it holds them itself, so that it can be asked for again anywhere.

In a document they stand under `files`, by the folder of the bundled ones (`plans`, `hardware`, `engines`, `stacks`,
`specs`) and by the name that the report's inputs, or the plan, call them by.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from json import dumps
from typing import Any, NamedTuple

from archcalc.files.loader import Kept, is_bundled, text_of
from archcalc.files.model import Spec
from archcalc.files.yaml_loader import load
from archcalc.training.load import load_plan
from archcalc.training.plan import Plan

SPECS = "specs"
"""What the folder of specs is called in a document."""


class File(NamedTuple):
    """A file by the folder that the bundled ones of its kind stand in, by what inputs call it, and by what it was asked
    for as."""

    folder: str
    name: str
    argument: str


def held(files: Iterable[File]) -> dict[str, Any]:
    """`files` of a document: the content of those that are not bundled; nothing where all are. Raises InputError."""
    found: dict[str, Any] = {}
    for file in files:
        if not is_bundled(file.argument, file.folder):
            found.setdefault(file.folder, {})[file.name] = content(file)
    return {"files": found} if found else {}


def content(file: File) -> Mapping[str, Any]:
    """The data of a file, as it is written. Raises InputError."""
    return load(*text_of(file.argument, file.folder)).data


def of_plan(name: str, argument: str, plan: Plan | None = None) -> list[File]:
    """A plan, which is read where it is not at hand, and what it names itself. Raises InputError."""
    plan = plan or load_plan(argument)
    named = [("hardware", plan.hardware), *([("stacks", plan.stack)] if plan.stack else [])]
    return [File("plans", name, argument), *(File(folder, word, word) for folder, word in named)]


def held_spec(spec: Spec) -> dict[str, Any]:
    """The same of a spec, whatever it was read from."""
    return {SPECS: {spec.name: spec.model_dump(mode="json", exclude_defaults=True)}}


def texts(files: Mapping[str, Any]) -> Kept:
    """The texts of `files` of a document. Raises TypeError or ValueError where they are none."""
    return {
        ("" if folder == SPECS else folder, name): dumps(content, ensure_ascii=False).encode()
        for folder, named in files.items()
        for name, content in named.items()
    }
