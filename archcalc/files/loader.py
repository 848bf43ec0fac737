"""Find, read and validate a spec: a path, or the name of a bundled one."""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from archcalc.errors import ImplausibleSize, InputError, RetiredKey, SpecError, in_its_case, show_value
from archcalc.files.bundled import bundled_dir, bundled_names
from archcalc.files.identity import FOLDERS, identity
from archcalc.files.model import Spec
from archcalc.files.yaml_loader import MAX_BYTES, Document, Loc, load, read
from archcalc.section import PLAUSIBLE

__all__ = [
    "KINDS",
    "NOUNS",
    "bundled_dir",
    "bundled_names",
    "find",
    "is_path",
    "load_located",
    "load_spec",
    "parse",
    "text_of",
    "validate",
]

Model = TypeVar("Model", bound=BaseModel)

KINDS = (*FOLDERS, "books", "budgets")
"""What a file of ours can say that it is."""

NOUNS = {"": "spec", "plans": "plan", "hardware": "GPU", "engines": "engine", "stacks": "stack"}
"""What people call a bundled file, by the folder that it stands in."""

KEPT_HINTS = {
    "plans": "if the file is still there, name it with --plan; else save the report again",
    "hardware": "if the file is still there, name it with --gpu; else save the report again",
}
"""What may help where a saved report names a file that it does not hold."""

_ON_THE_HUB = r"(?i)(https?://(?:huggingface\.co|hf\.co)/)?([a-z0-9][\w.-]*/[a-z0-9][\w.-]*)(/.*)?"
"""What somebody may write who means a model of the Hugging Face hub."""


def bundled_file(name: str, kind: str = "") -> str:
    """The path of a bundled file, which no file of the working directory hides."""
    return str(bundled_dir() / kind / f"{name}.yaml")


def is_path(argument: str) -> bool:
    """Whether an argument can be no bundled name: it looks like a path, or a file of that name is there."""
    looks = argument.endswith((".yaml", ".yml")) or "/" in argument or os.sep in argument
    return looks or os.path.isfile(argument)


def find(argument: str, kind: str = "") -> Path:
    """The file that an argument names; a folder of a bundled name does not hide it. Bundled names are found without
    regard to case, where nothing of the name as it is written lies there.

    Raises:
        InputError: no such file and no such name; the near miss is the hint.
    """
    if is_path(argument):
        if not os.path.lexists(argument):
            _refuse_missing(argument, kind)
        return Path(argument)
    names = bundled_names(kind)
    if argument in names:
        return Path(bundled_file(argument, kind))
    if argument and os.path.exists(argument):  # a folder says so when it is read; a pipe can be read
        return Path(argument)
    name = in_its_case(argument, names)
    if name in names:
        return Path(bundled_file(name, kind))
    from archcalc.files.hints import name_hint

    shown = show_value(argument, limit=80)
    message = f"no file and no bundled {NOUNS[kind]} is named {shown}"
    raise InputError(message, value=argument, hint=name_hint(argument, kind, "a path"))


def _refuse_missing(argument: str, kind: str) -> None:
    """Raises InputError for a path where nothing is, if it can be told what was meant: the file with its ending, a
    bundled file, or a model of the hub by its address, or as ORG/NAME where neither a file nor a folder ORG is."""
    name = argument.removesuffix(".yaml")
    if os.path.isfile(f"{argument}.yaml"):
        raise InputError("no such file", source=argument, value=argument, hint=f"did you mean {argument}.yaml?")
    if name != argument and name.lower() in bundled_names(kind):
        hint = f"did you mean {name.lower()}, which is bundled?"
        raise InputError("no such file", source=argument, value=argument, hint=hint)
    found = re.fullmatch(_ON_THE_HUB, argument, re.ASCII)
    if kind or found is None or argument.endswith((".yaml", ".yml", ".json")):
        return
    address, model, rest = found.groups()
    if address or not (rest or os.path.isdir(os.path.dirname(argument))):
        from archcalc.files.hints import hub_hint

        raise InputError("no such file", source=argument, value=argument, hint=hub_hint(model))


def load_spec(argument: str) -> Spec:
    """A validated spec from a path, a bundled name, or `-` for stdin.

    Raises:
        InputError: a file that can't be read or is no YAML of ours.
        SpecError: a readable file that is no valid spec.
    """
    return load_located(argument)[0]


def load_located(argument: str) -> tuple[Spec, Document]:
    """A validated spec, and the document that knows where each part of it stands. Raises as `load_spec`."""
    document = load(*text_of(argument))
    return validate(document.data, document, Spec), document


def text_of(argument: str, kind: str = "") -> tuple[bytes, str]:
    """The text of a file, a bundled one or a spec on stdin, and what it is called. Raises InputError."""
    kept = _KEPT.get()
    if kept is not None:
        return _kept_text(kept, argument, kind)
    if argument == "-" and kind == "":
        return sys.stdin.buffer.read(MAX_BYTES + 1), "<stdin>"
    path = find(argument, kind)
    return read(path), str(path)


# -- files that a saved report holds ----------------------------------------------------------------------------------

Kept = Mapping[tuple[str, str], bytes]
"""Texts of files by folder of the bundled ones (`plans`, ...; none for specs) and name."""

_KEPT: ContextVar[Kept | None] = ContextVar("kept", default=None)


@contextmanager
def only_kept(files: Kept) -> Iterator[None]:
    """Inside it, what names a file names one of these, or a bundled one where there is none of that name; no other file
    is read. For what comes from anybody, such as the inputs of a saved report."""
    token = _KEPT.set(files)
    try:
        yield
    finally:
        _KEPT.reset(token)


def kept_alone() -> bool:
    """Whether this runs inside `only_kept`."""
    return _KEPT.get() is not None


def is_bundled(argument: str, kind: str = "") -> bool:
    """Whether an argument names a bundled file, however it is found. Raises InputError where it names none at all."""
    kept = _KEPT.get()
    if kept is not None:
        return (kind, argument) not in kept
    return os.path.dirname(os.path.realpath(find(argument, kind))) == os.path.realpath(bundled_dir() / kind)


def _kept_text(kept: Kept, argument: str, kind: str) -> tuple[bytes, str]:
    shown, noun = show_value(argument, limit=80), NOUNS[kind]
    if (kind, argument) in kept:
        return kept[kind, argument], f"the saved report's {noun} {shown}"
    if argument not in bundled_names(kind):
        message = f"the saved report names a {noun} that is neither bundled nor kept in it: {shown}"
        raise InputError(message, value=argument, hint=KEPT_HINTS.get(kind, "save the report again"))
    path = bundled_file(argument, kind)
    return read(Path(path)), path


def parse(text: bytes | str, source: str, model: type[Model]) -> Model:
    """Validate the text of a file as a `model`. Raises InputError or SpecError, each with line and column."""
    document = load(text, source)
    return validate(document.data, document, model)


def validate(data: Any, document: Document, model: type[Model]) -> Model:
    """Validate data that came from a document, or was changed after. What a section has retired is left out, with a
    RetiredKey warning; of a spec's sizes past PLAUSIBLE an ImplausibleSize warning tells. Raises SpecError with
    positions."""
    _check_kind(data, document, model)
    try:
        valid = model.model_validate(data)
        if model is Spec:
            _tell_implausible(data, document)
        return valid
    except ValidationError as error:
        from archcalc.files.schema_errors import problems_from_pydantic

        problems = error.errors(include_url=False)
    if retired := [problem["loc"] for problem in problems if _is_retired(problem, model)]:
        for loc in sorted(retired, key=lambda loc: document.position(loc, key=True)):
            told = document.problem(f"`{loc[-1]}` is no longer read; delete it", loc, key=True)
            warnings.warn(str(told), RetiredKey, stacklevel=2)
            data = _without(data, document.resolve(loc))
        return validate(data, document, model)
    found = problems_from_pydantic(problems, document, lambda loc: _known_keys(model, loc))
    raise SpecError.from_problems(found.problems)


def _tell_implausible(data: Mapping[str, Any], document: Document) -> None:
    for loc in _past(data, ()):
        message = f"{document.name(loc)} {document.value(loc):,} is past any that a model has: is it a slip?"
        warnings.warn(str(document.problem(message, loc)), ImplausibleSize, stacklevel=3)


def _past(node: Any, loc: Loc) -> Iterator[Loc]:
    """Where integers past PLAUSIBLE stand."""
    inner: Iterable[tuple[str | int, Any]] = node.items() if node.__class__ is dict else enumerate(node)
    for key, value in inner:
        if value.__class__ is dict or value.__class__ is list:
            yield from _past(value, (*loc, key))
        elif value.__class__ is int and value > PLAUSIBLE:
            yield (*loc, key)


def _is_retired(problem: Any, model: type[BaseModel]) -> bool:
    """Whether an error is about a key that its section has retired."""
    *section, key = problem["loc"] or ("",)
    sections = _sections(model, tuple(section)) if problem["type"] == "extra_forbidden" else ()
    return any(key in getattr(one, "retired", ()) for one in sections)


def _without(data: Any, loc: Loc) -> Any:
    """The data without the key at a path."""
    first, *rest = loc
    if isinstance(data, list):
        return [_without(item, tuple(rest)) if i == first else item for i, item in enumerate(data)]
    if rest:
        return {**data, first: _without(data[first], tuple(rest))}
    return {key: value for key, value in data.items() if key != first}


def _check_kind(data: Any, document: Document, model: type[BaseModel]) -> None:
    """A file of another kind is one problem, not one for each of its keys."""
    field = model.model_fields.get("kind")
    wanted, given = get_args(field.annotation) if field else (), data.get("kind")
    if not wanted or given in wanted:
        return
    found = identity(data, document.source)
    hint = None if found is None else found.hint
    if given in KINDS:
        message = f"this file is of kind {given}; one of kind {wanted[0]} is wanted here"
        raise SpecError.from_problems([document.problem(message, ("kind",), value=given, hint=hint)])
    if found is not None:
        message = f"this is {found.what}; a file of kind {wanted[0]} is wanted here"
        raise SpecError.from_problems([document.problem(message, hint=hint)])


# -- which keys a section may have ------------------------------------------------------------------------------------


def _known_keys(model: type[BaseModel], loc: Loc) -> set[str]:
    """The keys of the section at a path, union tags included in the path."""
    return {key for one in _sections(model, loc) for key in getattr(one, "model_fields", ())}


def _sections(model: type[BaseModel], loc: Loc) -> list[Any]:
    """The types that the section at a path may have."""
    types: list[Any] = [model]
    for part in loc:
        types = [inner for outer in types for inner in _inside(outer, part)]
    return types


def _inside(outer: Any, part: str | int) -> Iterator[Any]:
    """The types that stand at a key, an index or a union's tag of a type."""
    if isinstance(outer, type) and issubclass(outer, BaseModel):
        fields = outer.model_fields
        if part in fields:
            yield from _members(fields[str(part)].annotation)
        elif any(get_args(field.annotation) == (part,) for field in fields.values()):
            yield outer
    elif get_origin(outer) is (list if isinstance(part, int) else dict):
        yield from _members(get_args(outer)[-1])


def _members(annotation: Any) -> Iterator[Any]:
    """The types of a union, or the type itself."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _members(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for member in get_args(annotation):
            yield from _members(member)
    elif origin is not Literal:
        yield annotation
