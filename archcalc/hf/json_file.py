"""Strict, bounded JSON with a position for everything: the text of a file in, a Document out.

What is read is RFC 8259 with an object at the top, at most 64 levels deep, each key once, numbers that a 64-bit
integer or a double can hold, and beside these the NaN and Infinity that Python writes. The standard library parses;
places are found by a second walk (`json_places`) that only an error takes, so that a file of megabytes costs what
`json.loads` costs.

Its neighbours: `json_places` finds places and what breaks these rules, `json_syntax` explains what is no JSON.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any

from archcalc.errors import InputError, show_value
from archcalc.files.document import Document
from archcalc.files.text_file import contents, refuse_larger, utf8
from archcalc.hf.json_places import MAX_DEPTH, Lines, bad_number, first_problem, spots
from archcalc.hf.json_syntax import syntax_problem
from archcalc.limits import JSON_BYTES, Limit

__all__ = ["MAX_DEPTH", "MAX_VALUES", "load", "read"]

MAX_VALUES = 1_000_000
"""The indices of the largest releases name some hundred thousand tensors."""

TOO_MUCH = "a model's config takes a few KiB; is this the right file?"

_HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")
"""An escape that may stand for half a character."""


class _Refused(Exception):
    """Raised inside the parser, which does not know where it is."""


def read(path: str | os.PathLike[str], *, source: str | None = None, limit: Limit = JSON_BYTES) -> Document:
    """The document that a file holds, never more of it in memory than `limit`; errors name it `source`.

    Raises:
        InputError: a file that can't be read, or is no JSON that we read.
    """
    name = os.fsdecode(path) if source is None else source
    try:
        raw = contents(path, limit.most + 1, "the config.json")
    except InputError as error:
        raise error.at(source=name) from None
    return load(raw, name, limit=limit)


def load(text: str | bytes, source: str, *, limit: Limit = JSON_BYTES) -> Document:
    """Parses one JSON object. Raises InputError for anything else, with its place."""
    refuse_larger(len(text), limit, source, TOO_MUCH)
    if isinstance(text, bytes):
        text = utf8(text, source, "JSON")
    _check_ends(text, source)
    try:
        data: Any = json.loads(text, object_pairs_hook=_mapping, parse_int=_integer, parse_float=_float)
    except json.JSONDecodeError as error:
        raise InputError.from_problems([syntax_problem(error, text, source)]) from None
    except (_Refused, RecursionError):
        _refuse(text, source)
        raise InputError("this can't be read as JSON", source=source) from None
    start = Lines(text).mark(len(text) - len(text.lstrip()))
    if not isinstance(data, dict):
        found = show_value(data)
        raise InputError(
            f"the file must hold an object, `{{...}}`, not {found}",
            source=source,
            line=start.line + 1,
            column=start.column + 1,
            value=data,
        )
    if _depth(data) > MAX_DEPTH or _HALF_PAIR.search(text):
        _refuse(text, source)
    return Document(data, text, source, lambda: spots(text), (start.line + 1, start.column + 1))


def _check_ends(text: str, source: str) -> None:
    """Raises InputError for a byte order mark, for nothing at all, and for more than can be meant."""
    if text.startswith("\ufeff"):
        raise InputError(
            "the file starts with a byte order mark, which JSON does not allow",
            source=source,
            line=1,
            column=1,
            hint="save it as UTF-8 without BOM",
        )
    if not text.strip(" \t\r\n"):
        raise InputError("the file is empty", source=source, hint="it should hold a JSON object, `{...}`")
    if text.count(",") > MAX_VALUES:
        raise InputError(
            f"the file holds more than {MAX_VALUES:,} values", source=source, hint="is this the right file?"
        )


def _refuse(text: str, source: str) -> None:
    """Raises InputError at the first place that breaks a rule of ours, if there is one."""
    problem = first_problem(text, source)
    if problem is not None:
        raise InputError.from_problems([problem])


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _Refused
    return found


def _integer(token: str) -> int:
    if bad_number(token):
        raise _Refused
    return int(token)


def _float(token: str) -> float:
    if bad_number(token):
        raise _Refused
    return float(token)


def _depth(data: Any) -> int:
    """Levels of nesting: 1 for an object of plain values."""
    depth, level = 0, [data]
    while level:
        depth += 1
        values = (value for outer in level for value in (outer.values() if isinstance(outer, dict) else outer))
        level = [value for value in values if isinstance(value, dict | list)]
    return depth
