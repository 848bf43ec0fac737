"""Mixture of experts with optional shared experts.

With `routed_expert_hidden_size` the routed experts work on a latent of that width (Kimi K3, modeling_kimi_linear.py,
`KimiSparseMoeBlock`): tokens are projected down before they are sent, and what all adds up to is normalised and
projected up; router and shared experts see the hidden state.
"""

from functools import partial
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from archcalc.arch.block import Block, GatedActivation, Real
from archcalc.arch.ffn.dense import PURPOSES, check_gated, mlp
from archcalc.errors import FieldError
from archcalc.section import About, Size
from archcalc.tape import Dim, Tape, Tensor


class MoE(Block):
    """Mixture of experts (DeepSeekMoE, arXiv:2401.06066): a router sends each token to a few routed experts; shared
    experts see all.

    With `topk_method: noaux_tc` the router holds a correction bias that balances load without a loss
    (arXiv:2408.15664): a buffer in the checkpoint, not a trained parameter.
    """

    about = About(
        (
            "Mixture of experts (DeepSeekMoE, arXiv:2401.06066): a router sends each token to a few routed experts; "
            "shared experts see all"
        ),
        kind="Which feed-forward this is",
        n_routed_experts="Routed experts of a layer",
        num_experts_per_tok="Routed experts that a token goes to",
        n_shared_experts="Shared experts, which every token goes to; 0: none",
        moe_intermediate_size=(
            "Width of one routed expert; of one shared expert too, unless `shared_expert_intermediate_size` says "
            "otherwise [elements]"
        ),
        hidden_act=(
            "Activation of the experts; `situ` (Kimi K3) needs `gated: true`. Changes no count: what eager code keeps "
            "for backward follows from it"
        ),
        scoring_func="How the router's logits become scores. Changes no size",
        topk_method=(
            "How experts are chosen. `noaux_tc` has a correction bias that balances load without a loss "
            "(arXiv:2408.15664)"
        ),
        n_group="Groups of experts to choose from; divides `n_routed_experts`. Changes no size",
        topk_group="Groups that a token may choose experts of, at most `n_group`. Changes no size",
        norm_topk_prob="Whether the chosen experts' probabilities are scaled to a sum of 1",
        routed_scaling_factor="What the routed experts' output is multiplied by. Changes no size",
        gated="Whether routed and shared experts have a gate: three matrices, not two (Nemotron-H, arXiv:2504.03624)",
        expert_bias="Whether each matrix of each routed expert has a bias (gpt-oss, arXiv:2508.10925)",
        router_bias=(
            "`trained`: a bias of the router's scores (gpt-oss). Not the correction bias of `topk_method: noaux_tc`"
        ),
        correction_bias=(
            "`parameter`: the public class counts the correction bias as a parameter, though no gradient trains it "
            "(ERNIE 4.5); needs `topk_method: noaux_tc`"
        ),
        shared_expert_intermediate_size=(
            "Width of all shared experts together (Qwen2-MoE, Qwen3-Next); left out: n_shared_experts x "
            "moe_intermediate_size [elements]"
        ),
        shared_expert_gate=(
            "Whether a gate of one logit a token weighs what shared experts make (Qwen2-MoE, Qwen3-Next)"
        ),
        shared_name="Module of the shared experts in the checkpoint",
        routed_expert_hidden_size=(
            "Width of the latent that routed experts work on (Kimi K3); left out: they work on the hidden state "
            "[elements]"
        ),
        latent_moe_use_norm=(
            "Whether a norm is on what routed experts add up to, before it is projected up; needs "
            "`routed_expert_hidden_size`"
        ),
    )
    purposes: ClassVar[dict[str, str]] = {
        "gate": "Scores every expert for each token; its correction bias steers the choice and is no parameter.",
        "moe_statics": "Steers the router's choice: a parameter of the public class that gets no gradient.",
        "routed_expert_down_proj": "Brings the hidden state to the width that the routed experts work on.",
        "routed_expert_norm": "Normalises what the routed experts add up to, before it is projected up.",
        "routed_expert_up_proj": "Brings what the routed experts add up to back to the hidden state.",
        "experts.{e}.gate_proj": "One routed expert's gate projection.",
        "experts.{e}.up_proj": "One routed expert's up projection.",
        "experts.{e}.down_proj": "One routed expert's down projection.",
        "experts.{e}.act": "The experts' activation; it has no parameters.",
        **{f"shared_experts.{name}": f"Shared expert: {text[0].lower()}{text[1:]}" for name, text in PURPOSES.items()},
        "shared_expert_gate": "Decides for each token how much of the shared expert's output counts.",
    }

    kind: Literal["moe"]
    n_routed_experts: Size
    num_experts_per_tok: Size
    n_shared_experts: Annotated[int, Field(ge=0, le=10_000)]
    moe_intermediate_size: Size
    hidden_act: GatedActivation
    scoring_func: Literal["sigmoid", "softmax"]
    topk_method: Literal["noaux_tc", "greedy", "group_limited_greedy"]
    n_group: Size
    topk_group: Size
    norm_topk_prob: bool
    routed_scaling_factor: Real
    gated: bool = True
    expert_bias: bool = False
    router_bias: Literal["none", "trained"] = "none"
    correction_bias: Literal["buffer", "parameter"] = "buffer"
    shared_expert_intermediate_size: Size | None = None
    shared_expert_gate: bool = False
    shared_name: Literal["shared_experts", "shared_expert"] = "shared_experts"
    routed_expert_hidden_size: Size | None = None
    latent_moe_use_norm: bool = False

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
        if self.n_group > 1 and self.topk_method != "greedy":
            self._check_groups(self.n_routed_experts // self.n_group)
        check_gated(self.hidden_act, self.gated)
        return self

    def _check_groups(self, each: int) -> None:
        """Raises FieldError for groups of so many experts that can't be ranked, or hold too few for a token.

        `noaux_tc` ranks a group by its two best experts (DeepSeek-V3, arXiv:2412.19437, section 2.1.2; transformers,
        models/deepseek_v3, `route_tokens_to_experts`), `group_limited_greedy` by its best.
        """
        if each < 2 and self.topk_method == "noaux_tc":
            raise FieldError(
                f"noaux_tc ranks a group by its two best experts: {self.n_routed_experts} n_routed_experts in n_group"
                f" {self.n_group} are {each} a group",
                "n_group",
                "n_routed_experts",
                "topk_method",
            )
        if self.num_experts_per_tok > self.topk_group * each:
            raise FieldError(
                f"num_experts_per_tok {self.num_experts_per_tok} is more than the {self.topk_group * each} experts of"
                f" topk_group {self.topk_group} groups, {each} in each",
                "num_experts_per_tok",
                "topk_group",
                "n_group",
            )

    @model_validator(mode="after")
    def _keys_are_read(self) -> Self:
        shared = (self.n_shared_experts > 0, "n_shared_experts", "shared experts")
        latent = (self.routed_expert_hidden_size is not None, "routed_expert_hidden_size", "a latent")
        needs = {
            "shared_expert_intermediate_size": shared,
            "shared_expert_gate": shared,
            "shared_name": shared,
            "latent_moe_use_norm": latent,
            "correction_bias": (self.topk_method == "noaux_tc", "topk_method", "a bias, which noaux_tc has"),
        }
        for key, (there, other, what) in needs.items():
            if not there and getattr(self, key) != type(self).model_fields[key].default:
                raise FieldError(f"{key} needs {what}: see {other}", key, *({other} & self.model_fields_set))
        return self

    def forward(self, tape: Tape, x: Tensor) -> Tensor:
        """x: rows [batch, seq], features [hidden]; routed rows are num_experts_per_tok copies of each; returns x's
        shape."""
        tape.router(
            x,
            "gate",
            self.dim("n_routed_experts"),
            self.dim("num_experts_per_tok"),
            correction_bias=self.correction_bias if self.topk_method == "noaux_tc" else "none",
            bias=self.router_bias == "trained",
            norm=self.norm_topk_prob,
        )
        project = partial(tape.linear, role="latent_projection", site="latent")
        if self.routed_expert_hidden_size is None:
            out = self._routed(tape, x)
        else:
            latent = project(x, "routed_expert_down_proj", (self.dim("routed_expert_hidden_size"),))
            out = self._routed(tape, latent)
            if self.latent_moe_use_norm:
                out = tape.norm(out, "routed_expert_norm", role="norm", site="latent")
            out = project(out, "routed_expert_up_proj", x.features)
        if not self.n_shared_experts:
            return out
        return tape.add(out, self._shared(tape, x), "add_shared", site="combine")

    def _routed(self, tape: Tape, x: Tensor) -> Tensor:
        """Rows [T, w] to their experts and back: w is the hidden size, or the latent's width."""
        width = self.dim("moe_intermediate_size", "expert_ffn")
        routed = (*x.rows, self.dim("num_experts_per_tok", "routed"))
        project = partial(
            tape.grouped_linear,
            experts=self.dim("n_routed_experts", "experts"),
            active=self.dim("num_experts_per_tok"),
            role="routed_expert",
            bias=self.expert_bias,
        )
        copies = tape.dispatch(x, "dispatch", routed)
        act, up = "experts.{e}.act", "experts.{e}.up_proj"
        if self.gated:
            both = project(copies, ("experts.{e}.gate_proj", up), width, site="expert_fc1")
            inner = tape.glu(both, act, width, site="moe_act", act=self.hidden_act, probs=routed)
        else:
            up_rows = project(copies, (up,), width, site="expert_fc1")
            inner = tape.activation(up_rows, act, site="moe_act", act=self.hidden_act, probs=routed)
        (features,) = x.features
        back = project(inner, ("experts.{e}.down_proj",), features, site="expert_fc2")
        return tape.combine(back, "combine", x.rows)

    def _shared(self, tape: Tape, x: Tensor) -> Tensor:
        """The shared experts as one of their joint width, times its gate if it has one: [T, h] -> [T, h]."""
        width = (
            Dim("(n_shared_experts·moe_intermediate_size)", self.n_shared_experts * self.moe_intermediate_size, "ffn")
            if self.shared_expert_intermediate_size is None
            else self.dim("shared_expert_intermediate_size", "ffn")
        )
        glu = self.hidden_act if self.gated else None
        with tape.scope(self.shared_name, purposes=PURPOSES):
            shared = mlp(tape, x, width, role="shared_expert", site="shared", glu=glu, bias=False)
        if not self.shared_expert_gate:
            return shared
        logits = tape.linear(x, "shared_expert_gate", (Dim("1", 1),), role="shared_expert", site="shared_gate")
        return tape.scale_rows(shared, logits, "scale_shared", site="shared_gate")
