"""JSON Schema of the YAML files, generated from their types (draft-07 keywords only, as editors read them)."""

from __future__ import annotations

from collections.abc import Mapping
from json import dumps
from typing import Any

from pydantic import BaseModel

from archcalc.errors import InputError, did_you_mean, in_its_case


def schema_text(kind: str, known: Mapping[str, type[BaseModel]]) -> str:
    """The schema of a kind as JSON text; `known` has the type of each kind. Raises InputError for another one."""
    kind = in_its_case(kind, known)
    if kind not in known:
        raise InputError(
            f"no file kind is named {kind}", value=kind, hint=did_you_mean(kind, known) or f"one of {', '.join(known)}"
        )
    schema = _draft7(known[kind].model_json_schema())
    schema = {"$schema": "http://json-schema.org/draft-07/schema#", "title": f"archcalc {kind}", **schema}
    return dumps(schema, indent=2, ensure_ascii=True) + "\n"


def _draft7(node: Any, names: bool = False) -> Any:
    """Rename `$defs`, drop `discriminator` and made-up titles: the rest of what pydantic writes is draft-07 already.

    `names`: the keys of `node` are names of properties, not keywords.
    """
    if isinstance(node, list):
        return [_draft7(item) for item in node]
    if not isinstance(node, dict):
        return node.replace("#/$defs/", "#/definitions/") if isinstance(node, str) else node
    if names:
        return {name: _draft7(value) for name, value in node.items()}
    kept = {key: value for key, value in node.items() if key not in ("discriminator", "title")}
    renamed = {"$defs": "definitions"}
    return {renamed.get(key, key): _draft7(value, key in ("properties", "$defs")) for key, value in kept.items()}
