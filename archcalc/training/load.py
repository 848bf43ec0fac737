"""A plan read from a file, with fields overridden on the command line."""

from __future__ import annotations

from typing import Any

from yaml import safe_dump

from archcalc.errors import InputError, SpecError, did_you_mean
from archcalc.files.loader import find, validate
from archcalc.files.yaml_loader import load, read
from archcalc.training.plan import Fsdp, Plan


def load_plan(argument: str, overrides: tuple[str, ...] = ()) -> Plan:
    """A plan from a path or a bundled name, with fields overridden by `path=value` (YAML values).

    Raises:
        InputError: a file that can't be read, or an override that names no field.
        SpecError: an invalid plan.
    """
    path = find(argument, "plans")
    document = load(read(path), str(path))
    if not overrides:
        return validate(document.data, document, Plan)
    plain = validate(document.data, document, Plan)
    data, all_fields = plain.model_dump(exclude_unset=True), plain.model_dump()
    all_fields["fsdp"] = (plain.fsdp or Fsdp()).model_dump()
    for override in overrides:
        _override(data, override, all_fields)
    given = {override.partition("=")[0].strip() for override in overrides}
    if "assumed" in data and "assumed" not in given:
        data["assumed"] = [path for path in data["assumed"] if path not in given]
    source = f"--set {', '.join(overrides)}"
    try:
        return validate(data, load(safe_dump(data), source), Plan)
    except SpecError as error:
        raise SpecError.from_problems(
            [p._replace(line=None, column=None, snippet=None, related=()) for p in error.problems]
        ) from None


def _override(data: dict[str, Any], text: str, fields: Any) -> None:
    """Set one field of a plan's data; `fields` has every field that there is, defaults too."""
    key, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"--set {text} has no value", value=text, hint="write --set parallel.pp=8")
    parsed = load(f"value: {value}", f"--set {key}").data["value"]
    node: Any = data
    pieces = key.strip().split(".")
    for i, piece in enumerate(pieces):
        if not isinstance(fields, dict) or piece not in fields:
            known = list(fields) if isinstance(fields, dict) else []
            raise InputError(
                f"--set names no field of a plan: {key}",
                value=key,
                hint=did_you_mean(piece, known) or f"{'.'.join(pieces[:i]) or 'a plan'} has {', '.join(known)}",
            )
        if i == len(pieces) - 1:
            node[piece] = parsed
        else:
            node[piece] = {} if node.get(piece) is None else node[piece]
            node, fields = node[piece], fields[piece]
