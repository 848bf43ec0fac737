"""Our own account of what a YAML parser complains about, at the place where a reader would look for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from archcalc.errors import Problem, Related
from archcalc.files.document import Mark, split_lines

if TYPE_CHECKING:
    from yaml.error import YAMLError

    from archcalc.files.yaml_loader import Builder

MAX_DEPTH = 64

REPEAT = "write the value out where it is needed"
_INDENT = "keys of one section start in the same column, deeper than the section's own key"
_QUOTE = "put text with special characters in quotes"
_ESCAPE = "use single quotes to keep backslashes"
_DIRECTIVE = "leave it out"
_SYNTAX: tuple[tuple[str, str, str | None], ...] = (
    ("unexpected end of stream", "this quoted text is never closed", "add the closing quote"),
    ("unexpected document", "this quoted text is never closed", "add the closing quote"),
    ("nesting", f"more than {MAX_DEPTH} levels of nesting", None),
    ("',' or ']'", "expected `,` or `]` here", "lists are written [1, 2, 3]"),
    ("',' or '}'", "expected `,` or `}` here", "mappings are written {key: value, key: value}"),
    ("tab character", "a tab can't be used for indentation", "indent with spaces"),
    ("expected ':'", "expected a colon after this key", "write `key: value`, with a space after the colon"),
    ("mapping values", "a `key:` can't stand here", "check the indentation, or put the text in quotes"),
    ("mapping keys", "a `key:` can't stand here", _INDENT),
    ("sequence entries", "a list item can't stand here", "start each `- item` on a line of its own"),
    ("cannot start any token", "text can't start with this character", _QUOTE),
    ("quoted scalar", "this escape is not one of YAML's", _ESCAPE),
    ("'-' indicator", "expected a list item here", "items of one list start in the same column, with `- `"),
    ("block end", "this line doesn't fit its section", _INDENT),
    ("expected key", "this line doesn't fit its section", _INDENT),
    ("node content", "a value is missing here", None),
    ("document start", "text after the end of the document", "keep one document in a file"),
    (
        "block scalar",
        "this block text has a wrong header",
        "write `|` or `>`, then the text on the next line",
    ),
    ("directive", "a `%` line that YAML doesn't know", _DIRECTIVE),
    ("version", "a `%` line that YAML doesn't know", _DIRECTIVE),
    ("YAML document", "a YAML version other than 1.1 or 1.2", _DIRECTIVE),
    ("alias", "aliases (`*name`) are not allowed", REPEAT),
    ("anchor", "anchors (`&name`) are not allowed", REPEAT),
    ("tag", "tags (`!name`) are not allowed", _QUOTE),
)
"""What the parser's complaint contains, what we say instead, and the hint. The first that fits is used."""


def syntax_problem(error: YAMLError, builder: Builder) -> Problem:
    """Our own account of a parser error, at the place where a reader would look for it."""
    context = getattr(error, "context", None) or ""
    said = f"{context}: {getattr(error, 'problem', None) or ''}"
    message, hint = next(
        ((message, hint) for part, message, hint in _SYNTAX if part in said), ("this is not valid YAML", None)
    )
    lines = split_lines(builder.text)
    end = _end_of_text(lines)
    start = _mark(getattr(error, "context_mark", None), end)
    place = _mark(getattr(error, "problem_mark", None), end) or start or end
    related: tuple[Related, ...] = ()
    before, after = lines[place[0] - 1][: place[1] - 1], lines[place[0] - 1][place[1] - 1 :]
    if ("quoted text" in message or "after this key" in message) and start is not None:
        place = start
    elif "flow" in said and place == end and builder.stack:
        place = _mark(builder.stack[-1].mark, end) or end
        closing = "]" if builder.stack[-1].data.__class__ is list else "}"
        message, hint = "this bracket is never closed", f"add the missing `{closing}`"
    elif after.startswith("\t"):
        message, hint = "a tab can't be used for indentation", "indent with spaces"
    elif "fit its section" in message and before.strip():
        message, hint = "unexpected text after the value", _QUOTE
    elif start is not None and start != place and ("parsing a block" in context or "parsing a flow" in context):
        related = (Related("the section starts here", builder.source, *start, lines[start[0] - 1]),)
    snippet = lines[place[0] - 1]
    return Problem(message, builder.source, place[0], place[1], None, hint, snippet, related)


def _mark(mark: Any, end: Mark) -> Mark | None:
    """A parser's mark as line and column, not beyond the end."""
    return None if mark is None else min((mark.line + 1, mark.column + 1), end)


def _end_of_text(lines: list[str]) -> Mark:
    """Just behind the last line that is not blank."""
    number = len(lines)
    while number > 1 and not lines[number - 1].strip():
        number -= 1
    return number, len(lines[number - 1]) + 1
