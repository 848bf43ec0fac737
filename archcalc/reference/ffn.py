"""The kinds of feed-forward layers: dense MLPs, and mixtures of routed and shared experts (DeepSeekMoE,
arXiv:2401.06066).

Legend: T tokens, E experts, K experts a token, F expert width, W hidden size, L width of a latent.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from archcalc.reference.activations import ACTIVATIONS, GLUS
from archcalc.reference.experts import Experts, Router
from archcalc.reference.factory import Factory
from archcalc.reference.fields import Section
from archcalc.reference.kernels.recompute import checkpointed
from archcalc.reference.mlp import MLP, dense
from archcalc.reference.norm_kinds import NormKind
from archcalc.reference.norms import Norm


class SteeringBias(nn.Module):
    """The bias of the router's choice as a parameter without a gradient, fp32 (transformers,
    models/ernie4_5_moe/modeling_ernie4_5_moe.py, `Ernie4_5_MoeStatics`; its checkpoint has it beside the router)."""

    def __init__(self, experts: int, make: Factory) -> None:
        super().__init__()
        bias = torch.zeros(1, experts, device=make.device)
        self.e_score_correction_bias = nn.Parameter(bias, requires_grad=False)


class MoE(nn.Module):
    """Routed experts plus, if the spec has them, shared ones that see every token (one MLP of their joint
    width). The region `moe` is all of it, router and shared experts too.

    The routed ones may work on a latent (Kimi K3, modeling_kimi_linear.py, `KimiSparseMoeBlock`): down once a token,
    and up once a token what they add up to, behind a norm. The shared ones may have a gate, one logit a token
    (transformers, models/qwen2_moe/modeling_qwen2_moe.py); the region `shared_experts` holds it.
    """

    def __init__(self, section: Section, hidden: int, norm: NormKind, make: Factory) -> None:
        super().__init__()
        self.recompute, self.recompute_shared = make.recomputes("moe"), make.recomputes("shared_experts")
        self.gate = Router(section, hidden, make)
        self.moe_statics = SteeringBias(self.gate.experts, make) if self.gate.steered_from_outside else None
        latent, normed = section.optional_integer("routed_expert_hidden_size"), section.flag("latent_moe_use_norm")
        self.experts = Experts(section, self.gate.experts, latent or hidden, make)
        self.routed_expert_down_proj = make.linear(hidden, latent) if latent else None
        self.routed_expert_norm = Norm(norm, latent, make) if latent and normed else None
        self.routed_expert_up_proj = make.linear(latent, hidden) if latent else None
        self._add_shared(section, hidden, make)

    def _add_shared(self, section: Section, hidden: int, make: Factory) -> None:
        number, width = section.integer("n_shared_experts", 0), section.integer("moe_intermediate_size")
        joint = section.optional_integer("shared_expert_intermediate_size") or number * width
        gated, gate = section.flag("gated", default=True), section.flag("shared_expert_gate")
        act = section.choice("hidden_act", *(GLUS if gated else ACTIVATIONS))
        self.shared_name = section.choice("shared_name", "shared_experts", "shared_expert", default="shared_experts")
        shared = MLP(hidden, joint, act, make, gated=gated, region="shared_experts") if number else None
        self.has_shared = shared is not None
        self.add_module(self.shared_name, shared)
        self.shared_expert_gate = make.linear(hidden, 1) if number and gate else None

    def forward(self, x: Tensor) -> Tensor:
        """[..., W] -> [..., W]."""
        return checkpointed(self.recompute, self._all, x)

    def _all(self, x: Tensor) -> Tensor:
        out = self._routed(x.flatten(0, -2)).view(x.shape)
        if not self.has_shared:
            return out
        return out + checkpointed(self.recompute_shared, self._shared, x)

    def _routed(self, x: Tensor) -> Tensor:
        """[T,W] -> [T,W]."""
        correction = None if self.moe_statics is None else self.moe_statics.e_score_correction_bias[0]
        weights, experts = self.gate(x, correction)
        rows = x if self.routed_expert_down_proj is None else self.routed_expert_down_proj(x)
        out: Tensor = self.experts(rows, weights, experts)
        if self.routed_expert_norm is not None:
            out = self.routed_expert_norm(out)
        return out if self.routed_expert_up_proj is None else self.routed_expert_up_proj(out)

    def _shared(self, x: Tensor) -> Tensor:
        out: Tensor = self.get_submodule(self.shared_name)(x)
        return out if self.shared_expert_gate is None else torch.sigmoid(self.shared_expert_gate(x)) * out


FFNS = {"dense": dense, "moe": MoE}
"""Kind -> what makes it."""
