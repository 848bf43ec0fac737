"""Dense feed-forward: gated (SwiGLU) or plain."""

from typing import ClassVar, Literal, Self

from pydantic import model_validator

from archcalc.arch.block import Block, GatedActivation
from archcalc.errors import FieldError
from archcalc.section import About, Size
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

    about = About(
        "Dense feed-forward network: gated (SwiGLU, arXiv:2002.05202) with three matrices, or plain with two",
        kind="Which feed-forward this is",
        intermediate_size="Width between up and down projection [elements]",
        hidden_act=(
            "Activation; `situ` (Kimi K3) needs `gated: true`. Changes no count: what eager code keeps for backward "
            "follows from it"
        ),
        gated="Whether there is a gate: three matrices, not two",
        mlp_bias="Whether the projections have biases",
    )
    purposes: ClassVar[dict[str, str]] = PURPOSES

    kind: Literal["dense"]
    intermediate_size: Size
    hidden_act: GatedActivation
    gated: bool
    mlp_bias: bool

    @model_validator(mode="after")
    def _gated_if_it_has_to_be(self) -> Self:
        check_gated(self.hidden_act, self.gated)
        return self

    def forward(self, tape: Tape, x: Tensor) -> Tensor:
        """x: rows [batch, seq], features [hidden]; returns the same shape."""
        width = self.dim("intermediate_size", "ffn")
        act = self.hidden_act if self.gated else None
        return mlp(tape, x, width, role="dense_ffn", site="dense", glu=act, bias=self.mlp_bias)


def check_gated(act: str, gated: bool) -> None:
    """Raises FieldError for an activation of gate and up in a feed-forward without a gate."""
    if act == "situ" and not gated:
        raise FieldError("situ works on gate and up: it needs gated: true", "hidden_act", "gated")


def mlp(tape: Tape, x: Tensor, width: Dim, *, role: Role, site: str, glu: str | None, bias: bool) -> Tensor:
    """The feed-forward pass that dense layers and shared experts have in common: [T, h] -> [T, f] -> [T, h].

    `glu` is the activation of a gated one, None for a plain one.
    """
    if glu is not None:
        both = tape.gate_up(x, ("gate_proj", "up_proj"), width, role=role, site=f"{site}_fc1", bias=bias)
        inner = tape.glu(both, "act", width, site=f"{site}_act", act=glu)
    else:
        inner = tape.linear(x, "up_proj", (width,), role=role, site=f"{site}_fc1", bias=bias)
        inner = tape.activation(inner, "act", site=f"{site}_act")
    return tape.linear(inner, "down_proj", x.features, role=role, site=f"{site}_fc2", bias=bias)
