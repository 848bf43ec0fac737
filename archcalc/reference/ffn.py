"""Feed-forward layers: dense MLPs and mixtures of experts (DeepSeekMoE, arXiv:2401.06066; V3's router,
arXiv:2412.19437, section 2.1.2).

Legend: T tokens, R routed rows = T * K, E experts, K experts a token, F expert width, W hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor, nn

from archcalc.errors import InputError
from archcalc.reference.factory import Factory
from archcalc.reference.fields import Section

ACTIVATIONS = ("silu", "gelu", "gelu_pytorch_tanh")


def activation(name: str) -> nn.Module:
    """The named activation; `gelu` is the exact one (erf)."""
    if name == "silu":
        return nn.SiLU()
    return nn.GELU(approximate="tanh" if name == "gelu_pytorch_tanh" else "none")


class MLP(nn.Module):
    """down(act(gate x) * up x) when gated (SwiGLU, arXiv:2002.05202), else down(act(up x))."""

    def __init__(
        self,
        hidden: int,
        width: int,
        act: str,
        at: Factory,
        *,
        gated: bool = True,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.gated = gated
        if gated:
            self.gate_proj = nn.Linear(hidden, width, bias=bias, **at)
        self.up_proj = nn.Linear(hidden, width, bias=bias, **at)
        self.down_proj = nn.Linear(width, hidden, bias=bias, **at)
        self.act = activation(act)

    def forward(self, x: Tensor) -> Tensor:
        """[..., W] -> [..., W]."""
        up: Tensor = self.up_proj(x)
        inner: Tensor = self.act(self.gate_proj(x)) * up if self.gated else self.act(up)
        out: Tensor = self.down_proj(inner)
        return out


def dense(section: Section, hidden: int, at: Factory) -> MLP:
    """The MLP of a spec section of kind `dense`."""
    width, act = section.integer("intermediate_size"), section.choice("hidden_act", *ACTIVATIONS)
    gated, bias = section.flag("gated"), section.flag("mlp_bias")
    return MLP(hidden, width, act, at, gated=gated, bias=bias)


class Router(nn.Module):
    """Scores all experts in fp32 and picks K of them for each token.

    With `noaux_tc` a bias, which no gradient trains, takes part in the choice but not in the weight: a
    buffer, fp32. Groups: noaux_tc ranks a group by its two best experts, group_limited_greedy (DeepSeek-V2)
    by its best.

    Raises:
        InputError: groups of one expert that are ranked by their two best.
    """

    e_score_correction_bias: Tensor | None

    def __init__(self, section: Section, hidden: int, at: Factory) -> None:
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
        self.weight = nn.Parameter(torch.empty(self.experts, hidden, **at))
        nn.init.normal_(self.weight, std=0.02)
        bias = torch.zeros(self.experts, device=at["device"]) if self.method == "noaux_tc" else None
        self.register_buffer("e_score_correction_bias", bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[T,W] -> weights [T,K] fp32 and expert numbers [T,K]."""
        logits = nn.functional.linear(x.float(), self.weight.float())
        scores = logits.sigmoid() if self.sigmoid else logits.softmax(-1)
        choice = scores if self.e_score_correction_bias is None else scores + self.e_score_correction_bias
        if self.method != "greedy" and self.groups > 1:
            choice = self._within_best_groups(choice)
        experts = choice.topk(self.chosen, dim=-1).indices
        weights = scores.gather(-1, experts)
        if self.normalise:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return weights * self.factor, experts

    def _within_best_groups(self, choice: Tensor) -> Tensor:
        grouped = choice.unflatten(-1, (self.groups, -1))
        best = 2 if self.method == "noaux_tc" else 1
        rank = grouped.topk(best, dim=-1).values.sum(-1)
        outside = torch.ones_like(rank, dtype=torch.bool)
        outside = outside.scatter(-1, rank.topk(self.chosen_groups, dim=-1).indices, False)
        return grouped.masked_fill(outside[..., None], float("-inf")).flatten(-2)


class StackedLinear(nn.Module):
    """One matrix of every expert, stacked: weight [E, out, in]; a checkpoint stores each expert's apart."""

    def __init__(self, experts: int, inner: int, outer: int, at: Factory) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts, outer, inner, **at))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, rows: Tensor, counts: Sequence[int]) -> Tensor:
        """Rows sorted by expert [R, in] -> [R, out]; expert e has the next counts[e] rows.

        Neighbours with equal counts share one batched product, so torch counts exactly 2*R*in*out FLOPs by
        its own rule for `bmm`: nothing has to be registered, as it would for `_grouped_mm`, which torch
        counts as zero.
        """
        blocks = list(runs(counts))
        row_blocks = rows.split([number * each for number, each in blocks])
        matrices = self.weight.split([number for number, _ in blocks])
        pieces = [
            torch.bmm(block.view(number, each, -1), matrix.transpose(1, 2)).flatten(0, 1)
            for (number, each), block, matrix in zip(blocks, row_blocks, matrices, strict=True)
            if each
        ]
        return torch.cat(pieces)


def runs(values: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(how many, value) for each run of equal neighbours."""
    return ((len(list(same)), value) for value, same in groupby(values))


def balanced(rows: int, experts: int) -> list[int]:
    """Rows of each expert when no two differ by more than one; they add up to `rows`."""
    each, extra = divmod(rows, experts)
    return [each + 1] * extra + [each] * (experts - extra)


class Experts(nn.Module):
    """The routed experts: gather rows by expert, run the gated MLPs, scatter back with the router's
    weights."""

    def __init__(self, experts: int, hidden: int, width: int, act: str, at: Factory) -> None:
        super().__init__()
        self.number = experts
        self.gate_proj = StackedLinear(experts, hidden, width, at)
        self.up_proj = StackedLinear(experts, hidden, width, at)
        self.down_proj = StackedLinear(experts, width, hidden, at)
        self.act = activation(act)

    def forward(self, x: Tensor, weights: Tensor, experts: Tensor) -> Tensor:
        """x [T,W], weights and expert numbers [T,K] -> [T,W]. Without data (meta) the load is balanced."""
        flat = experts.flatten()
        if flat.is_meta:
            counts = balanced(flat.numel(), self.number)
        else:
            counts = torch.bincount(flat, minlength=self.number).tolist()
        order = flat.argsort(stable=True)
        token = torch.arange(len(x), device=x.device).repeat_interleave(experts.shape[-1])[order]
        rows = x[token]
        inner = self.act(self.gate_proj(rows, counts)) * self.up_proj(rows, counts)
        out = self.down_proj(inner, counts) * weights.flatten()[order][:, None].to(x.dtype)
        return torch.zeros_like(x).index_add(0, token, out)


class MoE(nn.Module):
    """Routed experts plus, if the spec has them, shared ones that see every token (one MLP of their joint
    width)."""

    def __init__(self, section: Section, hidden: int, at: Factory) -> None:
        super().__init__()
        width, act = section.integer("moe_intermediate_size"), section.choice("hidden_act", *ACTIVATIONS)
        self.gate = Router(section, hidden, at)
        self.experts = Experts(self.gate.experts, hidden, width, act, at)
        shared = section.integer("n_shared_experts", 0)
        self.shared_experts = MLP(hidden, shared * width, act, at) if shared else None

    def forward(self, x: Tensor) -> Tensor:
        """[..., W] -> [..., W]."""
        flat = x.flatten(0, -2)
        weights, experts = self.gate(flat)
        out: Tensor = self.experts(flat, weights, experts).view(x.shape)
        return out if self.shared_experts is None else out + self.shared_experts(x)
