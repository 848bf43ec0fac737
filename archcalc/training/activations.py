"""What a plan says of activations: how they are computed, kept, made again and routed."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, NonNegativeInt, Tag, field_validator, model_validator

from archcalc.errors import FieldError
from archcalc.files.model import Text
from archcalc.section import Section
from archcalc.training.layout import listed
from archcalc.training.savers import Lever, levers

Offload = Annotated[Annotated[Text, Tag("word")] | Annotated[list[Text], Tag("list")], Discriminator(listed)]

Imbalance = Annotated[float, Field(ge=1)]
Probability = Annotated[float, Field(ge=0, lt=1)]


class Spread(Section):
    """The busiest device over the mean of the routed rows: `typical` is counted, `worst` gives the peak's range."""

    typical: Imbalance
    worst: Imbalance


def _form(value: Any) -> str:
    """Which form of an imbalance somebody means, so that one error is about it."""
    return "spread" if isinstance(value, dict | Spread) else "word" if isinstance(value, str) else "number"


Uneven = Annotated[
    Annotated[Imbalance, Tag("number")] | Annotated[Spread, Tag("spread")] | Annotated[Literal["real"], Tag("word")],
    Discriminator(_form),
]


class Activations(Section):
    """How activations are computed and kept. Where `cross_entropy` is left out the loss goes with the kernels:
    TransformerEngine's with fused ones, plain code with eager ones.

    `hidden_dropout` falls on every residual branch and on what is embedded, as in Megatron-LM; public modeling code has
    it in GPT-2's kin alone. `core`: `flash` is a fused kernel that takes tensors in the layer's order (cuDNN's),
    `flash-attn` the package of that name, for which TransformerEngine reorders them; `unfused` writes attention's
    scores out, in 16 bit under fused kernels. `deterministic` is Megatron-LM's --deterministic-mode without
    --moe-permute-fusion: rows of experts are added up by a kernel that keeps them. `rope:
    unfused` is Megatron-LM's rotation without a kernel (--no-rope-fusion), which keeps its tables layer by layer.
    `offload_in_flight` is how many layers' copies to or from the host are in hand beside the layer that runs.
    `attention_mask: loader` is a mask that the data loader makes, seq x seq bytes for each sequence. `moe_imbalance:
    real` is what published routers do (training/routing.py). `selective`: layers are recomputed but for what operations
    of these kinds put out.
    """

    kernels: Literal["fused", "eager"]
    core: Literal["flash", "flash-attn", "unfused"] = "flash"
    hidden_dropout: Probability = 0.0
    attention_dropout: Probability = 0.0
    rope: Literal["fused", "unfused"] = "fused"
    router_probs: Literal["act", "out"]
    deterministic: bool = False
    recompute: list[Text]
    fp8: list[Text]
    offload: Offload
    offload_in_flight: NonNegativeInt = 1
    moe_imbalance: Uneven
    cross_entropy: Literal["eager", "fused", "te", "chunked"] | None = None
    attention_mask: Literal["none", "loader"] = "none"
    selective: list[Text] | None = None

    @property
    def loss(self) -> str:
        """The loss in use."""
        return self.cross_entropy or ("te" if self.kernels == "fused" else "eager")

    @field_validator("recompute", "fp8", "selective")
    @classmethod
    def _once(cls, value: list[str] | None) -> list[str] | None:
        doubled = [name for name in value or () if value and value.count(name) > 1]
        if doubled:
            raise ValueError(f"{doubled[0]} stands twice")
        return value

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.selective is not None and self.recompute:
            raise FieldError(
                "selective recomputes all of a layer but what it names: recompute has nothing left to choose",
                "selective",
                "recompute",
            )
        spread = self.moe_imbalance
        if isinstance(spread, Spread) and spread.worst < spread.typical:
            raise FieldError(f"worst {spread.worst:g} is less than typical {spread.typical:g}", "moe_imbalance")
        self.levers()
        return self

    def levers(self, linears: str = "none") -> tuple[Lever, ...]:
        """From no savers to all that are named, one at a time; `linears` is the recipe of those in FP8. Raises
        InputError for a name there is not."""
        return levers(
            kernels=self.kernels,
            core=self.core,
            deterministic=self.deterministic,
            router_probs=self.router_probs,
            cross_entropy=self.loss,
            recompute=self.recompute,
            selective=self.selective,
            fp8=self.fp8,
            offload=self.offload,
            hidden_dropout=self.hidden_dropout,
            attention_dropout=self.attention_dropout,
            rope=self.rope,
            linears=linears,
        )
