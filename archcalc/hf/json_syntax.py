"""Our own account of what a JSON parser complains about, at the place where a reader would look for it."""

from __future__ import annotations

import json
import re

from archcalc.errors import Problem
from archcalc.hf.json_places import problem

_NO_JSON: tuple[tuple[str, str, str | None], ...] = (
    (
        "version https://git-lfs",
        "this is a Git LFS pointer, not the file that it stands for",
        "git lfs pull fetches it",
    ),
    ("<", "this is a web page or XML, not JSON", "download the raw file"),
)
"""How files begin that are something else, what we say, and the hint."""

_STRAY: tuple[tuple[str, str, str | None], ...] = (
    (r"//|/\*|#", "comments are not allowed in JSON", "leave them out"),
    (r"'", "text stands in double quotes in JSON", 'write "text"'),
    (r"(True|False|None)\b", "JSON writes true, false and null in small letters", None),
    (
        r"[-+]?(nan|inf|infinity)\b",
        "this is not how a config writes a number that is none",
        "write NaN, Infinity or null",
    ),
)
"""What stands where something else is due, what we say, and the hint. The first that fits is used."""

_SAID: tuple[tuple[str, str, str | None], ...] = (
    ("Unterminated string", "this quoted text is never closed", "add the closing quote"),
    ("control character", "a line break or control character inside quoted text", r"write it as an escape: \n"),
    ("escape", "this escape is not one of JSON's", r"a backslash is written \\"),
    ("Extra data", "text after the end of the object", "keep one object in a file"),
    ("',' delimiter", "expected a comma or a closing bracket here", None),
    ("':' delimiter", "expected a colon after this key", 'write "key": value'),
    ("property name", "a key must be text in double quotes", 'write "key": value'),
    ("value", "expected a value here", None),
)
"""What the parser's complaint contains, what we say instead, and the hint. The first that fits is used."""


def syntax_problem(error: json.JSONDecodeError, text: str, source: str) -> Problem:
    """A parser's error, in our words."""
    body = text.lstrip(" \t\r\n")
    start = len(text) - len(body)
    for begins, message, hint in _NO_JSON:
        if body.startswith(begins):
            return problem(text, source, start, message, hint)
    at = error.pos + len(text[error.pos :]) - len(text[error.pos :].lstrip(" \t\r\n"))
    if "Unterminated" in error.msg or "control" in error.msg or "escape" in error.msg:
        at = error.pos
    elif at >= len(text):
        return problem(text, source, len(text.rstrip()), "the file ends too early", "is it only a part of a file?")
    elif (comma := _trailing_comma(text, at)) is not None:
        return problem(text, source, comma, "a comma before a closing bracket", "JSON allows none; delete it")
    else:
        rest = text[at : at + 20]
        for pattern, message, hint in _STRAY:
            if re.match(pattern, rest, re.IGNORECASE if "nan" in pattern else 0):
                return problem(text, source, at, message, hint)
        if re.match(r"[-+.]?\d|[._]", rest) and ("value" in error.msg or text[at - 1].isdigit()):
            hint = "write 0.5, not .5; 5.0, not 5.; 7, not 07 or +7; 1000, not 1_000"
            return problem(text, source, at, "this is not how JSON writes a number", hint)
        if at == start:
            return problem(text, source, at, "this is not JSON", "a config begins with `{`")
    message, hint = next(((message, hint) for part, message, hint in _SAID if part in error.msg), ("not JSON", None))
    return problem(text, source, at, message, hint)


def _trailing_comma(text: str, at: int) -> int | None:
    """The comma that stands before the closing bracket at a place, or at the place itself, before one."""
    if text[at] == "," and text[at + 1 :].lstrip(" \t\r\n")[:1] in ("]", "}"):
        return at
    before = text[:at].rstrip(" \t\r\n")
    return len(before) - 1 if text[at] in "]}" and before.endswith(",") else None
