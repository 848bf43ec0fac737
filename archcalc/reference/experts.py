"""Routed experts and the router that chooses among them (DeepSeekMoE, arXiv:2401.06066; V3's router,
arXiv:2412.19437, section 2.1.2).

Legend: T tokens, R routed rows = T * K, E experts, K experts a token, F expert width, W width of the rows.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from archcalc.errors import InputError
from archcalc.reference.activations import ACTIVATIONS, GLUS
from archcalc.reference.factory import Factory
from archcalc.reference.fields import Section
from archcalc.reference.flopcount import Product
from archcalc.reference.kernels import fp8
from archcalc.reference.kernels.eager import Eager
from archcalc.reference.kernels.recompute import Region
from archcalc.reference.mlp import Inner


class Router(Product):
    """Scores all experts in fp32 and picks K of them for each token.

    With `noaux_tc` a bias, which no gradient trains, takes part in the choice but not in the weight: a buffer, fp32,
    unless the module around it holds it. A trained bias of the scores is in both (gpt-oss). Groups: noaux_tc ranks a
    group by its two best experts, group_limited_greedy (DeepSeek-V2) by its best.

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
        trained = section.choice("router_bias", "none", "trained", default="none") == "trained"
        self.bias = nn.Parameter(torch.zeros(self.experts, **make.at)) if trained else None
        held = section.choice("correction_bias", "buffer", "parameter", default="buffer")
        self.steered_from_outside = self.method == "noaux_tc" and held == "parameter"
        own = self.method == "noaux_tc" and held == "buffer"
        self.register_buffer("e_score_correction_bias", torch.zeros(self.experts, device=make.device) if own else None)

    def forward(self, x: Tensor, correction: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """[T,W], a bias of the choice [E] in place of its own -> weights [T,K] fp32 and expert numbers [T,K]."""
        logits = self.kernels.router_logits(x, self.weight, self.bias)
        scores = logits.sigmoid() if self.sigmoid else logits.softmax(-1)
        experts = self._choice(scores, self.e_score_correction_bias if correction is None else correction)
        weights = scores.gather(-1, experts)
        if self.normalise:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return weights * self.factor, experts

    @torch.no_grad()
    def _choice(self, scores: Tensor, correction: Tensor | None) -> Tensor:
        choice = scores if correction is None else scores + correction
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
    """One matrix of every expert, stacked: weight [E, out, in], bias [E, out]; a checkpoint stores each expert's
    apart."""

    def __init__(self, experts: int, inner: int, outer: int, make: Factory, *, bias: bool = False) -> None:
        super().__init__()
        self.kernels = make.kernels
        self.weight = nn.Parameter(torch.empty(experts, outer, inner, **make.at))
        nn.init.normal_(self.weight, std=0.02)
        self.bias = nn.Parameter(torch.zeros(experts, outer, **make.at)) if bias else None

    def forward(
        self,
        rows: Tensor,
        expert: Tensor,
        ends: Tensor,
        codes: tuple[Tensor, ...] = (),
        probs: Tensor | None = None,
    ) -> Tensor:
        """Rows sorted by expert [R, in] and their experts [R] -> [R, out]; expert e's are those before ends[e] and
        behind the ones before it.

        With `codes`, the rows in FP8, those are kept for backward instead; `probs` [R] multiply the bias alone.
        """
        out = self.kernels.grouped_linear(rows, self.weight, ends, codes)
        return out if self.bias is None else self.kernels.expert_bias(out, self.bias, expert, ends, probs)


class Experts(nn.Module):
    """The routed experts, all of them here: gather rows by expert, run the MLPs, scatter back, with the router's
    weights inside the activation, and on down_proj's bias, or behind down_proj."""

    def __init__(self, section: Section, experts: int, hidden: int, make: Factory) -> None:
        super().__init__()
        self.number, self.kernels, self.options = experts, make.kernels, make.options
        width, bias = section.integer("moe_intermediate_size"), section.flag("expert_bias")
        gated = section.flag("gated", default=True)
        act = section.choice("hidden_act", *(GLUS if gated else ACTIVATIONS))
        self.gate_proj = StackedLinear(experts, hidden, width, make, bias=bias) if gated else None
        self.up_proj = StackedLinear(experts, hidden, width, make, bias=bias)
        self.down_proj = StackedLinear(experts, width, hidden, make, bias=bias)
        self.inner = Inner(act, gated, make, in_fp8=True)

    def forward(self, x: Tensor, weights: Tensor, experts: Tensor) -> Tensor:
        """x [T,W], weights and expert numbers [T,K] -> [T,W]."""
        expert, order = experts.flatten().sort(stable=True)
        token = order // experts.shape[-1]
        ends = torch.searchsorted(expert, torch.arange(self.number, device=x.device), right=True, out_int32=True)
        rows, probs = self.kernels.permute(x, weights, order, token)
        return self._combined(rows, probs, (expert, ends), token, len(x))

    def _combined(
        self, rows: Tensor, probs: Tensor, sorted_by: tuple[Tensor, Tensor], token: Tensor, tokens: int
    ) -> Tensor:
        """Rows [R,W] sorted by expert, their probabilities [R], their experts and where each expert's end -> [T,W]."""
        names, inside = self.options.recompute, self.options.router_probs == "act"
        inner = self.inner.region()
        down = Region(partial(self._down, sorted_by), active="moe_down_proj" in names)
        codes = fp8.store(rows.detach()) if "moe_up_proj_input" in self.options.fp8 else ()
        projections = (self.up_proj,) if self.gate_proj is None else (self.gate_proj, self.up_proj)
        ups = [projection(rows, *sorted_by, codes) for projection in projections]
        scaled = inside and self.down_proj.bias is not None
        last = result = down(inner(*ups, *([probs] if inside else [])), *([probs] if scaled else []))
        if not inside:
            last = result = (result * probs[:, None]).to(rows.dtype)
        add_up = partial(Eager.unpermute, self.kernels) if self.options.deterministic else self.kernels.unpermute
        combined = add_up(result, token, tokens)
        if inside and down.active:
            last = combined
        # Hooks run in the order they are set, and down is recomputed from inner's output: inner comes first.
        inner.discard_after(last)
        down.discard_after(last)
        return combined

    def _down(self, sorted_by: tuple[Tensor, Tensor], product: Tensor, probs: Tensor | None = None) -> Tensor:
        out: Tensor = self.down_proj(product, *sorted_by, probs=probs)
        return out
