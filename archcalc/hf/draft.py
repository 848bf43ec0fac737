"""A config while it is written from a spec: keys that are put, and what a dialect has no key for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Clash(NamedTuple):
    """A field of the spec that a dialect can't hold.

    Attributes:
        field: its path in the spec.
        value: as the spec has it.
        other: what the dialect has in its place.
    """

    field: str
    value: Any
    other: Any


class Draft:
    """A mapping of a config that is being written.

    Attributes:
        data: the keys so far.
        outer: the mapping around it.
        clashes: what did not fit; shared with the mappings around.
        values: of the section of the spec that is being written.
        field: path of the field that is being written.
    """

    def __init__(self, outer: Draft | None = None) -> None:
        self.data: dict[str, Any] = {}
        self.outer = outer
        self.clashes: list[Clash] = [] if outer is None else outer.clashes
        self.values: Mapping[str, Any] = {}
        self.field = ""

    def put(self, key: str, value: Any) -> None:
        """A key of the config. Two fields that want one key to say different things clash."""
        known = self.data.setdefault(key, value)
        if known != value or type(known) is not type(value):
            self.clash(value, known)

    def put_inside(self, key: str, name: str, value: Any) -> None:
        """A key of a mapping inside the config."""
        inner = self.data.setdefault(key, {})
        if inner.setdefault(name, value) != value:
            self.clash(value, inner[name])

    def clash(self, value: Any, other: Any) -> None:
        """Note that the field at hand does not fit."""
        self.clashes.append(Clash(self.field, value, other))
