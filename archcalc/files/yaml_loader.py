"""Strict YAML with a position for everything: the text of a file in, plain data and a map of places out.

What is read is a small, unsurprising part of YAML: mappings with text keys, lists, and the scalars of the
YAML 1.2 core schema (https://yaml.org/spec/1.2.2/#103-core-schema): `no`, `on` and `9:30` are text, `010` is
ten, `1e9` is a float. Refused, each with line and column: doubled keys, anchors, aliases, merge keys, tags, a
second document, more than 64 levels, unprintable characters. The tree is built from the parser's events as
they come, without recursion, so a file of brackets can do no harm.

Its neighbours: `text_file` reads the file, `schema_errors` maps the errors of the schema to places in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from archcalc.errors import InputError, Problem, Related, show_value
from archcalc.files.document import MAX_PROBLEMS, Document, Loc, Spots, cut, place_of, split_lines
from archcalc.files.text_file import MAX_BYTES, decode, read
from archcalc.files.yaml_scalars import core_scalar
from archcalc.files.yaml_syntax import MAX_DEPTH, REPEAT, syntax_problem

if TYPE_CHECKING:
    from yaml.events import AliasEvent, CollectionStartEvent, Event, ScalarEvent

__all__ = ["MAX_BYTES", "MAX_DEPTH", "Document", "Loc", "load", "read"]


def load(text: str | bytes, source: str) -> Document:
    """Parses one YAML document with a mapping at the top. Raises InputError for anything else."""
    import yaml

    text = decode(text, source)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml is ten times as fast
    builder = Builder(text, source)
    try:
        builder.run(loader(text).get_event)
    except yaml.YAMLError as error:
        builder.problems.append(syntax_problem(error, builder))
    except (ValueError, OverflowError) as error:  # the parser's own: code points and versions out of range
        if isinstance(error, InputError):
            raise
        builder.complain("this is not valid YAML", builder.last)
    if builder.problems:
        builder.fail()
    return builder.document()


class _Frame:
    """A mapping or list that is being filled. In a mapping `key` is None while a key is due."""

    __slots__ = ("data", "key", "key_mark", "mark", "spots")

    def __init__(self, data: Any, mark: Any) -> None:
        self.data = data
        self.mark = mark
        self.spots: Spots = {}
        self.key: Any = None
        self.key_mark: Any = None


_REFUSED_KEY = object()
"""Stands for a key that was refused, so that its value is dropped."""


class Builder:
    """Turns parser events into data and spots, gathering problems as it goes."""

    def __init__(self, text: str, source: str) -> None:
        self.text = text
        self.source = source
        self.problems: list[Problem] = []
        self.stack: list[_Frame] = []
        self.root: Any = None
        self.root_spots: Spots | None = None
        self.root_mark: Any = None
        self.last: Any = None
        self.lines: list[str] | None = None

    def run(self, next_event: Callable[[], Event | None]) -> None:
        """Consumes all events. Raises InputError where going on is pointless, and what the parser raises."""
        from yaml import events

        handlers: dict[type[Event], Callable[[Any], None]] = {
            events.ScalarEvent: self.scalar,
            events.MappingStartEvent: self.mapping_start,
            events.SequenceStartEvent: self.list_start,
            events.MappingEndEvent: self.end,
            events.SequenceEndEvent: self.end,
            events.AliasEvent: self.alias,
            events.DocumentStartEvent: self.document_start,
        }
        while (event := next_event()) is not None:
            self.last = event.start_mark
            if (handler := handlers.get(event.__class__)) is not None:
                handler(event)

    def document_start(self, event: Event) -> None:
        if self.root_mark is not None:
            self.stop("a second document starts here", event.start_mark, "keep one document in a file")

    def scalar(self, event: ScalarEvent) -> None:
        value: Any = event.value
        if event.anchor is not None or event.tag is not None:
            self.refuse_decorations(event)
        if event.implicit[0]:  # plain, without quotes
            try:
                value = core_scalar(value)
            except ValueError as error:
                self.complain(str(error), event.start_mark)
        elif not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
            self.complain("an escape stands for half a character (a surrogate)", event.start_mark)
        frame = self.stack[-1] if self.stack else None
        if frame is not None and frame.key is None and frame.data.__class__ is dict:
            self.key(frame, value, event)
        else:
            self.place(value, event.start_mark, None)

    def key(self, frame: _Frame, key: Any, event: ScalarEvent) -> None:
        frame.key, frame.key_mark = _REFUSED_KEY, event.start_mark
        if not isinstance(key, str):
            hint = f'put it in quotes: "{event.value}"' if event.value else "write the key before the colon"
            self.complain(f"a key must be text, not {show_value(key)}", event.start_mark, hint)
        elif key == "<<" and event.implicit[0]:
            self.complain("merge keys (`<<`) are not allowed", event.start_mark, "write the keys out")
        elif key in frame.data:
            first = frame.spots[key][0]
            self.complain(f"duplicate key `{cut(key)}`", event.start_mark, "keep one of the two", first)
        else:
            frame.key = key

    def place(self, value: Any, mark: Any, spots: Spots | None) -> None:
        """Puts a finished value where it belongs."""
        if not self.stack:
            self.root, self.root_mark, self.root_spots = value, mark, spots
            return
        frame = self.stack[-1]
        if frame.data.__class__ is list:
            frame.spots[len(frame.data)] = (mark, mark, spots)
            frame.data.append(value)
        else:
            if frame.key is None:  # a list, mapping or alias where a key is due
                self.complain("a key must be plain text", mark)
                frame.key = _REFUSED_KEY
                return
            if frame.key is not _REFUSED_KEY:
                frame.data[frame.key] = value
                frame.spots[frame.key] = (frame.key_mark, mark, spots)
            frame.key = None

    def mapping_start(self, event: CollectionStartEvent) -> None:
        self.start({}, event)

    def list_start(self, event: CollectionStartEvent) -> None:
        self.start([], event)

    def start(self, data: Any, event: CollectionStartEvent) -> None:
        if event.anchor is not None or event.tag is not None:
            self.refuse_decorations(event)
        if len(self.stack) >= MAX_DEPTH:
            self.stop(f"more than {MAX_DEPTH} levels of nesting", event.start_mark)
        self.stack.append(_Frame(data, event.start_mark))

    def end(self, event: Event) -> None:
        frame = self.stack.pop()
        self.place(frame.data, frame.mark, frame.spots)

    def alias(self, event: AliasEvent) -> None:
        self.complain(f"aliases (`*{cut(event.anchor or '')}`) are not allowed", event.start_mark, REPEAT)
        if self.stack and self.stack[-1].key is None and self.stack[-1].data.__class__ is dict:
            self.stack[-1].key = _REFUSED_KEY
        else:
            self.place(None, event.start_mark, None)

    def refuse_decorations(self, event: ScalarEvent | CollectionStartEvent) -> None:
        if event.anchor is not None:
            self.complain(f"anchors (`&{cut(event.anchor)}`) are not allowed", event.start_mark, REPEAT)
        if event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!", 1)
            hint = "write the plain value; quotes make text, no quotes a number"
            self.complain(f"tags (`{cut(tag)}`) are not allowed", event.start_mark, hint)

    def line(self, number: int) -> str:
        if self.lines is None:
            self.lines = split_lines(self.text)
        return self.lines[number] if number < len(self.lines) else ""

    def complain(self, message: str, mark: Any, hint: str | None = None, first: Any = None) -> None:
        """Notes a problem; at the fiftieth, gives up."""
        related: tuple[Related, ...] = ()
        if first is not None:
            place = Related("first given here", self.source, first.line + 1, first.column + 1, self.line(first.line))
            related = (place,)
        line, column = (mark.line, mark.column) if mark is not None else (0, 0)
        snippet = self.line(line)
        self.problems.append(Problem(message, self.source, line + 1, column + 1, None, hint, snippet, related))
        if len(self.problems) >= MAX_PROBLEMS:
            self.fail()

    def stop(self, message: str, mark: Any, hint: str | None = None) -> NoReturn:
        self.complain(message, mark, hint)
        self.fail()

    def fail(self) -> NoReturn:
        raise InputError.from_problems(sorted(self.problems, key=place_of))

    def document(self) -> Document:
        """The finished document. Raises InputError if its top is not a mapping."""
        if self.root is None:
            raise InputError("the file is empty", source=self.source, hint="it should hold `key: value` lines")
        if not isinstance(self.root, dict):
            found = show_value(self.root)
            self.stop(f"the file must hold `key: value` lines, not {found}", self.root_mark)
        start = (self.root_mark.line + 1, self.root_mark.column + 1)
        return Document(self.root, self.text, self.source, self.root_spots or {}, start)
