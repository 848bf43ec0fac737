"""What a plan says of activations: how they are computed, kept, made again and routed."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, NonNegativeInt, Tag, field_validator, model_validator

from archcalc.files.model import Text
from archcalc.section import About, Section
from archcalc.training.layout import listed
from archcalc.training.savers import Lever, levers

Offload = Annotated[Annotated[Text, Tag("word")] | Annotated[list[Text], Tag("list")], Discriminator(listed)]

Imbalance = Annotated[float, Field(ge=1)]
Probability = Annotated[float, Field(ge=0, lt=1)]


class Spread(Section):
    """A range of the busiest device over the mean of the routed rows."""

    about = About(
        "The busiest device over the mean of the routed rows, as a range",
        typical="What is counted",
        worst="What gives the peak's range; at least `typical`",
    )

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
    """How activations are computed and kept. Where `cross_entropy` is left out the loss goes with the kernels.

    `hidden_dropout` falls where Megatron-LM has it; public modeling code has it in GPT-2's kin alone. `unfused` scores
    are in 16 bit under fused kernels. `deterministic`: rows of experts are added up by a kernel that keeps them.
    `moe_imbalance: real` is in training/routing.py.
    """

    about = About(
        "How activations are computed, kept, made again and routed",
        kernels=(
            "`fused`: TransformerEngine's modules (Megatron-LM: --transformer-impl transformer_engine). `eager`: "
            "plain torch code as transformers has it"
        ),
        core=(
            "Attention: `flash`, cuDNN's fused kernel; `flash-attn`, the package of that name, whose output "
            "TransformerEngine reorders; `unfused`, scores written out (Megatron-LM: --attention-backend fused, "
            "flash, unfused)"
        ),
        hidden_dropout=(
            "Share that is dropped behind every residual branch and the embedding (Megatron-LM: --hidden-dropout, "
            "whose own default is 0.1) [share]"
        ),
        attention_dropout=(
            "Share that is dropped of attention's scores; costs memory where these are written out (Megatron-LM: "
            "--attention-dropout, whose own default is 0.1) [share]"
        ),
        rope=(
            "`fused`: a kernel rotates. `unfused`: each layer keeps its tables (Megatron-LM: --no-rope-fusion). Left "
            "out: the stack's, else fused"
        ),
        router_probs=(
            "Where the router's probabilities multiply: `act`, at the experts' activation (Megatron-LM's "
            "permuted_probs); `out`, behind the last product"
        ),
        deterministic=(
            "Whether sums of experts' rows keep what they add (Megatron-LM: --deterministic-mode without "
            "--moe-permute-fusion)"
        ),
        recompute=(
            "What is made again in backward: `full` (whole layers), or any of `layernorm`, `swiglu`, `mla_up_proj`, "
            "`moe_down_proj`, `core_attn`, `mlp`, `moe`, `shared_experts`; []: nothing (Megatron-LM: "
            "--recompute-granularity, --recompute-modules, whose moe_act is the experts' part of `swiglu`; "
            "--recompute-activations is `core_attn`)"
        ),
        fp8=(
            "Inputs that are stored in FP8 for backward whatever they multiply in: `moe_up_proj_input`, "
            "`swiglu_input`; []: none"
        ),
        offload=(
            "What waits in host memory: `none`, `all`, or any of `attn_norm`, `qkv_linear`, `core_attn`, `attn_proj`, "
            "`mlp_norm`, `dense_mlp`, `router`, `expert_fc1`, `moe_act`, `expert_fc2`, `shared_experts` (Megatron-LM: "
            "--fine-grained-activation-offloading, --offload-modules)"
        ),
        offload_in_flight=(
            "Layers whose copies to or from the host are in hand beside the running one; 0 is what a log of allocated "
            "bytes sees at least [layers]"
        ),
        moe_imbalance=(
            "The busiest device over the mean of routed rows: a number from 1, which is a lower bound; {typical: x, "
            "worst: y}; or `real`, what published routers do"
        ),
        cross_entropy=(
            "The loss: `eager`, plain code on fp32 logits; `fused`, Megatron-LM's vocab-parallel loss; `te`, "
            "TransformerEngine's (--cross-entropy-loss-fusion with --cross-entropy-fusion-impl te); `chunked`, head "
            "and loss in pieces. Left out: the stack's, else `te` with fused kernels and `eager` with eager ones"
        ),
        attention_mask=(
            "`loader`: the data loader makes a mask of seq x seq bytes a sequence (Megatron-LM unless "
            "--no-create-attention-mask-in-dataloader). Left out: the stack's, else none"
        ),
        selective=(
            "Layers are recomputed but for results of these operations: `mm`, `every_other_mm`, `grouped_mm`, "
            "`attention`, `reduce_scatter`, `all_to_all` (torchtitan: checkpointing by operation); excludes "
            "`recompute`. Left out: no such checkpointing"
        ),
    )

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
