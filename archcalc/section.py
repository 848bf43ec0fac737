"""The base of everything that is read from a YAML file: strict, frozen sections."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

Size = Annotated[int, Field(gt=0, le=1 << 60)]


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
