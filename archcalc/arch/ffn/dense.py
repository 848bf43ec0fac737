"""Dense feed-forward: gated (SwiGLU) or plain."""

from __future__ import annotations

from typing import ClassVar, Literal

from archcalc.arch.block import Activation, Block
from archcalc.section import Size
from archcalc.tape import Role, Tape, Tensor
from archcalc.tape.dims import Dim

PURPOSES = {
    "gate_proj": "Makes the gate that decides, feature by feature, how much of up_proj passes.",
    "up_proj": "Expands the hidden state to the feed-forward width.",
    "down_proj": "Brings the feed-forward features back to the hidden state.",
    "act": "The activation between the projections; it has no parameters.",
}


class DenseFFN(Block):
    """Dense feed-forward network: gated (SwiGLU, arXiv:2002.05202) with three matrices, or plain with two."""

    purposes: ClassVar[dict[str, str]] = PURPOSES

    kind: Literal["dense"]
    intermediate_size: Size
    hidden_act: Activation
    gated: bool
    mlp_bias: bool

    def forward(self, tape: Tape, x: Tensor) -> Tensor:
        """x: rows [batch, seq], features [hidden]; returns the same shape."""
        width = self.dim("intermediate_size", "ffn")
        return mlp(tape, x, width, role="dense_ffn", site="dense", gated=self.gated, bias=self.mlp_bias)


def mlp(tape: Tape, x: Tensor, width: Dim, *, role: Role, site: str, gated: bool, bias: bool) -> Tensor:
    """The feed-forward pass that dense layers and shared experts have in common: [T, h] -> [T, f] -> [T, h]."""
    if gated:
        both = tape.gate_up(x, ("gate_proj", "up_proj"), width, role=role, site=f"{site}_fc1", bias=bias)
        inner = tape.glu(both, "act", width, site=f"{site}_act")
    else:
        inner = tape.linear(x, "up_proj", (width,), role=role, site=f"{site}_fc1", bias=bias)
        inner = tape.activation(inner, "act", site=f"{site}_act")
    return tape.linear(inner, "down_proj", x.features, role=role, site=f"{site}_fc2", bias=bias)
