"""Where things stand in a JSON text: a walk from token to token, without recursion, for a text that has been parsed."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any, NamedTuple

from archcalc.errors import Problem, Related
from archcalc.files.document import Spots, cut, split_lines

MAX_DEPTH = 64

MAX_DIGITS = 4300
"""Python reads no integer of more digits; a double has 17 that count."""

_NUMBER = r"NaN|-?Infinity|-?(?:0|[1-9]\d*+)(?:\.\d++)?(?:[eE][-+]?\d++)?"  # as json's own parser reads them
_TOKEN = re.compile(rf'"(?:[^"\\]++|\\.)*+"|[{{}}\[\],:]|{_NUMBER}|[^\s{{}}\[\],:"]++', re.DOTALL | re.ASCII)
_SURROGATE = re.compile("[\ud800-\udfff]")


class Mark(NamedTuple):
    """A place, line and column from 0, as YAML's parser counts them."""

    line: int
    column: int


class Lines:
    """The lines of a text, whatever ends them: LF, CRLF or CR."""

    def __init__(self, text: str) -> None:
        self._starts = [0, *(found.end() for found in re.finditer(r"\r\n?|\n", text))]

    def mark(self, offset: int) -> Mark:
        """The place of a character."""
        line = bisect_right(self._starts, offset) - 1
        return Mark(line, offset - self._starts[line])


class _Event(NamedTuple):
    """`kind`: open | close | key | value; `token`: the text itself; `offset`: where it begins."""

    kind: str
    token: str
    offset: int


def _events(text: str) -> Iterator[_Event]:
    """What stands in a JSON text, in order. Of a text that is none, something or other; it always ends."""
    inside: list[str] = []
    key_due = False
    for found in _TOKEN.finditer(text):
        token, first = found[0], found[0][0]
        if first == ",":
            key_due = inside[-1:] == ["{"]
        elif first in "{[":
            yield _Event("open", token, found.start())
            inside.append(first)
            key_due = first == "{"
        elif first in "}]":
            del inside[-1:]
            key_due = False
            yield _Event("close", token, found.start())
        elif first != ":":
            yield _Event("key" if key_due and first == '"' else "value", token, found.start())
            key_due = False


class _Frame:
    """An object or list that is being walked through; `key` is None in a list."""

    __slots__ = ("key", "key_mark", "listed", "spots")

    def __init__(self, listed: bool) -> None:
        self.listed = listed
        self.spots: Spots = {}
        self.key: Any = None
        self.key_mark: Any = None


def spots(text: str) -> Spots:
    """Where each key and each value of a JSON object stands."""
    lines = Lines(text)
    top = _Frame(listed=True)  # holds the object itself, at index 0
    stack = [top]
    for kind, token, offset in _events(text):
        if kind == "close":
            stack.pop()
            continue
        frame, mark = stack[-1], lines.mark(offset)
        if kind == "key":
            frame.key, frame.key_mark = _name(token), mark
            continue
        inner = _Frame(listed=token == "[") if kind == "open" else None
        key, key_mark = (len(frame.spots), mark) if frame.listed else (frame.key, frame.key_mark)
        frame.spots[key] = (key_mark, mark, inner.spots if inner else None)
        if inner:
            stack.append(inner)
    return top.spots[0][2] or {}


def first_problem(text: str, source: str) -> Problem | None:
    """The first place of a text that breaks a rule: depth, a key twice, a number out of range, half a character."""
    seen: list[dict[str, int]] = []
    for kind, token, offset in _events(text):
        said: tuple[str, str | None] | None = None
        first: int | None = None
        if kind == "open":
            seen.append({})
            if len(seen) > MAX_DEPTH:
                said = f"more than {MAX_DEPTH} levels of nesting", None
        elif kind == "close":
            del seen[-1:]
        elif token[0] == '"':
            name = _name(token)
            if _SURROGATE.search(name):
                said = "an escape stands for half a character (a surrogate)", "write the character itself"
            elif kind == "key" and (first := seen[-1].setdefault(name, offset)) != offset:
                said = f"duplicate key `{cut(name)}`", "keep one of the two"
        else:
            said = bad_number(token)
        if said:
            return problem(text, source, offset, *said, first)
    return None


def problem(text: str, source: str, offset: int, message: str, hint: str | None, first: int | None = None) -> Problem:
    """A problem at a character of the text; `first`: where its key was given first."""
    lines, shown = Lines(text), split_lines(text)
    line, column = lines.mark(offset)
    related: tuple[Related, ...] = ()
    if first is not None:
        at = lines.mark(first)
        related = (Related("first given here", source, at.line + 1, at.column + 1, shown[at.line]),)
    return Problem(message, source, line + 1, column + 1, None, hint, shown[line], related)


def bad_number(token: str) -> tuple[str, str | None] | None:
    """What is wrong with a number, or with another bare word, and the hint; None if it is fine."""
    if token[0] not in "-0123456789" or token == "-Infinity":
        return None
    if len(token) > MAX_DIGITS:
        return f"a number of more than {MAX_DIGITS:,} digits", None
    if token.lstrip("-").isdigit():
        fits = len(token) < 19 or -(1 << 63) <= int(token) < 1 << 63
        return None if fits else ("this integer is beyond 2^63", None)
    fits = abs(float(token)) != float("inf")
    return None if fits else ("this number is beyond 1.8e308, the largest double", None)


def _name(token: str) -> str:
    """What a string in quotes says."""
    return str(json.loads(token, strict=False)) if "\\" in token else token[1:-1]
