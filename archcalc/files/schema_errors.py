"""Errors of the schema, told in our own words at their place in the file. pydantic is not imported here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from archcalc.errors import FieldError, InputError, Problem, SpecError, did_you_mean, near_miss, show_value
from archcalc.files.document import MAX_PROBLEMS, Document, Loc, cut, place_of
from archcalc.files.identity import FOLDERS
from archcalc.files.synonyms import synonym
from archcalc.files.yaml_scalars import MAX_NUMBER
from archcalc.limits import CLAIMS, ENTRIES, TEXT, beyond

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

_LIMITED = {limit.most: limit for limit in (CLAIMS, ENTRIES, TEXT)}
"""Limits that a schema has as the longest of something."""


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
    return SpecError.from_problems(sorted(problems, key=place_of))


def _unknown_key(
    error: Mapping[str, Any], document: Document, missing: dict[Loc, list[str]], known_keys: KnownKeys | None
) -> Problem:
    """An unknown key, with what was probably meant; a missing key that explains it is taken off the list."""
    loc, key = error["loc"], str(error["loc"][-1])
    lost = missing.get(document.resolve(loc[:-1]), [])
    message, meant, hint = f"unknown key `{cut(key)}`", near_miss(key, lost), None
    if meant is not None:
        lost.remove(meant)
        hint = f"did you mean {meant}?"
    elif known_keys is not None:
        known = sorted(set(known_keys(loc[:-1])))
        given = document.value(loc[:-1])
        hint = did_you_mean(key, (name for name in known if name not in given))
        for words, names in (("known keys", known), ("keys that it might have", [n for n in known if n not in given])):
            if hint is None and names and len(listed := ", ".join(names)) <= 200:
                hint = f"{words}: {listed}"
    return document.problem(message, loc, key=True, value=error.get("input"), hint=hint)


def _missing_keys(section: Loc, keys: list[str], document: Document) -> Problem:
    names = ", ".join(f"`{key}`" for key in keys)
    where = f" in `{document.name(section)}`" if section else ""
    hint = None if section or len(keys) == 1 else _beginning(document.data.get("kind"))
    return document.problem(f"missing key{'s' if len(keys) > 1 else ''} {names}{where}", section, key=True, hint=hint)


def _beginning(kind: object) -> str | None:
    """For a file that is hardly begun: where there are others of its kind, and what explains their keys."""
    if not isinstance(kind, str) or kind not in FOLDERS:
        return None
    return (
        f"archcalc specs --kind {kind} lists some to start from; archcalc schema {kind} --format markdown has every key"
    )


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
    if wanted == "a list" and isinstance(value, str) and value.isprintable() and len(value) <= MAX_NUMBER:
        return f"write [{value}]"
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
    subject = f"the key `{cut(str(loc[-2]))}`" if is_key else _subject(document.resolve(loc))
    hint: str | None = None
    limit = _LIMITED.get(context.get("max_length"))
    if limit is not None and isinstance(value, str | list | dict):
        refused = beyond(limit, len(value))
        message, hint = f"{subject}: {refused.message}", refused.hint
    elif kind in _BOUNDS:
        form, name = _BOUNDS[kind]
        message = f"{subject} {form.format(context.get(name))}".replace(" 1 items", " 1 item")
    elif kind in ("literal_error", "enum", "union_tag_invalid"):
        if kind == "union_tag_invalid":
            subject, value = _discriminator(error), context.get("tag")
            loc = (*document.resolve(loc), subject)
        choices = str(context.get("expected_tags") or context.get("expected", ""))
        listed = [choice.strip("'") for choice in choices.replace(" or ", ", ").split(", ")]
        message = f"{subject} must be {_any_of(listed)}, not {show_value(value)}"
        if is_key:
            message = f"unknown key `{cut(str(value))}`"
        hint = (synonym(value, listed) or did_you_mean(value, listed)) if isinstance(value, str) else None
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
    section = document.resolve(loc)
    given = [(*section, *field) for field in cause.fields]
    places = [place for place in given if document.resolve(place) == place] or [section]
    related = [(place, f"{_subject(place)} is given here") for place in places[1:]]
    at_key = isinstance(document.value(places[0]), dict | list)
    return document.problem(str(cause), places[0], key=at_key, hint=cause.hint, related=related)


def _subject(loc: Loc) -> str:
    """What a message calls the value at a path: its key, with the list index if there is one."""
    indices = ""
    for part in reversed(loc):
        if isinstance(part, str):
            return cut(part) + indices
        indices = f"[{part}]{indices}"
    return "the file"


def _any_of(choices: list[str]) -> str:
    quoted = [f"`{choice}`" for choice in choices]
    return quoted[0] if len(quoted) == 1 else ", ".join(quoted[:-1]) + " or " + quoted[-1]
