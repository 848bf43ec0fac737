"""JSON Schema of the YAML files, generated from their types (draft-07 keywords only, as editors read them)."""

from __future__ import annotations

from collections.abc import Mapping
from json import dumps
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from archcalc.errors import InputError, did_you_mean, in_its_case
from archcalc.section import Section


def schema_text(kind: str, known: Mapping[str, type[BaseModel]]) -> str:
    """The schema of a kind as JSON text; `known` has the type of each kind. Raises InputError for another one."""
    return dumps(schema_of(kind, known), indent=2, ensure_ascii=True) + "\n"


def schema_of(kind: str, known: Mapping[str, type[BaseModel]]) -> dict[str, Any]:
    """The schema of a kind. Raises InputError for another one than those that are `known`."""
    kind = in_its_case(kind, known)
    if kind not in known:
        raise InputError(
            f"no file kind is named {kind}", value=kind, hint=did_you_mean(kind, known) or f"one of {', '.join(known)}"
        )
    schema = _draft7(known[kind].model_json_schema(schema_generator=_Described))
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": f"archcalc {kind}", **schema}


def described(section: type[Section]) -> dict[str, str]:
    """What each key of a section means, those that it inherits included."""
    return {key: text for one in reversed(section.__mro__) for key, text in _own(one).items()}


def _own(one: type) -> dict[str, str]:
    return vars(one)["about"].keys if issubclass(one, Section) and "about" in vars(one) else {}


class _Described(GenerateJsonSchema):
    """Takes descriptions from each section's `about`, never from docstrings.

    Editors don't underline a retired key in a file that still has it, and don't offer it to a new one: they complete
    `properties`, and no pattern.
    """

    def model_schema(self, schema: Any) -> JsonSchemaValue:
        made, section = super().model_schema(schema), schema["cls"]
        made["description"] = section.about.text
        for key, text in described(section).items():
            made["properties"][key]["description"] = text
        if section.retired:
            keys = "|".join(sorted(section.retired))
            made["patternProperties"] = {f"^({keys})$": {"description": "No longer read: delete it."}}
        return made


def _draft7(node: Any, names: bool = False) -> Any:
    """Rename `$defs`, drop `discriminator` and made-up titles: the rest of what pydantic writes is draft-07 already,
    but for what stands beside a `$ref`, where draft-07 reads nothing.

    `names`: the keys of `node` are names of properties, not keywords.
    """
    if isinstance(node, list):
        return [_draft7(item) for item in node]
    if not isinstance(node, dict):
        return node.replace("#/$defs/", "#/definitions/") if isinstance(node, str) else node
    if names:
        return {name: _draft7(value) for name, value in node.items()}
    kept = {key: value for key, value in node.items() if key not in ("discriminator", "title")}
    if "$ref" in kept and len(kept) > 1:
        kept["allOf"] = [{"$ref": kept.pop("$ref")}]
    renamed = {"$defs": "definitions"}
    return {renamed.get(key, key): _draft7(value, key in ("properties", "$defs")) for key, value in kept.items()}
