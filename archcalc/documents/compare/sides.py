"""The two sides of a diff: a spec, a saved report, a file of a git revision, or nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from archcalc.documents.compare.git import MOST_BYTES, PREFIX, blob, split
from archcalc.documents.compare.saved import Saved, parse
from archcalc.errors import InputError
from archcalc.files.loader import bundled_dir, find, validate
from archcalc.files.model import Spec
from archcalc.files.yaml_loader import Document, load, read
from archcalc.hf.spec import config_text, load_located

NOTHING = "/dev/null"
"""Stands for a side that does not exist, as in git: a spec that was added or removed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One side. Exactly one of `spec` and `saved` is there; neither, if the side is nothing.

    Attributes:
        label: as it was asked for.
        file: where people find it: a path from the top of the repository for `git:`; None for a bundled spec.
        document: the spec's text, for line numbers.
    """

    label: str
    file: str | None = None
    document: Document | None = None
    spec: Spec | None = None
    saved: Saved | None = None

    @property
    def name(self) -> str:
        """The side in a heading: `specs/k25.yaml at HEAD~1`, an object id cut short."""
        if not self.label.startswith(PREFIX):
            return self.label
        revision, path = split(self.label)
        return f"{path} at {revision[:12] if is_object_id(revision) else revision}"

    @property
    def title(self) -> str:
        """What it is, for people."""
        if self.spec is not None:
            return self.spec.title
        return self.saved.title if self.saved is not None else "nothing"


def is_object_id(revision: str) -> bool:
    """Whether a revision is a whole object id of git."""
    return len(revision) in (40, 64) and all(char in "0123456789abcdef" for char in revision)


def read_side(argument: str) -> Side:
    """A side of a diff: path or bundled name of a spec, path of a saved report, `git:REV:path` of either, `/dev/null`.

    Raises:
        InputError: what can't be read, is no report, or comes from a newer version.
        SpecError: a file that is no valid spec.
    """
    if argument == NOTHING:
        return Side(label=argument)
    if argument.startswith(PREFIX):
        path = split(argument)[1].removeprefix("./")
        return _side(blob(argument), argument, argument, path)
    if os.path.isdir(argument) or argument.startswith("hf:"):
        return _imported(load_located(argument), argument, argument)
    found = find(argument)
    bundled = bundled_dir() in found.parents and argument == found.stem
    text = _bytes(found) if found.suffix not in (".yaml", ".yml") else read(found)
    return _side(text, argument, str(found), None if bundled else str(found))


def _side(text: bytes, label: str, source: str, file: str | None) -> Side:
    ending = Path(file or "").suffix.lower()
    if ending == ".json" or (ending not in (".yaml", ".yml") and text.lstrip()[:1] == b"{"):
        if b'"model_type"' in text:
            document = config_text(text, source)
            return _imported((validate(document.data, document, Spec), document), label, file)
        return Side(label=label, file=file, saved=parse(text, source))
    document = load(text, source)
    return Side(label=label, file=file, document=document, spec=validate(document.data, document, Spec))


def _imported(read: tuple[Spec, Document], label: str, file: str | None) -> Side:
    return Side(label=label, file=file, document=read[1], spec=read[0])


def _bytes(path: Path) -> bytes:
    """The bytes of a file that may be larger than a spec. Raises InputError."""
    try:
        with path.open("rb") as file:
            text = file.read(MOST_BYTES + 1)
    except (OSError, ValueError):
        return read(path)  # says what is in the way
    if len(text) > MOST_BYTES:
        raise InputError("the file is larger than 16 MiB", source=str(path), hint="is this the right file?")
    return text
