"""What a YAML or JSON file says, and where it says it: plain data with a map of places."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from archcalc.errors import Problem, Related

Loc: TypeAlias = tuple[str | int, ...]
"""A path into a document: keys and list indices."""
Mark: TypeAlias = tuple[int, int]
"""Line and column, both from 1."""
Spots: TypeAlias = "dict[str | int, tuple[Any, Any, Spots | None]]"
"""For each key or index: the parser's marks of the key and of the value, and the spots inside the value."""

MAX_PROBLEMS = 50
"""Problems gathered from one file at most."""


class Document:
    """What a file says, and where it says it."""

    __slots__ = ("_lines", "_spots", "_start", "data", "source", "text")

    def __init__(
        self, data: dict[str, Any], text: str, source: str, spots: Spots | Callable[[], Spots], start: Mark
    ) -> None:
        """`spots` may be a function, which is called once, when a place is asked for."""
        self.data = data
        """Plain dicts, lists, str, int, float, bool and None."""
        self.source = source
        """File name as the user gave it."""
        self.text = text
        self._spots = spots
        self._start = start
        self._lines: list[str] | None = None

    def line(self, number: int) -> str | None:
        """A line of the file, from 1, or None past its end."""
        if self._lines is None:
            self._lines = split_lines(self.text)
        return self._lines[number - 1] if 1 <= number <= len(self._lines) else None

    def _places(self) -> Spots:
        """Where everything stands, found now if it was not before."""
        if callable(self._spots):
            self._spots = self._spots()
        return self._spots

    def resolve(self, loc: Loc) -> Loc:
        """The part of a path that exists: union tags, missing keys and the like drop out."""
        path: list[str | int] = []
        here: Any = self.data
        for part in loc:
            inside = part in here if isinstance(here, dict) else isinstance(here, list) and part in range(len(here))
            if inside:
                path.append(part)
                here = here[part]
        return tuple(path)

    def position(self, loc: Loc, *, key: bool = False) -> Mark:
        """Line and column, from 1, of the value at a path, or of its key (of a list item: the item).

        Elements of the path that don't exist are skipped, so that the nearest existing ancestor answers.
        """
        spots: Spots | None = self._places()
        mark = None
        for part in loc:
            if spots and part in spots:
                key_mark, value_mark, spots = spots[part]
                mark = key_mark if key else value_mark
        return self._start if mark is None else (mark.line + 1, mark.column + 1)

    def problem(
        self,
        message: str,
        loc: Loc = (),
        *,
        key: bool = False,
        value: object = None,
        hint: str | None = None,
        related: Iterable[tuple[Loc, str]] = (),
    ) -> Problem:
        """A problem at a path; `related` are second places, each a path and what to say there."""
        line, column = self.position(loc, key=key)
        places = []
        for other, text in related:
            at = self.position(other, key=isinstance(self.value(other), dict | list))
            places.append(Related(text, self.source, *at, self.line(at[0])))
        return Problem(message, self.source, line, column, value, hint, self.line(line), tuple(places))

    def value(self, loc: Loc) -> Any:
        """The data at a path, without the elements that don't exist."""
        value: Any = self.data
        for part in self.resolve(loc):
            value = value[part]
        return value

    def name(self, loc: Loc) -> str:
        """A path for people: `backbone.layers[1].count`, without the elements that don't exist."""
        text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.resolve(loc))
        return text.removeprefix(".")


def split_lines(text: str) -> list[str]:
    """The lines of a text, whatever ends them: LF, CRLF or CR."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def cut(text: str) -> str:
    """A key or name cut to the length of a message."""
    return text if len(text) <= 60 else text[:57] + "..."


def place_of(problem: Problem) -> Mark:
    """Where a problem stands, for sorting."""
    return problem.line or 0, problem.column or 0
