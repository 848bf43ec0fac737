"""What of a module is not worth a mutant: text for readers and type checkers, and checks that hold in correct code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

Place: TypeAlias = tuple[int, int]

CACHES = {"cache", "lru_cache"}
"""Decorators that change how long an answer takes and not which."""
UNCOUNTED = (
    "annotations and type aliases",
    "blocks for type checkers, and __all__",
    "assert statements and zip's strict: what holds in correct code can't be seen to be missing",
    "the keywords of decorators and classes (frozen, slots): they stop no caller that is there",
    "caches: they change how long an answer takes and not which",
    "what Python does not compile, or warns of",
)
"""The rules in words. Docstrings and other text need none: no operator reaches into a string."""


class Span(NamedTuple):
    """A piece of source, from `start` up to `end`: lines from 1, columns from 0 in characters."""

    start: Place
    end: Place

    def holds(self, place: Place) -> bool:
        """Whether a place lies within."""
        return self.start <= place < self.end


class Source:
    """A module as text, with what the rules and the choice of tests ask about its places."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.lines = text.splitlines()
        self._tree = ast.parse(text)
        self._nodes = list(ast.walk(self._tree))
        self._skipped = [self._span(node) for node in _uncounted(self._nodes)]
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        self._scopes = [(self._span(node), node.name) for node in self._nodes if isinstance(node, kinds)]
        self._statements = [self._span(node) for node in self._nodes if isinstance(node, ast.stmt)]

    def _span(self, node: ast.AST) -> Span:
        line, column = node.lineno, node.col_offset  # type: ignore[attr-defined]
        end, stop = node.end_lineno, node.end_col_offset  # type: ignore[attr-defined]
        return Span((line, self._characters(line, column)), (end, self._characters(end, stop)))

    def _characters(self, line: int, column: int) -> int:
        """ast counts columns in bytes of UTF-8."""
        return len(self.lines[line - 1].encode()[:column].decode())

    def is_counted(self, place: Place) -> bool:
        """Whether a mutant at this place would say something about the tests."""
        return not any(span.holds(place) for span in self._skipped)

    def function(self, place: Place) -> str:
        """The dotted name of the function or class that a place lies in, or `<module>`."""
        return ".".join(name for span, name in sorted(self._scopes) if span.holds(place)) or "<module>"

    def statement(self, place: Place) -> range:
        """The lines of the innermost statement at a place; of one with a body, those up to the place."""
        inner = max((span for span in self._statements if span.holds(place)), default=Span(place, place))
        nested = any(span != inner and inner.holds(span.start) for span in self._statements)
        return range(inner.start[0], (place[0] if nested else inner.end[0]) + 1)


def _uncounted(nodes: list[ast.AST]) -> Iterator[ast.AST]:
    for node in nodes:
        match node:
            case ast.arg(annotation=ast.expr() as note):
                yield note
            case ast.AnnAssign(annotation=ast.Name(id="TypeAlias")):
                yield node
            case ast.AnnAssign(annotation=note):
                yield note
            case ast.If(test=ast.Name(id="TYPE_CHECKING")) | ast.Assert():
                yield node
            case ast.Assign(targets=[ast.Name(id="__all__")]):
                yield node
            case ast.Call(func=ast.Name(id="zip")):
                yield from node.keywords
            case ast.FunctionDef() | ast.ClassDef():
                yield from _of_definition(node)
            case _:
                pass


def _of_definition(node: ast.FunctionDef | ast.ClassDef) -> Iterator[ast.AST]:
    if isinstance(node, ast.ClassDef):
        yield from node.keywords
    elif node.returns is not None:
        yield node.returns
    for each in node.decorator_list:
        if isinstance(each, ast.Call):
            yield from each.keywords


def is_cache(line: str) -> bool:
    """Whether a line is a decorator that only caches."""
    word = line.strip().removeprefix("@").partition("(")[0]
    return word.rpartition(".")[2] in CACHES
