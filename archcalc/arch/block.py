"""What every block is: a section of a spec with a forward pass over a tape."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat

from archcalc.section import Section
from archcalc.tape import Dim

Dtype = Literal["bfloat16", "float16", "float32"]
Activation = Literal["silu", "gelu", "gelu_pytorch_tanh", "relu2"]
GatedActivation = Literal[Activation, "situ"]
"""Of feed-forwards: `situ` (Kimi K3) works on gate and up together."""
Depth = Annotated[int, Field(gt=0, le=10_000)]
"""How many layers: each index is held in memory, so a slip must not become a list of billions."""
Real = PositiveFloat


class Block(Section):
    """A section that is a block of the architecture.

    `purposes` gives one sentence for each local name that its forward pass uses.
    """

    purposes: ClassVar[dict[str, str]] = {}

    def turning(self, rotates: bool) -> str | None:
        """The key of how many features of a head a rotary embedding turns; None where it turns none. `rotates`: whether
        the backbone has one."""
        return None

    def dim(self, key: str, axis: str | None = None) -> Dim:
        """The size under a key of this section, named by the key, on a logical axis [elements]."""
        return Dim(key, getattr(self, key), axis)
