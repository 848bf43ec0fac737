"""The base of everything that is read from a YAML file: strict, frozen sections."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from archcalc.units import parse_memory

Size = Annotated[int, Field(gt=0, le=1 << 60)]


def _bytes(value: Any) -> Any:
    """Text with a unit as bytes; anything else as it is."""
    return parse_memory(value) if isinstance(value, str) else value


def _memory(**least: Any) -> Any:
    bound = {"exclusiveMinimum" if name == "gt" else "minimum": n for name, n in least.items()}
    integer = {"type": "integer", **bound, "maximum": 1 << 60}
    text = r"^\s*([0-9]+(_[0-9]+)*|[1-9][0-9]{0,2}(,[0-9]{3})+)(\.[0-9]+)?\s*(([kKmMgGtTpP][iI]?)?[bB])?\s*$"
    return (
        Field(**least, le=1 << 60),
        BeforeValidator(_bytes),
        WithJsonSchema({"anyOf": [integer, {"type": "string", "pattern": text}]}),
    )


Memory = Annotated[int, *_memory(gt=0)]
"""Bytes, or text such as 96GB or 94.97GiB."""

Amount = Annotated[int, *_memory(ge=0)]
"""The same, or nothing."""


def _accept_retired(schema: dict[str, Any], section: type[Section]) -> None:
    """Editors don't underline a retired key in a file that still has it, and don't offer it to a new one: they complete
    `properties`, and no pattern."""
    if section.retired:
        keys = "|".join(sorted(section.retired))
        schema["patternProperties"] = {f"^({keys})$": {"description": "No longer read: delete it."}}


class Section(BaseModel):
    """A strict, frozen section of a YAML file: unknown keys are errors, nothing is coerced.

    `retired` are keys that were read once: a file that still has one is read without it, with a warning.
    """

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        defer_build=True,
        json_schema_extra=_accept_retired,
    )
    retired: ClassVar[frozenset[str]] = frozenset()
