"""The two sides of a diff: a spec, a saved report, a file of a git revision, or nothing."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from archcalc.documents.compare.git import PREFIX, beside, blob, from_top, split
from archcalc.documents.compare.saved import Saved, parse
from archcalc.files.loader import bundled_dir, find, validate
from archcalc.files.model import Spec
from archcalc.files.text_file import contents, refuse_larger
from archcalc.files.yaml_loader import Document, load, read
from archcalc.hf.spec import called, config_text, is_config, load_located
from archcalc.limits import JSON_BYTES

NOTHING = "/dev/null"
"""Stands for a side that does not exist, as in git: a spec that was added or removed."""

CONFIG = "config.json"

_REPORT = re.compile(rb'"tool"\s*:\s*"archcalc"')
_SPEC = re.compile(rb'"kind"\s*:\s*"spec"')
"""What tells apart JSON files of any name."""


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
    """A side of a diff: a spec, a release's config, a saved report, `git:REV:path` of one, or `/dev/null`.

    Raises:
        InputError: what can't be read, is no report, or comes from a newer version.
        SpecError: a file that is no valid spec.
    """
    if argument == NOTHING:
        return Side(label=argument)
    if argument.startswith(PREFIX):
        return _of_git(blob(argument), argument, split(from_top(argument))[1])
    release = called(argument)
    if release is not None and not argument.lower().endswith(".json"):
        file = None if argument.startswith("hf:") else os.path.join(argument, CONFIG)
        return _specified(load_located(argument), argument, file)
    found = find(argument)
    bundled = bundled_dir() in found.parents and argument.lower() == found.stem
    text = _bytes(found) if found.suffix not in (".yaml", ".yml") else read(found)
    file = None if bundled else str(found)
    if kind_of(text, file) == "config":
        if release is not None:
            return _specified(load_located(argument), argument, file)
        return _specified(_valid(config_text(text, str(found))), argument, file)
    return _side(text, argument, str(found), file)


def _of_git(text: bytes, label: str, path: str) -> Side:
    """A file of a revision; a config with the files beside it."""
    if kind_of(text, path) != "config":
        return _side(text, label, label, path)
    around = partial(beside, label) if os.path.basename(path) == CONFIG else None
    return _specified(_valid(config_text(text, label, path, around)), label, path)


def kind_of(text: bytes, file: str | None) -> str:
    """What a text of that file is taken for: `spec`, `config` or `report`."""
    ending = Path(file or "").suffix.lower()
    if ending in (".yaml", ".yml") or (ending != ".json" and text.lstrip()[:1] != b"{"):
        return "spec"
    if _REPORT.search(text):
        return "report"
    if os.path.basename(file or "") == CONFIG or is_config(text):
        return "config"
    return "spec" if _SPEC.search(text) else "report"


def _side(text: bytes, label: str, source: str, file: str | None) -> Side:
    if kind_of(text, file) == "report":
        return Side(label=label, file=file, saved=parse(text, source))
    return _specified(_valid(load(text, source)), label, file)


def _valid(document: Document) -> tuple[Spec, Document]:
    return validate(document.data, document, Spec), document


def _specified(read: tuple[Spec, Document], label: str, file: str | None) -> Side:
    return Side(label=label, file=file, document=read[1], spec=read[0])


def _bytes(path: Path) -> bytes:
    """The bytes of a file that may be larger than a spec. Raises InputError."""
    text = contents(path, JSON_BYTES.most + 1)
    refuse_larger(len(text), JSON_BYTES, str(path))
    return text
