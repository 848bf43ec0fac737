"""What an argument means that names a release: a config.json, a folder that holds one, a repository of the hub.

Every command asks this of every argument, so what reads and fetches is imported where there is something to read.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from archcalc.errors import InputError, show_value
from archcalc.files.loader import bundled_names
from archcalc.limits import INDEX_BYTES, JSON_BYTES

if TYPE_CHECKING:
    from archcalc.files.document import Document

PREFIX = "hf:"

CONFIG, QUANT, INDEX = "config.json", "hf_quant_config.json", "model.safetensors.index.json"

FILES = {CONFIG: JSON_BYTES, QUANT: JSON_BYTES, INDEX: INDEX_BYTES}
"""All files of a release that are ever read, and how large each may be."""

_ARGUMENT = r"hf:((?:[\w.-]{1,96}/)?[\w.-]{1,96})(?:@(\w[\w.+/-]{0,199}))?"
_NO_REVISION = r"\.\.|//|/\.|/$|\.$|\.lock(/|$)"
"""What no name of a branch or a tag contains: it becomes a path in the hub's cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The files that describe a release.

    config: its config.json.
    quant: its hf_quant_config.json, None where there is none.
    index: its model.safetensors.index.json, None where there is none.
    name: what the release is called: the repository without its owner, the folder, or the file without its ending.
    where: what to write to read the same again: a path, or `hf:ORG/NAME@COMMIT`.
    """

    config: Document
    quant: Document | None
    index: Document | None
    name: str
    where: str


def source_of(argument: str) -> Source | None:
    """The release that an argument names; None if it is the name or the path of something else.

    The network is used for `hf:ORG/NAME[@REVISION]` alone.

    Raises:
        InputError: a release that can't be had, or whose files are no JSON that we read.
    """
    if argument.startswith(PREFIX):
        return _of_the_hub(argument)
    folder, name = os.path.split(argument)
    if name == CONFIG:
        return _of_folder(folder)
    if name.lower().endswith(".json") and not os.path.isdir(argument):
        return alone(_read(argument, CONFIG), argument)
    if not _is_folder(argument):
        return None
    if not os.path.lexists(os.path.join(argument, CONFIG)):
        raise InputError(
            f"this folder has no {CONFIG}",
            source=argument,
            value=argument,
            hint=f"name a spec inside it, or a folder that holds the {CONFIG} of a model",
        )
    return _of_folder(argument)


def alone(config: Document, path: str, *, quant: Document | None = None, index: Document | None = None) -> Source:
    """A config file by itself, called as it or the folder that it is for; a pipe has no name that tells."""
    folder, name = os.path.split(path)
    called = _name(folder) if name == CONFIG else re.sub(r"(?i)\.json$", "", name)
    if path.startswith(("<", "/dev/")):
        called = ""
    return Source(config=config, quant=quant, index=index, name=called or "model", where=config.source)


def _is_folder(argument: str) -> bool:
    """Whether an argument is a folder that no bundled name hides."""
    return argument not in ("", *bundled_names()) and os.path.isdir(argument)


def called(argument: str) -> str | None:
    """What the release that an argument names is called in a text that does not depend on where it was written: what
    was written for the hub, else a file with the folder that names the model. None where it names no release."""
    if argument.startswith(PREFIX):
        return argument
    folder, name = os.path.split(argument)
    if name == CONFIG or _is_folder(argument):
        return os.path.join(_name(folder if name == CONFIG else argument), CONFIG)
    return name if name.lower().endswith(".json") else None


def _read(path: str, name: str, source: str | None = None) -> Document:
    """The file of that name of a release. Raises InputError."""
    from archcalc.hf.json_file import read

    return read(path, source=source, limit=FILES[name])


def _of_folder(folder: str) -> Source:
    """The release in a folder of this machine."""
    where = os.path.join(folder, CONFIG)
    config = _read(where, CONFIG)
    found = {}
    for name in (QUANT, INDEX):
        path = os.path.join(folder, name)
        if os.path.lexists(path):
            found[name] = _read(path, name)
    return Source(config=config, quant=found.get(QUANT), index=found.get(INDEX), name=_name(folder), where=where)


def _name(folder: str) -> str:
    """What a folder is called; one of the hub's cache by the repository that it is from."""
    path = Path(os.path.abspath(folder))
    repository = path.parent.parent.name
    if path.parent.name == "snapshots" and repository.startswith("models--"):
        return repository.rpartition("--")[2]
    return path.name or "model"


def _with_bundled(error: InputError, model: str) -> InputError:
    """The same error, with the bundled spec of that release in its hint."""
    from archcalc.files.hints import bundled_as

    known = bundled_as(model)
    if known is None:
        return error
    hint = "; ".join(filter(None, (error.hint, f"{known.name} is bundled: {known.title}")))
    return InputError.from_problems([error.problems[0]._replace(hint=hint)])


def _of_the_hub(argument: str) -> Source:
    """The release of a repository, as it is now or at a revision."""
    from archcalc.hf.hub import fetch

    written = re.fullmatch(_ARGUMENT, argument, re.ASCII)
    if written is None or re.search(_NO_REVISION, written[2] or ""):
        raise InputError(
            f"{show_value(argument)} names no model of the hub",
            value=argument,
            hint="write hf:ORG/NAME, or hf:ORG/NAME@REVISION",
        )
    model, revision = written.groups()
    try:
        paths, commit = fetch(argument, model, revision, FILES)
    except InputError as error:
        raise _with_bundled(error, model) from None
    found = {name: _read(path, name, f"{argument}/{name}") for name, path in paths.items() if path}
    return Source(
        config=found[CONFIG],
        quant=found.get(QUANT),
        index=found.get(INDEX),
        name=model.rpartition("/")[2],
        where=f"{PREFIX}{model}@{commit}",
    )
