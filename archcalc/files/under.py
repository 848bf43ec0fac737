"""What a quantity is measured under, where the usual will not do: the keys of claims, budgets and books."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from archcalc.section import Section, Sides, Size, Tokens


class Sizes(Section):
    """Sizes of the workload; each has a default.

    Attributes:
        seq: text tokens of the prefill, 4,096 where it is left out.
        image: height and width of the images that a vision tower is shown, 1024x768 where it is left out [pixels].
        context: tokens of a cached and served sequence.
    """

    seq: Tokens | None = None
    image: list[Sides] = Field(default=[])
    context: Tokens | None = None

    @property
    def sizes(self) -> dict[str, Any]:
        """Those that are given."""
        return {name: value for name in Sizes.model_fields if (value := getattr(self, name))}


class Under(Sizes):
    """What a claim or a budget is about beside its spec.

    Attributes:
        plan: a training plan: quantities that begin with `train.` need one.
        gpu: a GPU: quantities that begin with `serve.` need one.
        gpus: how many of it, the fewest that fit where it is left out.
    """

    plan: str | None = Field(default=None, min_length=1)
    gpu: str | None = Field(default=None, min_length=1)
    gpus: Size | Literal["auto"] | None = None

    @property
    def flags(self) -> dict[str, Any]:
        """The arguments of `standing` that are given."""
        own = {name: value for name in ("plan", "gpu", "gpus") if (value := getattr(self, name)) is not None}
        return own | self.sizes
