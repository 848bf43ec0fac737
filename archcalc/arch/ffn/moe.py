"""Mixture of experts with optional shared experts."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from archcalc.arch.block import Activation, Block, Real
from archcalc.arch.ffn.dense import PURPOSES, mlp
from archcalc.errors import FieldError
from archcalc.section import Size
from archcalc.tape import Dim, Tape, Tensor


class MoE(Block):
    """Mixture of experts (DeepSeekMoE, arXiv:2401.06066): a router sends each token to a few routed experts; shared
    experts see all.

    With `topk_method: noaux_tc` the router holds a correction bias that balances load without a loss
    (arXiv:2408.15664): a buffer in the checkpoint, not a trained parameter.
    """

    purposes: ClassVar[dict[str, str]] = {
        "gate": "Scores every expert for each token; its correction bias steers the choice and is no parameter.",
        "experts.{e}.gate_proj": "One routed expert's gate projection.",
        "experts.{e}.up_proj": "One routed expert's up projection.",
        "experts.{e}.down_proj": "One routed expert's down projection.",
        "experts.{e}.act": "The experts' gated activation; it has no parameters.",
        **{f"shared_experts.{name}": f"Shared expert: {text[0].lower()}{text[1:]}" for name, text in PURPOSES.items()},
    }

    kind: Literal["moe"]
    n_routed_experts: Size
    num_experts_per_tok: Size
    n_shared_experts: Annotated[int, Field(ge=0, le=10_000)]
    moe_intermediate_size: Size
    hidden_act: Activation
    scoring_func: Literal["sigmoid", "softmax"]
    topk_method: Literal["noaux_tc", "greedy", "group_limited_greedy"]
    n_group: Size
    topk_group: Size
    norm_topk_prob: bool
    routed_scaling_factor: Real

    @model_validator(mode="after")
    def _experts_fit(self) -> Self:
        for few, many in (("num_experts_per_tok", "n_routed_experts"), ("topk_group", "n_group")):
            if getattr(self, few) > getattr(self, many):
                raise FieldError(f"{few} {getattr(self, few)} is more than {many} {getattr(self, many)}", few, many)
        if self.n_routed_experts % self.n_group:
            raise FieldError(
                f"n_routed_experts {self.n_routed_experts} does not divide into n_group {self.n_group}",
                "n_routed_experts",
                "n_group",
            )
        return self

    def forward(self, tape: Tape, x: Tensor) -> Tensor:
        """x: rows [batch, seq], features [hidden]; routed rows are num_experts_per_tok copies of each; returns x's
        shape."""
        experts, top_k = self.dim("n_routed_experts"), self.dim("num_experts_per_tok", "routed")
        width = self.dim("moe_intermediate_size", "expert_ffn")
        tape.router(
            x,
            "gate",
            experts,
            self.dim("num_experts_per_tok"),
            correction_bias=self.topk_method == "noaux_tc",
            bias=False,
            norm=self.norm_topk_prob,
        )
        routed = (*x.rows, top_k)
        held, active = experts.on("experts"), self.dim("num_experts_per_tok")
        copies = tape.dispatch(x, "dispatch", routed)
        both = tape.grouped_linear(
            copies,
            ("experts.{e}.gate_proj", "experts.{e}.up_proj"),
            width,
            experts=held,
            active=active,
            role="routed_expert",
            site="expert_fc1",
        )
        inner = tape.glu(both, "experts.{e}.act", width, site="moe_act", probs=routed)
        (hidden,) = x.features
        back = tape.grouped_linear(
            inner,
            ("experts.{e}.down_proj",),
            hidden,
            experts=held,
            active=active,
            role="routed_expert",
            site="expert_fc2",
        )
        out = tape.combine(back, "combine", x.rows)
        if not self.n_shared_experts:
            return out
        shared_width = Dim(
            "(n_shared_experts·moe_intermediate_size)", self.n_shared_experts * self.moe_intermediate_size, "ffn"
        )
        with tape.scope("shared_experts", purposes=PURPOSES):
            shared = mlp(tape, x, shared_width, role="shared_expert", site="shared", gated=True, bias=False)
        return tape.add(out, shared, "add_shared", site="combine")
