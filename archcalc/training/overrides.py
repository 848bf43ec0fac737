"""Fields of a plan that the command line sets, as `parallel.pp=8`: which there are, and numbers as flags have them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, NoReturn, get_args, get_origin

from archcalc.errors import InputError, near_miss
from archcalc.section import Section
from archcalc.training.overridden import Setting, value_of
from archcalc.training.plan import Plan
from archcalc.units import parse_context, parse_count

__all__ = ["override"]

LENGTHS = frozenset({"seq", "tokens_per_sequence"})
"""Fields that are lengths: k is 1024 there, as in --seq. In all others, which are counts, K is 1000."""

FOLLOWS = {
    "dp": "data parallel is what world leaves: it follows from parallel.world",
    "edp": "what world leaves of expert parallel devices follows from parallel.world",
    "gpus": "did you mean parallel.world?",
    "gpu": "did you mean hardware?",
}
"""What people set that is no field, and what it follows from."""


def _paths(model: type[Section], above: str = "") -> Iterator[tuple[str, bool]]:
    """Every field that is no section, by its path, and whether it is a whole number."""
    for name, field in model.model_fields.items():
        kinds = [field.annotation, *get_args(field.annotation)]
        inside = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), None)
        if inside is None:
            kinds += [get_args(kind)[0] for kind in kinds if get_origin(kind) is Annotated]
            yield above + name, int in kinds
        else:
            yield from _paths(inside, f"{above}{name}.")


PATHS = dict(_paths(Plan))
"""Fields of a plan by path, those of images and videos too: whether each is a whole number."""


def override(data: dict[str, Any], text: str, fields: Any) -> Setting:
    """Set one field of a plan's data; `fields` has every field that there is, defaults too. Raises InputError."""
    key, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"--set {text} has no value", value=text, hint="write --set parallel.pp=8")
    pieces = key.strip().split(".")
    document = value_of(text)
    node: Any = data
    for i, piece in enumerate(pieces):
        if not isinstance(fields, dict) or piece not in fields:
            known = list(fields) if isinstance(fields, dict) else []
            hint = _meant(pieces) or _what_there_is(pieces[:i], known)
            raise InputError(f"--set names no field of a plan: {key}", value=key, hint=hint)
        if not isinstance(node, dict):  # set before, as something else
            _refuse(f"{'.'.join(pieces[:i])} was set to what has no field {piece}", text, key)
        if i == len(pieces) - 1:
            node[piece] = _value(document.data["value"], value.strip(), pieces, text)
        else:
            node[piece] = {} if node.get(piece) is None else node[piece]
            node, fields = node[piece], fields[piece]
    return Setting(tuple(pieces), text, document)


def _value(parsed: Any, value: str, pieces: list[str], text: str) -> Any:
    """What is set: a whole number as flags take it. Raises InputError for one that is none, and for a plain value or a
    list in place of a section."""
    inside = _inside(pieces[0]) if len(pieces) == 1 else ()
    if inside and not (parsed is None or isinstance(parsed, dict)):
        hint = f"it has {', '.join(inside)}: set one of them, as {pieces[0]}.{inside[0]}=..."
        _refuse(f"{pieces[0]} is a section of a plan", text, text.partition("=")[0], hint)
    if isinstance(parsed, int) or not value[:1].isdigit() or not PATHS.get(".".join(pieces)):
        return parsed
    try:
        return parse_context(value) if pieces[-1] in LENGTHS else parse_count(value)
    except InputError as error:
        _refuse(error.message, text, text.partition("=")[0], error.hint)


def _refuse(message: str, text: str, key: str, hint: str | None = None) -> NoReturn:
    """Raises InputError at the value behind a key of an argument."""
    raise InputError(message, source=f"--set {text}", column=len(key) + 2, value=text, hint=hint, snippet=text)


def _inside(section: str) -> list[str]:
    """The fields of a section of the plan; none of what is no section."""
    return [path.removeprefix(f"{section}.") for path in PATHS if path.startswith(f"{section}.")]


def _meant(pieces: list[str]) -> str | None:
    """What is meant by a path that there is not."""
    name = pieces[-1]
    if ".".join(pieces) in PATHS:  # it is one, of a section that this plan has not
        return None
    if name in FOLLOWS:
        return FOLLOWS[name]
    sections = list(dict.fromkeys(path.partition(".")[0] for path in PATHS if "." in path))
    above = pieces[0] if pieces[0] in sections else near_miss(pieces[0], sections)
    inside = _inside(above) if above is not None and len(pieces) > 1 else []
    found = name if name in inside else near_miss(name, inside)
    if found is not None:
        return f"did you mean {above}.{found}?"
    top = near_miss(name, [*sections, *(path for path in PATHS if "." not in path)]) if len(pieces) == 1 else None
    if top is not None:
        return f"did you mean {top}?"
    leaves = {path.rpartition(".")[2] for path in PATHS if "." in path}
    found = name if name in leaves else near_miss(name, leaves)
    paths = [path for path in PATHS if found is not None and path.endswith(f".{found}")]
    return f"did you mean {' or '.join(paths)}?" if paths else None


def _what_there_is(above: list[str], known: list[str]) -> str:
    where = ".".join(above) or "a plan"
    if not known:
        return f"{where} is not one mapping in this plan: write --set '{where}={{...}}' with all of it"
    return f"{where} has {', '.join(known)}"
