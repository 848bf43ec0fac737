"""What a quantity is measured under, where the usual will not do: the keys of claims, budgets and books."""

from typing import Any, Literal

from pydantic import Field

from archcalc.section import About, Section, Sides, Size, Tokens


class Sizes(Section):
    """Sizes of the workload; each has a default."""

    about = About(
        "Sizes of the workload; each has a default",
        seq="Text tokens of the prefill, 4,096 where it is left out",
        image="Height and width of the images that a vision tower is shown, 1024x768 where it is left out [pixels]",
        context="Tokens of a cached and served sequence: 131,072 of a cached one, the model's limit of a served one",
    )

    seq: Tokens | None = None
    image: list[Sides] = Field(default=[])
    context: Tokens | None = None

    @property
    def sizes(self) -> dict[str, Any]:
        """Those that are given."""
        return {name: value for name in Sizes.model_fields if (value := getattr(self, name))}


class Under(Sizes):
    """What a claim or a budget is about beside its spec."""

    about = About(
        "What a claim or a budget is about beside its spec",
        plan="A training plan: quantities that begin with `train.` need one",
        gpu="A GPU: quantities that begin with `serve.` need one",
        gpus="How many of it; the fewest that fit where it is left out",
    )

    plan: str | None = Field(default=None, min_length=1)
    gpu: str | None = Field(default=None, min_length=1)
    gpus: Size | Literal["auto"] | None = None

    @property
    def flags(self) -> dict[str, Any]:
        """The arguments of `standing` that are given."""
        own = {name: value for name in ("plan", "gpu", "gpus") if (value := getattr(self, name)) is not None}
        return own | self.sizes

    @property
    def recorded(self) -> dict[str, Any]:
        """The same as a document has them: the sides of images in lists."""
        return self.flags | ({"image": [list(sides) for sides in self.image]} if self.image else {})
