"""The base of everything that is read from a YAML file: strict, frozen sections."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Size = Annotated[int, Field(gt=0, le=1 << 60)]


class Section(BaseModel):
    """A strict, frozen section of a YAML file: unknown keys are errors, nothing is coerced."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, defer_build=True)
