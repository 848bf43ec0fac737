"""How a decoder's layers are written: patterns of layers, and a layer as a list of residual steps."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from archcalc.arch.block import Depth
from archcalc.errors import FieldError
from archcalc.section import About, Section
from archcalc.tape.values import NormKind

Placement = Literal["pre", "post", "sandwich", "none"]
"""Norms of a step: before its mixer (x + f(norm x)), after it (x + norm f(x), OLMo 2), both (Gemma 2), or neither."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*$", max_length=100)]
"""A module's name, as a checkpoint writes it."""

NORM_NAMES: dict[Placement, dict[str, tuple[str, str]]] = {
    "pre": {"attention": ("input_layernorm", ""), "ffn": ("post_attention_layernorm", "")},
    "post": {"attention": ("", "post_attention_layernorm"), "ffn": ("", "post_feedforward_layernorm")},
    "sandwich": {
        "attention": ("input_layernorm", "post_attention_layernorm"),
        "ffn": ("pre_feedforward_layernorm", "post_feedforward_layernorm"),
    },
    "none": {"attention": ("", ""), "ffn": ("", "")},
}
"""Modules of the norms before and after a mixer, as the public classes of the usual two-step layers name them
(transformers: llama, olmo2, gemma3)."""


class StepKind(NamedTuple):
    """One residual step, everything said: what a layer's forward pass reads.

    Attributes:
        section: `attention` or `ffn`, where `mixer` names a block.
        scope: the module that holds the mixer.
        norm: kind of its norms.
        input_norm, output_norm: their modules; empty where there is none.
        parallel: whether its mixer reads what the step before it read.
        shares: whether it reads that behind the other's norm, having none of its own.
    """

    section: Literal["attention", "ffn"]
    mixer: str
    scope: str
    norm: NormKind
    input_norm: str
    output_norm: str
    parallel: bool
    shares: bool


Place = tuple[str | int, ...]
"""A path into the file, from the section that says it."""

LayerKind = tuple[StepKind, ...]
"""A layer: its residual steps in order."""


class Step(Section):
    """One residual step: a mixer between its norms, added to what came in."""

    about = About(
        "One residual step: a mixer between its norms, added to what came in",
        attention="The mixer, by its name under `backbone.attention`; exactly one of `attention` and `ffn`",
        ffn="The mixer, by its name under `backbone.ffn`; exactly one of `attention` and `ffn`",
        scope="Module that holds the mixer in the checkpoint; left out: `self_attn` or `mlp`",
        norm_placement="`pre`, `post`, `sandwich` or `none`, as in the backbone; left out: the backbone's",
        norm="Kind of the step's norms; left out: the backbone's",
        input_norm=(
            "Module of the norm before the mixer; left out: as Llama, OLMo 2 and Gemma name it (input_layernorm, "
            "post_attention_layernorm, pre_feedforward_layernorm)"
        ),
        output_norm=(
            "Module of the norm after the mixer; left out: as OLMo 2 and Gemma name it (post_attention_layernorm, "
            "post_feedforward_layernorm)"
        ),
        arrangement=(
            "`parallel`: the mixer reads what the step before it read (x + a(norm x) + f(norm x)); with "
            "`norm_placement: none` behind that step's norm (GPT-J, phi, Falcon-7B)"
        ),
    )

    attention: str | None = None
    ffn: str | None = None
    scope: Name | None = None
    norm_placement: Placement | None = None
    norm: NormKind | None = None
    input_norm: Name | None = None
    output_norm: Name | None = None
    arrangement: Literal["sequential", "parallel"] = "sequential"

    @model_validator(mode="after")
    def _one_mixer(self) -> Self:
        if (self.attention is None) == (self.ffn is None):
            raise FieldError("a step has one mixer: either attention or ffn", "attention", "ffn")
        return self

    def kind(self, norm: NormKind, placement: Placement) -> StepKind:
        """The step under the backbone's norm and placement."""
        section: Literal["attention", "ffn"] = "attention" if self.ffn is None else "ffn"
        placement = self.norm_placement or placement
        before, after = NORM_NAMES[placement][section]
        parallel = self.arrangement == "parallel"
        return StepKind(
            section=section,
            mixer=self.attention or self.ffn or "",
            scope=self.scope or ("self_attn" if section == "attention" else "mlp"),
            norm=self.norm or norm,
            input_norm=(self.input_norm or before) if before else "",
            output_norm=(self.output_norm or after) if after else "",
            parallel=parallel,
            shares=parallel and placement == "none",
        )

    def unread(self, placement: Placement) -> str | None:
        """The key of a norm that this placement has not, or None."""
        before, after = NORM_NAMES[self.norm_placement or placement]["ffn"]
        if self.norm and not before and not after:
            return "norm"
        if self.input_norm and not before:
            return "input_norm"
        return "output_norm" if self.output_norm and not after else None


@lru_cache(maxsize=1024)
def _plain(section: Literal["attention", "ffn"], mixer: str | None) -> Step:
    """A step of the usual two: asked for with each layer that a file writes, and nearly always the same."""
    return Step.model_construct(attention=mixer) if section == "attention" else Step.model_construct(ffn=mixer)


class Layers(Section):
    """A pattern of layers: the usual two steps, a list of steps, or a pattern that is repeated."""

    about = About(
        (
            "`count` equal layers: an attention and a feed-forward by name, or a list of `steps`. Or `repeat` times "
            "the `layers` below it"
        ),
        count="How many of these layers; left out beside `repeat`, and in `mtp_layer` [layers]",
        attention="The attention of the usual two steps, by its name under `backbone.attention`",
        ffn="The feed-forward of the usual two steps, by its name under `backbone.ffn`",
        steps="The layer as a list of residual steps, in place of `attention` and `ffn`",
        repeat="How often the `layers` below are repeated",
        layers="Patterns that `repeat` repeats, in order",
    )

    count: Depth | None = None
    attention: str | None = None
    ffn: str | None = None
    steps: Annotated[list[Step], Field(min_length=1, max_length=16)] | None = None
    repeat: Depth | None = None
    layers: Annotated[list["Layers"], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        given = [key for key in ("attention", "ffn", "steps", "count") if getattr(self, key) is not None]
        if self.repeats:
            lacking = [key for key in ("repeat", "layers") if getattr(self, key) is None]
            if lacking:
                raise FieldError(f"{lacking[0]} is missing: a repeated pattern needs repeat and layers")
            if given:
                raise FieldError(f"{given[0]} beside repeat: what is repeated stands under layers", given[0], "repeat")
        elif self.steps is not None:
            if given[0] != "steps":
                raise FieldError(f"steps and {given[0]}: a layer is one or the other", given[0], "steps")
        else:
            for key in ("attention", "ffn"):
                if key not in given:
                    raise FieldError(f"{key} is missing: a layer needs attention and ffn, or a list of steps")
        return self

    @property
    def repeats(self) -> bool:
        """Whether it stands for the layers written below it."""
        return self.repeat is not None or self.layers is not None

    @property
    def total(self) -> int:
        """All layers that it stands for."""
        if self.layers is None:
            return self.count or 0
        return (self.repeat or 0) * sum(inner.total for inner in self.layers)

    def runs(self) -> "Iterator[tuple[int, Layers]]":
        """(how many, layer) in order, repetitions written out. Raises FieldError for none: no file can say that."""
        if self.layers is None:
            if not self.count:
                raise FieldError("a pattern of no layers", "count")
            yield self.count, self
            return
        for _ in range(self.repeat or 0):
            for inner in self.layers:
                yield from inner.runs()

    def places(self) -> "Iterator[tuple[Place, Layers]]":
        """Every layer that is written here, with its place in the file."""
        if self.layers is None:
            yield (), self
            return
        for i, inner in enumerate(self.layers):
            yield from ((("layers", i, *place), layer) for place, layer in inner.places())

    def parts(self) -> list[tuple[Place, Step]]:
        """Its steps, each with its place in the file; the short form has two."""
        if self.steps is not None:
            return [(("steps", i), step) for i, step in enumerate(self.steps)]
        return [((), _plain("attention", self.attention)), ((), _plain("ffn", self.ffn))]

    def kind(self, norm: NormKind, placement: Placement) -> LayerKind:
        """The layer under the backbone's norm and placement."""
        return tuple(step.kind(norm, placement) for _, step in self.parts())

    def check_steps(self, place: Place, norm: NormKind, placement: Placement, reserved: tuple[str, ...]) -> None:
        """Steps that can run, of modules that don't meet each other or the `reserved` ones. Raises FieldError."""
        modules = reserved
        for n, (inner, step) in enumerate(self.parts()):
            kind, here = step.kind(norm, placement), (*place, *inner)
            unread = step.unread(placement)
            if unread:
                raise FieldError(f"{unread} names a norm that this step does not have", (*here, unread))
            if kind.parallel and n == 0:
                raise FieldError("the first step has nothing to run in parallel with", (*here, "arrangement"))
            for module in filter(None, (kind.scope, kind.input_norm, kind.output_norm)):
                other = next((known for known in modules if _meet(known, module)), None)
                if other is not None:
                    named = f"are named {module}" if other == module else f"meet: {other} and {module}"
                    hint = "name them with scope, input_norm and output_norm"
                    raise FieldError(f"two modules of a layer {named}", here, hint=hint)
                modules = (*modules, module)


def _meet(one: str, other: str) -> bool:
    """Whether two modules are the same, or one stands inside the other."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")
