"""How a layer is run: kernel profile, attention core, place of the router's probabilities, recompute, FP8
storage."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from archcalc.errors import InputError, did_you_mean

Kernels = Literal["fused", "eager"]
Core = Literal["flash", "math"]
RouterProbs = Literal["act", "out"]

RECOMPUTE = (
    "layernorm",
    "swiglu",
    "mla_up_proj",
    "moe_down_proj",
    "core_attn",
    "mlp",
    "moe",
    "shared_experts",
    "full",
)
"""Regions by name. The first four empty their outputs and keep their inputs; the others are ordinary
checkpoints."""

FP8 = ("moe_up_proj_input", "swiglu_input")
"""What may be kept in FP8: the routed experts' rows, and the gated activation's input of routed and shared
experts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a layer is run.

    Attributes:
        kernels: what the elementwise operations keep.
        core: `flash` keeps q, k, v, out and the log-sum-exp; `math` keeps fp32 q, k, v and the whole score
            matrix. router_probs: `act` multiplies them into the experts' activation, `out` after down_proj.
            recompute: names out of `RECOMPUTE`. fp8: names out of `FP8`.

    Raises:
        InputError: for a name that isn't known.
    """

    kernels: Kernels = "fused"
    core: Core = "flash"
    router_probs: RouterProbs = "act"
    recompute: frozenset[str] = frozenset()
    fp8: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        _known("kernels", [self.kernels], ("fused", "eager"))
        _known("core", [self.core], ("flash", "math"))
        _known("router_probs", [self.router_probs], ("act", "out"))
        _known("recompute", self.recompute, RECOMPUTE)
        _known("fp8", self.fp8, FP8)

    @property
    def fused(self) -> bool:
        """Whether the fused kernels run."""
        return self.kernels == "fused"


def _known(what: str, names: Iterable[str], allowed: tuple[str, ...]) -> None:
    for name in sorted(names):
        if name not in allowed:
            hint = did_you_mean(name, allowed)
            raise InputError(f"{what}: {name} is none of {', '.join(allowed)}", value=name, hint=hint)
