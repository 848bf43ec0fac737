"""One exception tree for everything a user can be told, and how it is printed.

Exit codes: `CheckFailed` is 1 (a check you asked for did not pass), every other `ArchcalcError` is 2 (could
not answer).
Text that comes from a user's file is printed through `harmless`, so no control sequence reaches a terminal.

The values here are named tuples, not dataclasses: this module is on every start-up path, and a dataclass
takes four times as long to define.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar, NamedTuple, Self

__all__ = [
    "ArchcalcError",
    "AssumedSize",
    "CheckFailed",
    "Exceeded",
    "FieldError",
    "FileWarning",
    "ImplausibleSize",
    "InputError",
    "Problem",
    "Related",
    "RetiredKey",
    "SpecError",
    "did_you_mean",
    "harmless",
    "in_its_case",
    "near_miss",
    "show_value",
]

RENDER_WIDTH = 100
"""Columns of a printed source line, gutter included, before it is cut around the caret."""

RENDER_MOST = 20
"""Problems printed in full; the rest are counted."""


MESSAGE_MOST = 600
"""Characters of a message that are printed; of a longer one its beginning and its end."""


LONGEST_NAME = 200
"""Characters of what can be a slip of a name: two longer ones are compared for seconds."""


class Related(NamedTuple):
    """A second place of a problem, such as where a doubled key stood first. Lines and columns from 1."""

    message: str
    source: str | None = None
    line: int | None = None
    column: int | None = None
    snippet: str | None = None


class Problem(NamedTuple):
    """One thing that is wrong with an input. Lines and columns from 1; `snippet` is the whole source line, or all of an
    argument, which has no lines."""

    message: str
    source: str | None = None
    line: int | None = None
    column: int | None = None
    value: object = None
    hint: str | None = None
    snippet: str | None = None
    related: tuple[Related, ...] = ()

    def __str__(self) -> str:
        return _headline(self.source, self.line, self.column, "", self.message)

    def render(self, width: int = RENDER_WIDTH) -> str:
        """The problem as compilers print it: headline, source line, caret, second places, hint."""
        lines = [_headline(self.source, self.line, self.column, "error: ", self.message)]
        lines += _excerpt(self.snippet, self.line, self.column, width)
        for place in self.related:
            lines.append(_headline(place.source, place.line, place.column, "note: ", place.message))
            lines += _excerpt(place.snippet, place.line, place.column, width)
        if self.hint:
            lines.append(f"hint: {harmless(self.hint)}")
        return "\n".join(lines)


class ArchcalcError(Exception):
    """Base of every error that archcalc raises on purpose; anything else that escapes is a bug of ours."""

    exit_code: ClassVar[int] = 2

    def render(self, width: int = RENDER_WIDTH) -> str:
        """The error as printed on stderr, without a final newline."""
        return f"error: {harmless(str(self))}"


class CheckFailed(ArchcalcError):
    """A check that was asked for did not pass: a claim refuted, a budget exceeded, a report stale."""

    exit_code: ClassVar[int] = 1


class Exceeded(CheckFailed):
    """Limits that were passed: a verdict, and a line for each."""

    def __init__(self, verdict: str, lines: Sequence[str]) -> None:
        super().__init__(f"{verdict}: {'; '.join(lines)}")
        self.verdict, self.lines = verdict, tuple(lines)

    def render(self, width: int = RENDER_WIDTH) -> str:
        """The verdict, and each line below it."""
        return "\n".join([f"error: {harmless(self.verdict)}", *(f"  {harmless(line)}" for line in self.lines)])


class InputError(ArchcalcError, ValueError):
    """Something in a file or on the command line can't be used.

    It is a ValueError too, so that a unit parser may be used inside a pydantic validator and keep its message
    and hint. `problems` holds all that was found, first one first; the other fields are those of the first.
    """

    problems: tuple[Problem, ...]

    def __init__(
        self,
        message: str,
        *,
        source: str | None = None,
        line: int | None = None,
        column: int | None = None,
        value: object = None,
        hint: str | None = None,
        snippet: str | None = None,
        related: Iterable[Related] = (),
    ) -> None:
        super().__init__(message)
        self.problems = (Problem(message, source, line, column, value, hint, snippet, tuple(related)),)

    @classmethod
    def from_problems(cls, problems: Sequence[Problem]) -> Self:
        """One error that reports several problems, in the order given; there must be at least one."""
        error = cls(problems[0].message)
        error.problems = tuple(problems)
        return error

    def at(
        self,
        *,
        source: str | None = None,
        line: int | None = None,
        column: int | None = None,
        snippet: str | None = None,
    ) -> Self:
        """The same error at a place: what a caller adds to the error of a parser that saw only the text."""
        placed = [
            problem._replace(
                source=problem.source if source is None else source,
                line=problem.line if line is None else line,
                column=problem.column if column is None else column,
                snippet=problem.snippet if snippet is None else snippet,
            )
            for problem in self.problems
        ]
        return self.from_problems(placed)

    @property
    def message(self) -> str:
        """What is wrong, without the place."""
        return self.problems[0].message

    @property
    def source(self) -> str | None:
        """File name, or the option that the value came from."""
        return self.problems[0].source

    @property
    def line(self) -> int | None:
        """Line, from 1."""
        return self.problems[0].line

    @property
    def column(self) -> int | None:
        """Column in characters, from 1."""
        return self.problems[0].column

    @property
    def value(self) -> object:
        """The offending value as it was read, if there is one."""
        return self.problems[0].value

    @property
    def hint(self) -> str | None:
        """What to do about it."""
        return self.problems[0].hint

    @property
    def snippet(self) -> str | None:
        """The source line."""
        return self.problems[0].snippet

    def __str__(self) -> str:
        return str(self.problems[0])

    def render(self, width: int = RENDER_WIDTH) -> str:
        """All problems, a blank line between them."""
        blocks = [problem.render(width) for problem in self.problems[:RENDER_MOST]]
        more = len(self.problems) - RENDER_MOST
        if more > 0:
            blocks.append(f"and {more} more error{'s' if more > 1 else ''}")
        return "\n\n".join(blocks)


class SpecError(InputError):
    """A file that can be read but says something invalid. `validate` exits 1 on it, every other command 2."""


class FileWarning(UserWarning):
    """Something about a file that is read all the same; the text says where, and what."""


class ImplausibleSize(FileWarning):
    """A size that is past any that a model has."""


class AssumedSize(FileWarning):
    """Sizes that a config leaves out, and its public class supplies."""


class RetiredKey(FileWarning):
    """A file has a key that is no longer read; the text says where, and which."""


class FieldError(ValueError):
    """Raised by a section's own validator when fields disagree; the loader makes a positioned problem of it.

    `fields` are paths relative to the section that raises: a key, or a tuple of keys and list indices. The
    first is where the problem is reported, the others are named as second places.
    """

    def __init__(self, message: str, *fields: str | tuple[str | int, ...], hint: str | None = None) -> None:
        super().__init__(message)
        self.fields = tuple((field,) if isinstance(field, str) else field for field in fields)
        self.hint = hint


def harmless(text: str) -> str:
    """The text with every character that doesn't print as itself (control, bidi, surrogate) as an escape."""
    if text.isprintable():
        return text
    return "".join(_shown(char) for char in text)


def show_value(value: object, limit: int = 40) -> str:
    """A value as it would stand in a YAML file, on one line and cut to about `limit` characters."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        head = value if len(value) <= limit else value[: limit - 3] + "..."
        return '"' + harmless(head).replace('"', '\\"') + '"'
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return ".nan" if value != value else ".inf" if value > 0 else "-.inf"
    if isinstance(value, int) and value.bit_length() > 1000:
        return "a huge integer"
    text = harmless(str(value))
    return text if len(text) <= limit else text[: limit - 3] + "..."


def near_miss(name: str, choices: Iterable[str]) -> str | None:
    """The choice that `name` is most likely a slip of, or None; never the name itself. Case and -/_ don't count as
    differences. Digits do, and another letter in a short word does: fp4 is no slip of fp8, nor mha of mla."""
    if len(name) > LONGEST_NAME:
        return None
    by_folded = {_folded(choice): choice for choice in choices if len(choice) <= LONGEST_NAME}
    folded = _folded(name)
    if folded in by_folded:
        return None if by_folded[folded] == name else by_folded[folded]
    from difflib import get_close_matches

    close = get_close_matches(folded, [choice for choice in by_folded if _is_slip(folded, choice)], n=1, cutoff=0.65)
    return by_folded[close[0]] if close else None


def did_you_mean(name: str, choices: Iterable[str]) -> str | None:
    """The near miss as a hint, or None."""
    choice = near_miss(name, choices)
    return None if choice is None else f"did you mean {choice}?"


def in_its_case(name: str, choices: Iterable[str]) -> str:
    """The choice that `name` is, whatever its case; the name as it is where it is none of them."""
    known = list(choices)
    if name in known:
        return name
    return next((choice for choice in known if choice.lower() == name.lower()), name)


def _folded(name: str) -> str:
    return name.lower().replace("-", "_")


def _is_slip(name: str, choice: str) -> bool:
    """Whether two folded names may stand for the same word: nothing is changed that tells words of their kind apart."""
    if any(name[:i] + name[i : i + 2][::-1] + name[i + 2 :] == choice for i in range(len(choice) - 1)):
        return True
    if [char for char in name if char.isdigit()] != [char for char in choice if char.isdigit()]:
        return False
    shorter, longer = sorted(("".join(filter(str.isalpha, each)) for each in (name, choice)), key=len)
    if len(shorter) > 3 or set(shorter) == set(longer):
        return True
    return len(longer) > 3 and any(longer[:i] + longer[i + 1 :] == shorter for i in range(len(longer)))


def _headline(source: str | None, line: int | None, column: int | None, severity: str, message: str) -> str:
    place = ":".join(harmless(str(part)) for part in (source, line, column) if part is not None)
    if len(message) > MESSAGE_MOST:  # it quotes a key that is no name
        message = f"{message[: MESSAGE_MOST * 2 // 3]}...{message[-MESSAGE_MOST // 3 :]}"
    text = severity + harmless(message)
    return f"{place}: {text}" if place else text


def _excerpt(snippet: str | None, line: int | None, column: int | None, width: int) -> list[str]:
    """The source line and the line with the caret, or nothing."""
    if snippet is None or (line is None and column is None):
        return []
    gutter = f"  {line} | " if line is not None else "  | "
    if column is None:
        text, _ = _cut(snippet, 0, width - len(gutter))
        return [(gutter + text).rstrip()]
    text, caret = _cut(snippet, column - 1, width - len(gutter))
    return [(gutter + text).rstrip(), " " * (len(gutter) - 2) + "| " + " " * caret + "^"]


def _cut(snippet: str, at: int, room: int) -> tuple[str, int]:
    """The part of a line around character `at`, at most `room` columns, and the column of `at` in it."""
    room = max(room, 24)
    at = min(max(at, 0), len(snippet))
    first, last = max(0, at - room), min(len(snippet), at + room)
    cells = [" " if char == "\t" else _shown(char) for char in snippet[first:last]]
    widths = [_columns(cell) for cell in cells]
    here, start, end = at - first, 0, len(cells)
    before, total = sum(widths[:here]), sum(widths)
    if len(cells) == len(snippet) and max(total, before + 1) <= room:  # a caret behind the end takes a column too
        return "".join(cells), before
    room -= 6  # for an ellipsis on each side
    while before > room * 2 // 3 and total > room:
        before, total, start = before - widths[start], total - widths[start], start + 1
    while total > room and end > here + 1:
        end -= 1
        total -= widths[end]
    left = "..." if first or start else ""
    right = "..." if last < len(snippet) or end < len(cells) else ""
    return left + "".join(cells[start:end]) + right, len(left) + before


def _shown(char: str) -> str:
    return char if char.isprintable() else char.encode("unicode_escape").decode("ascii")


def _columns(cell: str) -> int:
    """Terminal columns that a printable text takes."""
    if cell.isascii():
        return len(cell)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1 for char in cell)
