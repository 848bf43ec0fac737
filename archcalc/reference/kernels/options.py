"""How a model is run: kernels, attention core, place of the router's probabilities, recompute, FP8 storage."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from archcalc.errors import InputError, did_you_mean

KernelName = Literal["fused", "eager", "counted"]
CoreName = Literal["flash", "flash-attn", "unfused", "counted"]
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
    """How a model is run.

    Attributes:
        kernels: what the elementwise operations and the experts' products keep.
        core: `flash` keeps q, k, v, out and the log-sum-exp, `flash-attn` the same and hands on a copy of out;
            `unfused` keeps the whole score matrix, in 16 bit with fused kernels, else in fp32 with fp32 q, k, v;
            `counted` multiplies no more pairs than a window or an indexer leaves.
        router_probs: `act` multiplies them into the experts' activation, `out` after down_proj.
        deterministic: whether experts' rows are added up by index_add whatever the kernels are.
        hidden_dropout, attention_dropout: the chance that an element of a residual branch, or of the embedded tokens,
            and one of the softmax, is dropped.
        rope: whether one kernel turns a tensor, or fused modules make its table anew in each layer (`unfused`).
        recompute: names out of `RECOMPUTE`.
        fp8: names out of `FP8`.

    Raises:
        InputError: for a name that isn't known.
    """

    kernels: KernelName = "fused"
    core: CoreName = "flash"
    router_probs: RouterProbs = "act"
    deterministic: bool = False
    hidden_dropout: float = 0.0
    attention_dropout: float = 0.0
    rope: Literal["fused", "unfused"] = "fused"
    recompute: frozenset[str] = frozenset()
    fp8: frozenset[str] = frozenset()

    @property
    def unfused_rope(self) -> bool:
        """Whether each tensor that turns makes its own tables."""
        return self.rope == "unfused" and self.kernels == "fused"

    def __post_init__(self) -> None:
        _known("kernels", [self.kernels], get_args(KernelName))
        _known("core", [self.core], get_args(CoreName))
        _known("router_probs", [self.router_probs], get_args(RouterProbs))
        _known("rope", [self.rope], ("fused", "unfused"))
        _known("recompute", self.recompute, RECOMPUTE)
        _known("fp8", self.fp8, FP8)


def _known(what: str, names: Iterable[str], allowed: tuple[str, ...]) -> None:
    for name in sorted(names):
        if name not in allowed:
            hint = did_you_mean(name, allowed)
            raise InputError(f"{what}: {name} is none of {', '.join(allowed)}", value=name, hint=hint)


COUNTED = Options(kernels="counted", core="counted", router_probs="out")
"""As public modeling code runs it, with FLOPs that torch counts."""
