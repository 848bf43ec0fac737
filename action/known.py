"""What is known of a spec without working it out: its name, where it lies, and what it says, whatever its form."""

from __future__ import annotations

import os
import posixpath
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from unicodedata import normalize

from action.git import Entry, contents
from archcalc.documents.compare.sides import kind_of
from archcalc.errors import ArchcalcError, FileWarning
from archcalc.files.text_file import MAX_BYTES
from archcalc.files.yaml_loader import load
from archcalc.hf.source import CONFIG
from archcalc.hf.spec import config_text

ENDINGS = (".yaml", ".yml", ".json")
"""Of files that may hold a spec, wherever they lie."""

SAYS_NOTHING = ("kind", "name", "title", "sources", "claims", "assumed")
"""Sections that are left out where the content of two specs is compared."""

_MAYBE = re.compile(rb"backbone|model_type|\\|\0")
"""What no spec and no config is without; an escape or another encoding may hide the words."""


class Known(NamedTuple):
    """A spec that was read but not validated.

    Attributes:
        path: from the top of the repository.
        name: as it calls itself, folded; empty where it can't be read.
        leaves: each scalar with the keys that lead to it, and how often it stands there: neither the form of the file
            nor the order of its keys and lists counts.
        report: whether it is a saved report, whose numbers are what somebody wrote.
    """

    path: str
    name: str = ""
    leaves: Counter[tuple[tuple[str, ...], str]] = Counter()  # noqa: RUF012, never changed
    report: bool = False

    @property
    def stem(self) -> str:
        """What its path calls it: a config by its folder, any other without its ending."""
        folder, base = posixpath.split(self.path)
        if base.lower() == CONFIG:
            return folded(posixpath.basename(folder))
        root, ending = posixpath.splitext(base)
        return folded(root if ending.lower() in ENDINGS else base)


def folded(name: str) -> str:
    """A name without what looks the same written otherwise: case, width, composed letters, spaces around it."""
    return normalize("NFKC", name).casefold().strip()


def likeness(one: Known, other: Known) -> float:
    """How much two specs say the same, from 0 to 1: Dice's coefficient of their leaves."""
    said = one.leaves.total() + other.leaves.total()
    return 2 * (one.leaves & other.leaves).total() / said if said else 0.0


def read(entries: Sequence[tuple[str, Entry]], *, sure: bool = True) -> Iterator[Known]:
    """What is known of each file of a tree. Not `sure`: those that are no specs are left out. Raises Failure."""
    texts = contents([entry.oid for _, entry in entries], MAX_BYTES)
    for (path, _), text in zip(entries, texts, strict=True):
        found = _known(path, text) if text is not None and (sure or _MAYBE.search(text)) else None
        if sure:
            yield found or Known(path)
        elif found is not None and found.leaves:
            yield found


def _known(path: str, text: bytes) -> Known | None:
    """What a text says; None where it can't be read."""
    kind = kind_of(text, path)
    if kind == "report":
        return Known(path, report=True)
    shown = os.fsencode(path).decode(errors="replace")
    try:
        with warnings.catch_warnings():  # the comparison says them
            warnings.simplefilter("ignore", FileWarning)
            data = (config_text(text, shown) if kind == "config" else load(text, shown)).data
    except (ArchcalcError, RecursionError):
        return None
    if "backbone" not in data:
        return None
    name = data.get("name")
    return Known(path, folded(name) if isinstance(name, str) else "", _leaves(data))


def _leaves(data: Mapping[str, Any]) -> Counter[tuple[tuple[str, ...], str]]:
    found: Counter[tuple[tuple[str, ...], str]] = Counter()
    rest: list[tuple[tuple[str, ...], Any]] = [((k,), v) for k, v in data.items() if k not in SAYS_NOTHING]
    while rest:
        keys, value = rest.pop()
        if isinstance(value, dict):
            rest += [((*keys, str(key)), inner) for key, inner in value.items()]
        elif isinstance(value, list):
            rest += [(keys, inner) for inner in value]
        else:
            found[keys, repr(value)] += 1
    return found
