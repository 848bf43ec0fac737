"""What every block is: a frozen, strict YAML section with a forward pass over a tape."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat

from archcalc.tape import Dim

Dtype = Literal["bfloat16", "float16", "float32"]
Activation = Literal["silu", "gelu", "gelu_pytorch_tanh"]
Size = Annotated[int, Field(gt=0, le=1 << 60)]
Depth = Annotated[int, Field(gt=0, le=10_000)]
"""How many layers: each index is held in memory, so a slip must not become a list of billions."""
Real = PositiveFloat


class Section(BaseModel):
    """A strict, frozen section of a YAML file: unknown keys are errors, nothing is coerced."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, defer_build=True)


class Block(Section):
    """A section that is a block of the architecture.

    `purposes` gives one sentence for each local name that its forward pass uses.
    """

    purposes: ClassVar[dict[str, str]] = {}

    def dim(self, key: str, axis: str | None = None) -> Dim:
        """The size under a key of this section, named by the key, on a logical axis [elements]."""
        return Dim(key, getattr(self, key), axis)
