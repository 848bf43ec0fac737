"""Where the parts of a plan stand that is a file with fields set on the command line: there, or in an argument."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from archcalc.errors import InputError, Problem, Related
from archcalc.files.document import Document, Loc, Mark
from archcalc.files.yaml_loader import load

_LEAD = "value: "
"""What stands before a value so that it is a file."""


class Setting(NamedTuple):
    """One argument of `--set`: the path of its field, its text, and its value as a document under `value`."""

    path: Loc
    text: str
    document: Document

    @property
    def source(self) -> str:
        """What errors call it."""
        return f"--set {self.text}"

    def column(self, loc: Loc) -> int:
        """The column of its text, from 1, where a path of the plan stands."""
        return _column(self.text, self.document.position(("value", *loc[len(self.path) :]))[1])


def value_of(text: str) -> Document:
    """The value of an argument, under `value`: read as in a file, by the same rules. Raises InputError at the place in
    the argument."""
    source, value = f"--set {text}", text.partition("=")[2]
    for n, char in enumerate(text):
        if char in "\n\r":
            message = "a field that is set stands on one line"
            hint = "write a list as [a, b] and a mapping as {key: value}"
            raise InputError(message, source=source, column=n + 1, value=text, hint=hint)
    try:
        return load(f"{_LEAD}{value}", source)
    except InputError as error:
        raise InputError.from_problems([_moved(problem, text) for problem in error.problems]) from None


def _moved(problem: Problem, text: str) -> Problem:
    """A problem of the little file at its place in the argument."""
    column = None if problem.column is None else _column(text, problem.column)
    related = tuple(
        place._replace(line=None, column=_column(text, place.column or 1), snippet=text) for place in problem.related
    )
    return problem._replace(line=None, column=column, snippet=text, related=related)


def _column(text: str, column: int) -> int:
    """A column of the little file as one of the argument."""
    return max(1, column - len(_LEAD) + text.index("=") + 1)


class Overridden(Document):
    """The merged data of a plan. A problem stands in the argument that set the field, or one of those that it is about;
    the others stand where they do, in the file too."""

    __slots__ = ("_file", "_settings")

    def __init__(self, data: dict[str, Any], file: Document, settings: Sequence[Setting]) -> None:
        super().__init__(data, "", f"--set {', '.join(each.text for each in settings)}", {}, (1, 1))
        self._file = file
        self._settings = settings

    def position(self, loc: Loc, *, key: bool = False) -> Mark:
        """The place in the file; of what is set the argument by its number, behind all lines, and the column in it."""
        setting = self._setting(loc)
        if setting is None:
            return self._file.position(loc, key=key)
        return len(self._file.text) + self._settings.index(setting), setting.column(loc)

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
        """A problem at a path, in the first argument that it is about; without a place where none is."""
        places = list(related)
        at = next((each for each in (loc, *(place for place, _ in places)) if self._setting(each)), None)
        if at is None:
            return Problem(message, self.source, None, None, value, hint)
        setting = self._setting(at)
        assert setting is not None
        others = [(place, text) for place, text in ((loc, "together with this"), *places) if place != at]
        shown = tuple(self._related(place, text) for place, text in others)
        return Problem(message, setting.source, None, setting.column(at), value, hint, setting.text, shown)

    def _related(self, loc: Loc, text: str) -> Related:
        setting = self._setting(loc)
        if setting is not None:
            return Related(text, setting.source, None, setting.column(loc), setting.text)
        line, column = self._file.position(loc)
        return Related(text, self._file.source, line, column, self._file.line(line))

    def _setting(self, loc: Loc) -> Setting | None:
        """The last argument that sets what stands at a path, or else something inside it."""
        above = [each for each in self._settings if each.path == loc[: len(each.path)]]
        inside = [each for each in self._settings if each.path[: len(loc)] == loc] if loc else []
        return next(iter((above or inside)[::-1]), None)
