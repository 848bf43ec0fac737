"""The toy's twin: one class, from which the cross-check takes its parameters and what it keeps for backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from archcalc.reference.attention import Attention, AttentionCore, Pass
from archcalc.reference.factory import Factory
from archcalc.reference.fields import Section
from archcalc.reference.norm_kinds import NormKind
from archcalc.reference.rope import Angles, Rope


class Toy(Attention):
    """A window of keys and values, one latent that is key and value, and a scan behind a short convolution."""

    def __init__(self, section: Section, hidden: int, norm: NormKind, softmax: float, make: Factory) -> None:
        super().__init__()
        self.heads, self.head_dim = section.integer("num_attention_heads"), section.integer("head_dim")
        latent, shared = section.integer("latent"), section.integer("num_key_value_heads") * self.head_dim
        channels = self.heads * self.head_dim
        section.integer("stride")  # entries of a cache, not of a pass that keeps all rows
        self.q_proj, self.k_proj = make.linear(hidden, channels), make.linear(hidden, shared)
        self.v_proj, self.compress = make.linear(hidden, shared), make.linear(hidden, latent)
        self.sinks = nn.Parameter(torch.zeros(self.heads, **make.at))
        self.far_q = nn.Parameter(torch.empty(self.heads * latent, hidden, **make.at))
        self.scan_in = make.linear(hidden, channels)
        kernel = section.integer("conv_kernel")
        self.conv1d = nn.Conv1d(channels, channels, kernel, groups=channels, bias=False, **make.at)
        self.o_proj = make.linear(self.heads * (2 * self.head_dim + latent), hidden)
        self.core, self.far_core = AttentionCore(make, window=section.integer("window")), AttentionCore(make)

    @classmethod
    def rotation(cls, section: Section, backbone: Section, device: torch.device) -> Rope | None:
        return None

    def forward(self, x: Tensor, angles: Angles | None, now: Pass, slot: int) -> Tensor:
        q, k, v = (proj(x).unflatten(-1, (-1, self.head_dim)) for proj in (self.q_proj, self.k_proj, self.v_proj))
        near = self.core(q, k, v, self.head_dim**-0.5)
        entry = self.compress(x)[:, :, None]
        far_q = nn.functional.linear(x, self.far_q).unflatten(-1, (self.heads, -1))
        far = self.far_core(far_q, entry, entry, entry.shape[-1] ** -0.5)
        gates = x.new_empty(*x.shape[:2], self.heads, dtype=torch.float32)
        state = Keeps.apply(Keeps.apply(self.scan_in(x), self.conv1d.weight), gates).unflatten(-1, (self.heads, -1))
        out: Tensor = self.o_proj(torch.cat((near, far, state), dim=-1).flatten(-2))
        return out


class Keeps(torch.autograd.Function):
    """A fused kernel, of which only what it keeps is of interest: its input, and what it is given beside."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, beside: Tensor) -> Tensor:
        ctx.save_for_backward(x, beside)
        return x.clone()
