"""Dense feed-forward layers, and what stands between the projections of any."""

from __future__ import annotations

from torch import Tensor, nn

from archcalc.reference.activations import ACTIVATIONS, GLUS
from archcalc.reference.factory import Factory
from archcalc.reference.fields import Section
from archcalc.reference.kernels.recompute import Region, checkpointed
from archcalc.reference.norm_kinds import NormKind


class Inner:
    """What stands between the projections up and down: act(gate) * up of a gated layer (SwiGLU, arXiv:2002.05202),
    else act(up); times the router's probabilities, if it is given them.

    The region `swiglu` recomputes it, whichever it is.

    Args:
        in_fp8: whether `swiglu_input` reaches this layer.

    Attributes:
        operands: how many tensors come from the projections up.
    """

    def __init__(self, act: str, gated: bool, make: Factory, *, in_fp8: bool) -> None:
        self.operands = 2 if gated else 1
        self._glu = GLUS[act] if gated else None
        self._act = ACTIVATIONS.get(act)
        self._kernels, self._recompute = make.kernels, make.recomputes("swiglu")
        self._fp8 = in_fp8 and "swiglu_input" in make.options.fp8

    def region(self) -> Region:
        """It as a function of the operands and the probabilities [R], which may recompute itself."""
        return Region(self._run, active=self._recompute, in_fp8=self.operands if self._fp8 else 0)

    def _run(self, *given: Tensor) -> Tensor:
        fp8 = self._fp8 and not self._recompute
        probs = given[self.operands] if len(given) > self.operands else None
        if self._glu is not None:
            return self._kernels.gated(given[0], given[1], probs, self._glu, fp8=fp8)
        assert self._act is not None
        return self._kernels.activated(given[0], probs, self._act, fp8=fp8)


class MLP(nn.Module):
    """Projections up, `Inner`, the projection down.

    Args:
        region: what recomputes all of it, `mlp` or, in a mixture, `shared_experts`; FP8 storage is for the latter.
    """

    def __init__(
        self,
        hidden: int,
        width: int,
        act: str,
        make: Factory,
        *,
        gated: bool = True,
        bias: bool = False,
        region: str = "mlp",
    ) -> None:
        super().__init__()
        self.gated, self.recompute = gated, make.recomputes(region)
        if gated:
            self.gate_proj = make.linear(hidden, width, bias=bias)
        self.up_proj = make.linear(hidden, width, bias=bias)
        self.down_proj = make.linear(width, hidden, bias=bias)
        self.inner = Inner(act, gated, make, in_fp8=region == "shared_experts")

    def forward(self, x: Tensor) -> Tensor:
        """[..., W] -> [..., W]."""
        return checkpointed(self.recompute, self._all, x)

    def _all(self, x: Tensor) -> Tensor:
        inner = self.inner.region()
        ups = (self.gate_proj(x), self.up_proj(x)) if self.gated else (self.up_proj(x),)
        out: Tensor = self.down_proj(inner(*ups))
        inner.discard_after(out)
        return out


def dense(section: Section, hidden: int, norm: NormKind, make: Factory) -> MLP:
    """The MLP of a spec section of kind `dense`."""
    gated, bias = section.flag("gated"), section.flag("mlp_bias")
    act = section.choice("hidden_act", *(GLUS if gated else ACTIVATIONS))
    return MLP(hidden, section.integer("intermediate_size"), act, make, gated=gated, bias=bias)
