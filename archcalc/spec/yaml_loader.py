"""Strict YAML with a position for everything: the text of a file in, plain data and a map of places out.

What is read is a small, unsurprising part of YAML: mappings with text keys, lists, and the scalars of the
YAML 1.2 core schema (https://yaml.org/spec/1.2.2/#103-core-schema): `no`, `on` and `9:30` are text, `010` is
ten, `1e9` is a float. Refused, each with line and column: doubled keys, anchors, aliases, merge keys, tags, a
second document, more than 64 levels, unprintable characters. The tree is built from the parser's events as
they come, without recursion, so a file of brackets can do no harm.

Three parts: `read` guards the file, `load` parses it into a `Document`, `problems_from_pydantic` maps the
errors of the schema to places in it (pydantic itself is not imported here).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from archcalc.errors import (
    FieldError,
    InputError,
    Problem,
    Related,
    SpecError,
    did_you_mean,
    near_miss,
    show_value,
)

if TYPE_CHECKING:
    from yaml.error import YAMLError
    from yaml.events import AliasEvent, CollectionStartEvent, Event, ScalarEvent

__all__ = ["MAX_BYTES", "MAX_DEPTH", "Document", "Loc", "load", "problems_from_pydantic", "read"]

Loc: TypeAlias = tuple[str | int, ...]
"""A path into a document: keys and list indices."""

MAX_BYTES = 1 << 20
MAX_DEPTH = 64
MAX_PROBLEMS = 50
"""Problems gathered from one file at most."""
MAX_NUMBER = 100
"""Characters of a number at most."""

Mark: TypeAlias = tuple[int, int]
"""Line and column, both from 1."""
Spots: TypeAlias = "dict[str | int, tuple[Any, Any, Spots | None]]"
"""For each key or index: the parser's marks of the key and of the value, and the spots inside the value."""


# ------------------------------------------------------------------------------------------------ the file


def read(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a text file, at most 1 MiB of UTF-8. Raises InputError that says what is in the way."""
    source = os.fsdecode(path)
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise InputError("no such file", source=source, value=source, hint="check the path") from None
    except IsADirectoryError:
        raise InputError(
            "this is a directory", source=source, value=source, hint="name a YAML file inside it"
        ) from None
    except PermissionError:
        raise InputError(
            "no permission to read this file", source=source, value=source, hint="check its access rights"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or "not a usable path"
        raise InputError(
            f"can't read this file: {reason}", source=source, value=source, hint="check the path"
        ) from None
    _decode(raw, source)
    return raw


def _decode(text: str | bytes, source: str) -> str:
    """The text, without a byte order mark, or InputError."""
    if len(text) > MAX_BYTES:
        raise InputError(
            "the file is larger than 1 MiB",
            source=source,
            hint="a spec takes a few KiB; is this the right file?",
        )
    if isinstance(text, bytes):
        raw = text
        if b"\0" in raw or raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise InputError(
                "this is a binary file, not YAML text",
                source=source,
                hint="if it is UTF-16 text, save it as UTF-8",
            )
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            before = raw[: error.start].decode("utf-8")
            raise InputError(
                f"byte 0x{raw[error.start]:02x} is not UTF-8 text",
                source=source,
                line=before.count("\n") + 1,
                column=len(before) - (before.rfind("\n") + 1) + 1,
                hint="save the file as UTF-8",
            ) from None
    text = text.removeprefix("\ufeff")
    if not text.replace("\n", "").replace("\t", "").replace("\r", "").isprintable():
        _refuse_unprintable(text, source)
    return text


def _refuse_unprintable(text: str, source: str) -> None:
    """Raises InputError at the first control character, odd line break or surrogate; the rest may pass."""
    import re

    found = re.search("[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]", text)
    if found is None:
        return
    lines = _split_lines(text[: found.start()])
    raise InputError(
        f"the character U+{ord(found[0]):04X} is not allowed in a file",
        source=source,
        line=len(lines),
        column=len(lines[-1]) + 1,
        snippet=_split_lines(text)[len(lines) - 1],
        hint='remove it, or write it as an escape in double quotes, such as "\\u2028"',
    )


def _split_lines(text: str) -> list[str]:
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


# -------------------------------------------------------------------------------------------- the document


class Document:
    """What a YAML file says, and where it says it."""

    __slots__ = ("_lines", "_spots", "_start", "data", "source", "text")

    def __init__(self, data: dict[str, Any], text: str, source: str, spots: Spots, start: Mark) -> None:
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
            self._lines = _split_lines(self.text)
        return self._lines[number - 1] if 1 <= number <= len(self._lines) else None

    def resolve(self, loc: Loc) -> Loc:
        """The part of a path that exists: union tags, missing keys and the like drop out."""
        path: list[str | int] = []
        spots: Spots | None = self._spots
        for part in loc:
            if spots and part in spots:
                path.append(part)
                spots = spots[part][2]
        return tuple(path)

    def position(self, loc: Loc, *, key: bool = False) -> Mark:
        """Line and column, from 1, of the value at a path, or of its key (of a list item: the item).

        Elements of the path that don't exist are skipped, so that the nearest existing ancestor answers.
        """
        spots: Spots | None = self._spots
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
            at = self.position(other)
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


def load(text: str | bytes, source: str) -> Document:
    """Parses one YAML document with a mapping at the top. Raises InputError for anything else."""
    import yaml

    text = _decode(text, source)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml is ten times as fast
    builder = _Builder(text, source)
    try:
        builder.run(loader(text).get_event)
    except yaml.YAMLError as error:
        builder.problems.append(_syntax_problem(error, builder))
    except (ValueError, OverflowError) as error:  # the parser's own: code points and versions out of range
        if isinstance(error, InputError):
            raise
        builder.complain("this is not valid YAML", builder.last)
    if builder.problems:
        builder.fail()
    return builder.document()


# ------------------------------------------------------------------------------------------------- the tree


class _Frame:
    """A mapping or list that is being filled. In a mapping `key` is None while a key is due."""

    __slots__ = ("data", "key", "key_mark", "mark", "spots")

    def __init__(self, data: Any, mark: Any) -> None:
        self.data = data
        self.mark = mark
        self.spots: Spots = {}
        self.key: Any = None
        self.key_mark: Any = None


_REPEAT = "write the value out where it is needed"
_REFUSED_KEY = object()
"""Stands for a key that was refused, so that its value is dropped."""


class _Builder:
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
                value = _core_scalar(value)
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
            self.complain(f"duplicate key `{_cut(key)}`", event.start_mark, "keep one of the two", first)
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
        self.complain(f"aliases (`*{_cut(event.anchor or '')}`) are not allowed", event.start_mark, _REPEAT)
        if self.stack and self.stack[-1].key is None and self.stack[-1].data.__class__ is dict:
            self.stack[-1].key = _REFUSED_KEY
        else:
            self.place(None, event.start_mark, None)

    def refuse_decorations(self, event: ScalarEvent | CollectionStartEvent) -> None:
        if event.anchor is not None:
            self.complain(f"anchors (`&{_cut(event.anchor)}`) are not allowed", event.start_mark, _REPEAT)
        if event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!", 1)
            hint = "write the plain value; quotes make text, no quotes a number"
            self.complain(f"tags (`{_cut(tag)}`) are not allowed", event.start_mark, hint)

    def line(self, number: int) -> str:
        if self.lines is None:
            self.lines = _split_lines(self.text)
        return self.lines[number] if number < len(self.lines) else ""

    def complain(self, message: str, mark: Any, hint: str | None = None, first: Any = None) -> None:
        """Notes a problem; at the fiftieth, gives up."""
        related: tuple[Related, ...] = ()
        if first is not None:
            place = Related(
                "first given here", self.source, first.line + 1, first.column + 1, self.line(first.line)
            )
            related = (place,)
        line, column = (mark.line, mark.column) if mark is not None else (0, 0)
        snippet = self.line(line)
        self.problems.append(
            Problem(message, self.source, line + 1, column + 1, None, hint, snippet, related)
        )
        if len(self.problems) >= MAX_PROBLEMS:
            self.fail()

    def stop(self, message: str, mark: Any, hint: str | None = None) -> NoReturn:
        self.complain(message, mark, hint)
        self.fail()

    def fail(self) -> NoReturn:
        raise InputError.from_problems(sorted(self.problems, key=_place))

    def document(self) -> Document:
        """The finished document. Raises InputError if its top is not a mapping."""
        if self.root is None:
            raise InputError(
                "the file is empty", source=self.source, hint="it should hold `key: value` lines"
            )
        if not isinstance(self.root, dict):
            found = show_value(self.root)
            self.stop(f"the file must hold `key: value` lines, not {found}", self.root_mark)
        start = (self.root_mark.line + 1, self.root_mark.column + 1)
        return Document(self.root, self.text, self.source, self.root_spots or {}, start)


_WORDS: dict[str, Any] = {"~": None}
_WORDS |= dict.fromkeys(("null", "Null", "NULL"), None)
_WORDS |= dict.fromkeys(("true", "True", "TRUE"), True)
_WORDS |= dict.fromkeys(("false", "False", "FALSE"), False)
_WORDS |= {sign + word: float(sign + "inf") for sign in ("", "+", "-") for word in (".inf", ".Inf", ".INF")}
_WORDS |= dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan"))
_DECIMAL = frozenset("0123456789+-.eE")
_HEX = frozenset("0123456789abcdefABCDEF")
_OCTAL = frozenset("01234567")


def _core_scalar(text: str) -> Any:
    """The value of an unquoted scalar in the YAML 1.2 core schema. Raises ValueError for absurd numbers."""
    if not text:
        return None
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in "0123456789+-." or not text.isascii():
        return text
    digits = text[1:] if text[0] in "+-" else text
    is_float = not digits.isdigit() and _DECIMAL.issuperset(text)
    is_based = (
        text[:2] in ("0x", "0o")
        and len(text) > 2
        and (_HEX if text[1] == "x" else _OCTAL).issuperset(text[2:])
    )
    if not (is_float or is_based or digits.isdigit()):
        return text
    if len(text) > MAX_NUMBER:
        raise ValueError(f"a number of more than {MAX_NUMBER} characters")
    if not is_float:
        return int(text, 0) if is_based else int(text)
    try:
        value = float(text)
    except ValueError:
        return text  # such as 1.2.3 or a date
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text} is too large a number")
    return value


def _cut(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def _place(problem: Problem) -> Mark:
    return problem.line or 0, problem.column or 0


# ------------------------------------------------------------------------------------------ broken syntax

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
    ("alias", "aliases (`*name`) are not allowed", _REPEAT),
    ("anchor", "anchors (`&name`) are not allowed", _REPEAT),
    ("tag", "tags (`!name`) are not allowed", _QUOTE),
)
"""What the parser's complaint contains, what we say instead, and the hint. The first that fits is used."""


def _syntax_problem(error: YAMLError, builder: _Builder) -> Problem:
    """Our own account of a parser error, at the place where a reader would look for it."""
    context = getattr(error, "context", None) or ""
    said = f"{context}: {getattr(error, 'problem', None) or ''}"
    message, hint = next(
        ((message, hint) for part, message, hint in _SYNTAX if part in said), ("this is not valid YAML", None)
    )
    lines = _split_lines(builder.text)
    end = _end_of_text(lines)
    start = _mark(getattr(error, "context_mark", None), end)
    place = _mark(getattr(error, "problem_mark", None), end) or start or end
    related: tuple[Related, ...] = ()
    before, after = lines[place[0] - 1][: place[1] - 1], lines[place[0] - 1][place[1] - 1 :]
    if "quoted text" in message and start is not None:
        place = start
    elif "flow" in said and place == end and builder.stack:
        place = _mark(builder.stack[-1].mark, end) or end
        closing = "]" if builder.stack[-1].data.__class__ is list else "}"
        message, hint = "this bracket is never closed", f"add the missing `{closing}`"
    elif after.startswith("\t"):
        message, hint = "a tab can't be used for indentation", "indent with spaces"
    elif "fit its section" in message and before.strip():
        message, hint = "unexpected text after the value", _QUOTE
    elif (
        start is not None and start != place and ("parsing a block" in context or "parsing a flow" in context)
    ):
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


# ---------------------------------------------------------------------------------------- schema errors

KnownKeys: TypeAlias = Callable[[Loc], Iterable[str]]
"""The keys that a section may have, by the schema's own path to it (union tags included)."""

_TYPES = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "int_parsing": "an integer",
    "int_parsing_size": "an integer",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "tuple_type": "a list",
    "iterable_type": "a list",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "none_required": "null",
}

_BOUNDS = {
    "greater_than": ("must be greater than {}", "gt"),
    "greater_than_equal": ("must be at least {}", "ge"),
    "less_than": ("must be less than {}", "lt"),
    "less_than_equal": ("must be at most {}", "le"),
    "multiple_of": ("must be a multiple of {}", "multiple_of"),
    "finite_number": ("must be a finite number", ""),
    "too_short": ("must have at least {} items", "min_length"),
    "too_long": ("must have at most {} items", "max_length"),
    "string_too_short": ("must have at least {} characters", "min_length"),
    "string_too_long": ("must have at most {} characters", "max_length"),
    "string_pattern_mismatch": ("must match the pattern {}", "pattern"),
}


def problems_from_pydantic(
    errors: Sequence[Mapping[str, Any]], document: Document, known_keys: KnownKeys | None = None
) -> SpecError:
    """One error for all that a schema found, in our own words and in the order of the file.

    `errors` is what pydantic's `ValidationError.errors()` gives. Keys missing from one section are one
    problem. An unknown key that is a near miss of a missing one is one problem too, with the missing key as
    its hint; without such a partner, the `known_keys` of the section that are not yet given are tried.
    """
    ordered = sorted(errors, key=lambda error: document.position(error["loc"], key=True))[:MAX_PROBLEMS]
    missing: dict[Loc, list[str]] = {}
    wrong_types: dict[Loc, list[Mapping[str, Any]]] = {}
    unknown, problems = [], []
    for error in ordered:
        kind, loc = error["type"], error["loc"]
        if kind == "missing":
            missing.setdefault(document.resolve(loc[:-1]), []).append(str(loc[-1]))
        elif kind == "union_tag_not_found":
            problems.append(_no_tag(error, document))
        elif kind == "extra_forbidden":
            unknown.append(error)
        elif kind in _TYPES:
            wrong_types.setdefault(document.resolve(loc), []).append(error)
        else:
            problems.append(_wrong_value(error, document))
    problems += [_unknown_key(error, document, missing, known_keys) for error in unknown]
    problems += [_missing_keys(loc, keys, document) for loc, keys in missing.items() if keys]
    problems += [_wrong_type(loc, group, document) for loc, group in wrong_types.items()]
    return SpecError.from_problems(sorted(problems, key=_place))


def _unknown_key(
    error: Mapping[str, Any], document: Document, missing: dict[Loc, list[str]], known_keys: KnownKeys | None
) -> Problem:
    """An unknown key, with what was probably meant; a missing key that explains it is taken off the list."""
    loc, key = error["loc"], str(error["loc"][-1])
    lost = missing.get(document.resolve(loc[:-1]), [])
    message, meant, hint = f"unknown key `{_cut(key)}`", near_miss(key, lost), None
    if meant is not None:
        lost.remove(meant)
        hint = f"did you mean {meant}?"
    elif known_keys is not None:
        known = sorted(set(known_keys(loc[:-1])))
        given = document.value(loc[:-1])
        hint = did_you_mean(key, (name for name in known if name not in given))
        if hint is None and known and len(listed := ", ".join(known)) <= 200:
            hint = f"known keys: {listed}"
    return document.problem(message, loc, key=True, value=error.get("input"), hint=hint)


def _missing_keys(section: Loc, keys: list[str], document: Document) -> Problem:
    names = ", ".join(f"`{key}`" for key in keys)
    where = f" in `{document.name(section)}`" if section else ""
    return document.problem(f"missing key{'s' if len(keys) > 1 else ''} {names}{where}", section, key=True)


def _no_tag(error: Mapping[str, Any], document: Document) -> Problem:
    """A section without the key that says which kind it is."""
    tag, section = _discriminator(error), document.resolve(error["loc"])
    given = document.value(section)
    slip = near_miss(tag, list(given)[:100]) if isinstance(given, dict) else None
    if slip is None:
        return _missing_keys(section, [tag], document)
    return document.problem(f"unknown key `{slip}`", (*section, slip), key=True, hint=f"did you mean {tag}?")


def _discriminator(error: Mapping[str, Any]) -> str:
    return str(error.get("ctx", {}).get("discriminator", "kind")).strip("'")


def _wrong_type(loc: Loc, group: list[Mapping[str, Any]], document: Document) -> Problem:
    """A value of the wrong type; a plain union reports once for each of its members."""
    value = group[0].get("input")
    wanted = list(dict.fromkeys(_TYPES[error["type"]] for error in group))
    message = f"{_subject(loc)} must be {' or '.join(wanted)}, not {show_value(value)}"
    return document.problem(message, loc, value=value, hint=_type_hint(wanted[0], value))


def _type_hint(wanted: str, value: Any) -> str | None:
    """How the value should have been written, where that can be told."""
    if wanted == "true or false" and isinstance(value, str | int):
        return "write true or false, without quotes"
    if wanted == "text" and isinstance(value, int | float):
        return "put it in quotes"
    if wanted == "a mapping":
        return "write `key: value` lines below it, further to the right"
    if wanted == "an integer" and isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        return f"write {int(value)}"
    if wanted in ("an integer", "a number") and isinstance(value, str) and len(value) <= MAX_NUMBER:
        digits = value.replace("_", "").replace(",", "").replace(" ", "")
        if digits.isascii() and digits.isdigit():
            return f"write {int(digits)}, without quotes"
        if value[:1].isdigit():
            return "write a plain number: all digits, no unit, no quotes"
    return None


def _wrong_value(error: Mapping[str, Any], document: Document) -> Problem:
    """A value of the right type that the schema refuses."""
    kind, loc, value, context = error["type"], error["loc"], error.get("input"), error.get("ctx", {})
    is_key = bool(loc) and loc[-1] == "[key]"
    subject = f"the key `{_cut(str(loc[-2]))}`" if is_key else _subject(document.resolve(loc))
    hint: str | None = None
    if kind in _BOUNDS:
        form, name = _BOUNDS[kind]
        message = f"{subject} {form.format(context.get(name))}".replace(" 1 items", " 1 item")
    elif kind in ("literal_error", "enum", "union_tag_invalid"):
        if kind == "union_tag_invalid":
            subject, value = _discriminator(error), context.get("tag")
            loc = (*document.resolve(loc), subject)
        choices = str(context.get("expected_tags") or context.get("expected", ""))
        listed = choices.replace(" or ", ", ").split(", ")
        message = f"{subject} must be {_any_of(listed)}, not {show_value(value)}"
        if is_key:
            message = f"unknown key `{_cut(str(value))}`"
        hint = (
            did_you_mean(value, [choice.strip("'") for choice in listed]) if isinstance(value, str) else None
        )
    elif isinstance(cause := context.get("error"), FieldError):
        return _disagreement(cause, loc, document)
    elif isinstance(cause, InputError):
        message, hint = f"{subject}: {cause.message}", cause.hint
    else:
        said = str(error.get("msg", "not valid"))
        said = said.removeprefix("Value error, ").removeprefix("Assertion failed, ")
        message = f"{subject}: {said}"
    at_key = is_key or isinstance(value, dict | list)
    return document.problem(message, loc, key=at_key, value=value, hint=hint)


def _disagreement(cause: FieldError, loc: Loc, document: Document) -> Problem:
    """Fields that don't fit each other, each with its place."""
    places = [document.resolve((*loc, *field)) for field in cause.fields] or [document.resolve(loc)]
    related = [(place, f"{_subject(place)} is given here") for place in places[1:] if place != places[0]]
    at_key = isinstance(document.value(places[0]), dict | list)
    return document.problem(str(cause), places[0], key=at_key, hint=cause.hint, related=related)


def _subject(loc: Loc) -> str:
    """What a message calls the value at a path: its key, with the list index if there is one."""
    indices = ""
    for part in reversed(loc):
        if isinstance(part, str):
            return _cut(part) + indices
        indices = f"[{part}]{indices}"
    return "the file"


def _any_of(choices: list[str]) -> str:
    quoted = [f"`{choice.strip(chr(39))}`" for choice in choices]
    return quoted[0] if len(quoted) == 1 else ", ".join(quoted[:-1]) + " or " + quoted[-1]
