"""Feed-forward layers: dense MLPs and mixtures of experts (DeepSeekMoE, arXiv:2401.06066; V3's router,
arXiv:2412.19437, section 2.1.2).

Legend: T tokens, R routed rows = T * K, E experts, K experts a token, F expert width, W hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from archcalc.errors import InputError
from archcalc.reference.factory import Factory
from archcalc.reference.fields import Section
from archcalc.reference.flopcount import Product
from archcalc.reference.kernels import fp8
from archcalc.reference.kernels.recompute import Region, checkpointed

ACTIVATIONS: dict[str, nn.Module] = {
    "silu": nn.SiLU(),
    "gelu": nn.GELU(),
    "gelu_pytorch_tanh": nn.GELU(approximate="tanh"),
}
"""By name; `gelu` is the exact one (erf)."""


class MLP(nn.Module):
    """down(act(gate x) * up x) when gated (SwiGLU, arXiv:2002.05202), else down(act(up x)).

    The region `swiglu` recomputes the activation, whichever it is.

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
        self.gated, self.kernels = gated, make.kernels
        self.recompute, self.recompute_act = make.recomputes(region), make.recomputes("swiglu")
        self.fp8 = region == "shared_experts" and "swiglu_input" in make.options.fp8
        if gated:
            self.gate_proj = make.linear(hidden, width, bias=bias)
        self.up_proj = make.linear(hidden, width, bias=bias)
        self.down_proj = make.linear(width, hidden, bias=bias)
        self.act = ACTIVATIONS[act]

    def forward(self, x: Tensor) -> Tensor:
        """[..., W] -> [..., W]."""
        return checkpointed(self.recompute, self._all, x)

    def _all(self, x: Tensor) -> Tensor:
        inner = Region(self._inner, active=self.recompute_act, in_fp8=self.fp8)
        ups = (self.gate_proj(x), self.up_proj(x)) if self.gated else (self.up_proj(x),)
        out: Tensor = self.down_proj(inner(*ups))
        inner.discard_after(out)
        return out

    def _inner(self, first: Tensor, up: Tensor | None = None) -> Tensor:
        if up is None:
            plain: Tensor = self.act(first)
            return plain
        return self.kernels.gated(first, up, None, self.act, fp8=self.fp8 and not self.recompute_act)


def dense(section: Section, hidden: int, make: Factory) -> MLP:
    """The MLP of a spec section of kind `dense`."""
    width, act = section.integer("intermediate_size"), section.choice("hidden_act", *ACTIVATIONS)
    gated, bias = section.flag("gated"), section.flag("mlp_bias")
    return MLP(hidden, width, act, make, gated=gated, bias=bias)


class Router(Product):
    """Scores all experts in fp32 and picks K of them for each token.

    With `noaux_tc` a bias, which no gradient trains, takes part in the choice but not in the weight: a
    buffer, fp32. Groups: noaux_tc ranks a group by its two best experts, group_limited_greedy (DeepSeek-V2)
    by its best.

    Raises:
        InputError: groups of one expert that are ranked by their two best.
    """

    e_score_correction_bias: Tensor | None

    def __init__(self, section: Section, hidden: int, make: Factory) -> None:
        super().__init__()
        self.experts = section.integer("n_routed_experts")
        self.chosen = section.integer("num_experts_per_tok")
        self.sigmoid = section.choice("scoring_func", "sigmoid", "softmax") == "sigmoid"
        self.method = section.choice("topk_method", "noaux_tc", "greedy", "group_limited_greedy")
        self.groups, self.chosen_groups = section.integer("n_group", 1), section.integer("topk_group", 1)
        if self.method == "noaux_tc" and self.groups > 1 and self.experts < 2 * self.groups:
            raise InputError(
                f"{section.where}: noaux_tc ranks a group by its two best experts, and {self.groups} groups of"
                f" {self.experts} experts have one each",
                value=self.groups,
            )
        self.normalise = section.flag("norm_topk_prob")
        self.factor = section.number("routed_scaling_factor", 1.0)
        self.kernels = make.kernels
        self.weight = nn.Parameter(torch.empty(self.experts, hidden, **make.at))
        nn.init.normal_(self.weight, std=0.02)
        bias = torch.zeros(self.experts, device=make.device) if self.method == "noaux_tc" else None
        self.register_buffer("e_score_correction_bias", bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[T,W] -> weights [T,K] fp32 and expert numbers [T,K]."""
        logits = self.kernels.router_logits(x, self.weight)
        scores = logits.sigmoid() if self.sigmoid else logits.softmax(-1)
        experts = self._choice(scores)
        weights = scores.gather(-1, experts)
        if self.normalise:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return weights * self.factor, experts

    @torch.no_grad()
    def _choice(self, scores: Tensor) -> Tensor:
        choice = scores if self.e_score_correction_bias is None else scores + self.e_score_correction_bias
        if self.method != "greedy" and self.groups > 1:
            choice = self._within_best_groups(choice)
        return choice.topk(self.chosen, dim=-1).indices

    def _within_best_groups(self, choice: Tensor) -> Tensor:
        grouped = choice.unflatten(-1, (self.groups, -1))
        best = 2 if self.method == "noaux_tc" else 1
        rank = grouped.topk(best, dim=-1).values.sum(-1)
        outside = torch.ones_like(rank, dtype=torch.bool)
        outside = outside.scatter(-1, rank.topk(self.chosen_groups, dim=-1).indices, False)
        return grouped.masked_fill(outside[..., None], float("-inf")).flatten(-2)


class StackedLinear(Product):
    """One matrix of every expert, stacked: weight [E, out, in]; a checkpoint stores each expert's apart."""

    def __init__(self, experts: int, inner: int, outer: int, make: Factory) -> None:
        super().__init__()
        self.kernels = make.kernels
        self.weight = nn.Parameter(torch.empty(experts, outer, inner, **make.at))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, rows: Tensor, ends: Tensor, codes: tuple[Tensor, ...] = ()) -> Tensor:
        """Rows sorted by expert [R, in] -> [R, out]; expert e's are those before ends[e] and behind the ones before it.

        With `codes`, the rows in FP8, those are kept for backward instead.
        """
        return self.kernels.grouped_linear(rows, self.weight, ends, codes)


class Experts(nn.Module):
    """The routed experts, all of them here: gather rows by expert, run the gated MLPs, scatter back, with the
    router's weights inside the activation or behind down_proj."""

    def __init__(self, experts: int, hidden: int, width: int, act: str, make: Factory) -> None:
        super().__init__()
        self.number, self.kernels, self.options = experts, make.kernels, make.options
        self.gate_proj = StackedLinear(experts, hidden, width, make)
        self.up_proj = StackedLinear(experts, hidden, width, make)
        self.down_proj = StackedLinear(experts, width, hidden, make)
        self.act = ACTIVATIONS[act]

    def forward(self, x: Tensor, weights: Tensor, experts: Tensor) -> Tensor:
        """x [T,W], weights and expert numbers [T,K] -> [T,W]."""
        chosen, order = experts.flatten().sort(stable=True)
        token = order // experts.shape[-1]
        ends = torch.searchsorted(chosen, torch.arange(self.number, device=x.device), right=True, out_int32=True)
        rows, probs = self.kernels.permute(x, weights, order, token)
        return self._combined(rows, probs, ends, token, len(x))

    def _combined(self, rows: Tensor, probs: Tensor, ends: Tensor, token: Tensor, tokens: int) -> Tensor:
        """Rows [R,W] sorted by expert, their probabilities [R] -> [T,W]."""
        names, inside = self.options.recompute, self.options.router_probs == "act"
        inner = Region(self._gated, active="swiglu" in names, in_fp8="swiglu_input" in self.options.fp8)
        down = Region(lambda product: self.down_proj(product, ends), active="moe_down_proj" in names)
        codes = fp8.store(rows.detach()) if "moe_up_proj_input" in self.options.fp8 else ()
        ups = self.gate_proj(rows, ends, codes), self.up_proj(rows, ends, codes)
        last = result = down(inner(*ups, probs) if inside else inner(*ups))
        if not inside:
            last = result = (result * probs[:, None]).to(rows.dtype)
        combined = self.kernels.unpermute(result, token, tokens)
        if inside and down.active:
            last = combined
        # Hooks run in the order they are set, and down is recomputed from inner's output: inner comes first.
        inner.discard_after(last)
        down.discard_after(last)
        return combined

    def _gated(self, gate: Tensor, up: Tensor, probs: Tensor | None = None) -> Tensor:
        in_fp8 = "swiglu_input" in self.options.fp8 and "swiglu" not in self.options.recompute
        return self.kernels.gated(gate, up, probs, self.act, fp8=in_fp8)


class MoE(nn.Module):
    """Routed experts plus, if the spec has them, shared ones that see every token (one MLP of their joint
    width). The region `moe` is all of it, router and shared experts too."""

    def __init__(self, section: Section, hidden: int, make: Factory) -> None:
        super().__init__()
        width, act = section.integer("moe_intermediate_size"), section.choice("hidden_act", *ACTIVATIONS)
        self.recompute = make.recomputes("moe")
        self.gate = Router(section, hidden, make)
        self.experts = Experts(self.gate.experts, hidden, width, act, make)
        shared, region = section.integer("n_shared_experts", 0), "shared_experts"
        self.shared_experts = MLP(hidden, shared * width, act, make, region=region) if shared else None

    def forward(self, x: Tensor) -> Tensor:
        """[..., W] -> [..., W]."""
        return checkpointed(self.recompute, self._all, x)

    def _all(self, x: Tensor) -> Tensor:
        flat = x.flatten(0, -2)
        weights, experts = self.gate(flat)
        out: Tensor = self.experts(flat, weights, experts).view(x.shape)
        return out if self.shared_experts is None else out + self.shared_experts(x)


FFNS = {"dense": dense, "moe": MoE}
"""Kind -> what makes it."""
