"""Find, read and validate a spec: a path, or the name of a bundled one."""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from archcalc.errors import InputError, RetiredKey, SpecError, did_you_mean, show_value
from archcalc.files.bundled import bundled_dir, bundled_names
from archcalc.files.model import Spec
from archcalc.files.yaml_loader import MAX_BYTES, Document, Loc, load, read

__all__ = [
    "KINDS",
    "NOUNS",
    "bundled_dir",
    "bundled_names",
    "find",
    "load_located",
    "load_spec",
    "name_hint",
    "parse",
    "text_of",
    "validate",
]

Model = TypeVar("Model", bound=BaseModel)

KINDS = ("spec", "plan", "hardware", "engine", "stack", "books")
"""What a file of ours can say that it is."""

NOUNS = {"": "spec", "plans": "plan", "hardware": "GPU", "engines": "engine", "stacks": "stack"}
"""What people call a bundled file, by the folder that it stands in."""

_ON_THE_HUB = r"(?i)(https?://(?:huggingface\.co|hf\.co)/)?([a-z0-9][\w.-]*/[a-z0-9][\w.-]*)(/.*)?"
"""What somebody may write who means a model of the Hugging Face hub."""


def find(argument: str, kind: str = "") -> Path:
    """The file that an argument names; a folder of a bundled name does not hide it.

    Raises:
        InputError: no such file and no such name; the near miss is the hint.
    """
    if argument.endswith((".yaml", ".yml")) or "/" in argument or os.sep in argument or os.path.isfile(argument):
        if kind == "":
            _refuse_hub_name(argument)
        return Path(argument)
    names = bundled_names(kind)
    if argument in names:
        return bundled_dir() / kind / f"{argument}.yaml"
    if argument and os.path.exists(argument):  # a folder says so when it is read; a pipe can be read
        return Path(argument)
    shown = show_value(argument, limit=80)
    message = f"no file and no bundled {NOUNS[kind]} is named {shown}"
    raise InputError(message, value=argument, hint=name_hint(argument, kind, "a path"))


def _refuse_hub_name(argument: str) -> None:
    """Raises InputError for an address of the hub, and for ORG/NAME where neither a file nor a folder ORG is there."""
    found = re.fullmatch(_ON_THE_HUB, argument, re.ASCII)
    if found is None or os.path.lexists(argument) or argument.endswith((".yaml", ".yml", ".json")):
        return
    address, model, rest = found.groups()
    if address or not (rest or os.path.isdir(os.path.dirname(argument))):
        raise InputError("no such file", source=argument, value=argument, hint=f"did you mean hf:{model}?")


def name_hint(argument: str, kind: str, path: str) -> str:
    """What an unknown name of a bundled file probably means, or else what there is and that `path` will do."""
    names = bundled_names(kind)
    if kind != "hardware":
        return did_you_mean(argument, names) or f"bundled: {', '.join(names)}; or give {path}"
    from archcalc.files.gpu_names import FILE_HINT, same_gpu

    meant = same_gpu(argument, {name: _title(bundled_dir() / kind / f"{name}.yaml") for name in names})
    if meant is not None:
        return f"did you mean {meant}?"
    return f"bundled: {', '.join(names)}; or give {path} to a file: {FILE_HINT}"


def _title(path: Path) -> str:
    """The title of a bundled file, which stands on a line of its own."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return next((line.removeprefix("title:").strip() for line in lines if line.startswith("title:")), "")


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


def text_of(argument: str) -> tuple[bytes, str]:
    """The text of a spec's file, a bundled one or stdin, and what it is called. Raises InputError."""
    if argument == "-":
        return sys.stdin.buffer.read(MAX_BYTES + 1), "<stdin>"
    path = find(argument)
    return read(path), str(path)


def parse(text: bytes | str, source: str, model: type[Model]) -> Model:
    """Validate the text of a file as a `model`. Raises InputError or SpecError, each with line and column."""
    document = load(text, source)
    return validate(document.data, document, model)


def validate(data: Any, document: Document, model: type[Model]) -> Model:
    """Validate data that came from a document, or was changed after. What a section has retired is left out, with a
    RetiredKey warning. Raises SpecError with positions."""
    _check_kind(data, document, model)
    try:
        return model.model_validate(data)
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
    if wanted and given in KINDS and given not in wanted:
        message = f"this file is of kind {given}; a {wanted[0]} is wanted here"
        raise SpecError.from_problems([document.problem(message, ("kind",), value=given)])


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
