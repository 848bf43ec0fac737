"""Linear attention by the gated delta rule: Gated DeltaNet (arXiv:2412.06464) and Kimi Delta Attention
(arXiv:2510.26692), from transformers' models/qwen3_next, models/qwen3_5 and models/kimi_linear.

Legend: B sequences, N new rows, G key heads, H value heads, D features of a key, V of a value, C channels of a
convolution, K its taps, W hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from archcalc.errors import InputError
from archcalc.reference.activations import ACTIVATIONS
from archcalc.reference.attention import Attention, Pass
from archcalc.reference.cache import Cache, Features, State
from archcalc.reference.factory import Factory
from archcalc.reference.fields import Section
from archcalc.reference.flopcount import Product
from archcalc.reference.kernels import delta as rule
from archcalc.reference.norm_kinds import NormKind
from archcalc.reference.rope import Angles, Rope


class ShortConv(Product):
    """A causal convolution of each channel on its own, and an activation."""

    def __init__(self, channels: int, taps: int, act: str, make: Factory) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1, taps, **make.at))
        self.act, self.kernels = ACTIVATIONS[act], make.kernels
        nn.init.uniform_(self.weight, -(taps**-0.5), taps**-0.5)

    @property
    def state(self) -> State:
        """The last K rows of what goes in."""
        return State((self.weight.shape[-1], len(self.weight)), self.weight.dtype)

    def forward(self, x: Tensor, held: Tensor | None) -> Tensor:
        """[B,N,C] behind the held rows [B,K,C] -> [B,N,C]."""
        return self.kernels.short_conv(x, held, self.weight, self.act)


class GatedNorm(nn.Module):
    """A norm over a head's features times a gate's activation, with the epsilon of the layers' norms."""

    def __init__(self, features: int, eps: float, make: Factory, *, sigmoid: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features, **make.at))
        self.eps, self.sigmoid, self.kernels = eps, sigmoid, make.kernels

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        """Both [B,N,H,V] -> the same."""
        return self.kernels.gated_norm(x, gate, self.weight, self.eps, sigmoid=self.sigmoid)


class DeltaCore(Product):
    """The recurrence. It has no weights, only FLOPs.

    Args:
        per_feature: whether each feature of a key has a decay of its own, as in KDA, whose kernel makes decays itself
            where it can.
    """

    def __init__(self, make: Factory, *, per_feature: bool) -> None:
        super().__init__()
        self.counted = make.options.core == "counted"
        self.in_kernel = per_feature and make.options.kernels == "fused"
        self.matrices, self.keeps_decay = (2, True) if per_feature else (1, False)
        self.kernels = make.kernels

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, beta: Tensor, decay: tuple[Tensor, ...], state: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """q and k [B,N,G,D], v [B,N,H,V], beta [B,N,H], decay (raw, A_log, dt_bias), state [B,H,D,V] -> [B,N,H,V], and
        the last state where there was one."""
        if not self.in_kernel:
            decay = (self.kernels.decays(*decay),)
        if not self.counted and state is None:
            return rule.chunked(q, k, v, beta, decay, matrices=self.matrices, keeps_decay=self.keeps_decay), None
        given = decay[0] if len(decay) == 1 else rule.decays(*decay)
        out, last = rule.recurrence(rule.units(q)[0], rule.units(k)[0], v, beta, given, state)
        return out.to(v.dtype), last


class Delta(Attention):
    """What both kinds have: a core, and states in the place of cached rows."""

    core: DeltaCore
    A_log: nn.Parameter
    dt_bias: nn.Parameter

    def __init__(self, heads: int, key_dim: int, value_dim: int) -> None:
        super().__init__()
        self.sizes = (heads, key_dim, value_dim)

    @classmethod
    def rotation(cls, section: Section, backbone: Section, device: torch.device) -> Rope | None:
        """Nothing turns: the recurrence knows the order."""
        return None

    def cached(self) -> Features:
        """No rows."""
        return {}

    def states(self) -> dict[str, State]:
        """The recurrence's own in fp32, and the last inputs of each convolution."""
        convs = {name: part.state for name, part in self.named_children() if isinstance(part, ShortConv)}
        return {"recurrence": State(self.sizes, torch.float32), **convs}

    def _convolved(self, x: Tensor, name: str, cache: Cache | None, slot: int) -> Tensor:
        conv = self.get_submodule(name)
        if cache is None:
            out: Tensor = conv(x, None)
            return out
        held = cache.states(slot)[name]
        before = held.to(x.dtype, copy=True)
        held.copy_(torch.cat((before, x), dim=1)[:, -held.shape[1] :])
        out = conv(x, before)
        return out

    def _mixed(self, q: Tensor, k: Tensor, v: Tensor, b: Tensor, raw: Tensor, cache: Cache | None, slot: int) -> Tensor:
        state = None if cache is None else cache.states(slot)["recurrence"]
        out, last = self.core(q, k, v, b.sigmoid(), (raw, self.A_log, self.dt_bias), state)
        if state is not None:
            state.copy_(last)
        mixed: Tensor = out
        return mixed

    def _add_gates(self, a_log: int, dt_bias: int, make: Factory) -> None:
        self.A_log = nn.Parameter(torch.zeros(a_log, **make.at))
        self.dt_bias = nn.Parameter(torch.ones(dt_bias, **make.at))


class GatedDeltaNet(Delta):
    """Qwen3-Next's layer with its two projections, or Qwen3.5's with four; H a multiple of G."""

    def __init__(self, section: Section, hidden: int, norm: NormKind, softmax: float, make: Factory) -> None:
        self.key_heads, heads = section.integer("linear_num_key_heads"), section.integer("linear_num_value_heads")
        key_dim, value_dim = section.integer("linear_key_head_dim"), section.integer("linear_value_head_dim")
        super().__init__(heads, key_dim, value_dim)
        if heads % self.key_heads:
            raise InputError(f"{section.where}: {self.key_heads} key heads don't divide {heads} value heads")
        keys, values = self.key_heads * key_dim, heads * value_dim
        self.fused = section.choice("in_proj", "fused", "split") == "fused"
        taps, act = section.integer("linear_conv_kernel_dim"), section.choice("hidden_act", *ACTIVATIONS)
        self.conv1d = ShortConv(2 * keys + values, taps, act, make)
        if self.fused:
            self.in_proj_qkvz = make.linear(hidden, 2 * keys + 2 * values)
            self.in_proj_ba = make.linear(hidden, 2 * heads)
        else:
            self.in_proj_qkv, self.in_proj_z = make.linear(hidden, 2 * keys + values), make.linear(hidden, values)
            self.in_proj_b, self.in_proj_a = make.linear(hidden, heads), make.linear(hidden, heads)
        self._add_gates(heads, heads, make)
        self.core = DeltaCore(make, per_feature=False)
        self.norm = GatedNorm(value_dim, norm.eps, make, sigmoid=False)
        self.out_proj = make.linear(values, hidden)

    def forward(self, x: Tensor, angles: Angles | None, now: Pass, slot: int) -> Tensor:
        """[B,N,W] -> [B,N,W]."""
        heads, key_dim, value_dim = self.sizes
        mixed, z, b, a = self._grouped(x) if self.fused else self._apart(x)
        mixed = self._convolved(mixed, "conv1d", now.cache, slot)
        keys = self.key_heads * key_dim
        q, k, v = mixed.split((keys, keys, heads * value_dim), dim=-1)
        q, k = (t.unflatten(-1, (self.key_heads, key_dim)) for t in (q, k))
        attended = self._mixed(q, k, _own(v).unflatten(-1, (heads, value_dim)), b, a, now.cache, slot)
        out: Tensor = self.out_proj(self.norm(attended, z).flatten(-2))
        return out

    def _grouped(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Each key head's query, key, values and gates stand next to each other; its b and a too."""
        heads, key_dim, value_dim = self.sizes
        shared = heads // self.key_heads
        widths = (key_dim, key_dim, shared * value_dim, shared * value_dim)
        *qkv, z = self.in_proj_qkvz(x).unflatten(-1, (self.key_heads, -1)).split(widths, dim=-1)
        b, a = self.in_proj_ba(x).unflatten(-1, (self.key_heads, -1)).split(shared, dim=-1)
        mixed = torch.cat([part.flatten(-2) for part in qkv], dim=-1)
        return mixed, _own(z).view(*x.shape[:2], heads, value_dim), b.flatten(-2), _own(a).flatten(-2)

    def _apart(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        z = self.in_proj_z(x).unflatten(-1, (self.sizes[0], self.sizes[2]))
        return self.in_proj_qkv(x), z, self.in_proj_b(x), self.in_proj_a(x)


class KDA(Delta):
    """Kimi Delta Attention under the names of Kimi-Linear's checkpoint: as many key as value heads, V = D."""

    def __init__(self, section: Section, hidden: int, norm: NormKind, softmax: float, make: Factory) -> None:
        heads, dim, a_log = section.integer("num_heads"), section.integer("head_dim"), section.integer("a_log_size")
        super().__init__(heads, dim, dim)
        if a_log not in (heads, dim):
            raise InputError(f"{section.where}.a_log_size is {a_log}, not {heads} heads or {dim} features")
        wide, taps = heads * dim, section.integer("short_conv_kernel_size")
        for name in "qkv":
            self.add_module(f"{name}_proj", make.linear(hidden, wide))
            self.add_module(f"{name}_conv1d", ShortConv(wide, taps, "silu", make))
        self.f_a_proj, self.f_b_proj = make.linear(hidden, dim), make.linear(dim, wide)
        self.b_proj = make.linear(hidden, heads)
        self.full_gate = section.flag("use_full_rank_gate")
        if self.full_gate:
            self.g_proj = make.linear(hidden, wide)
        else:
            self.g_a_proj, self.g_b_proj = make.linear(hidden, dim), make.linear(dim, wide)
        self._add_gates(a_log, wide, make)
        self.core = DeltaCore(make, per_feature=True)
        self.o_norm = GatedNorm(dim, norm.eps, make, sigmoid=True)
        self.o_proj = make.linear(wide, hidden)

    def forward(self, x: Tensor, angles: Angles | None, now: Pass, slot: int) -> Tensor:
        """[B,N,W] -> [B,N,W]."""
        heads, dim, _ = self.sizes

        def made(name: str) -> Tensor:
            projected = self.get_submodule(f"{name}_proj")(x)
            return self._convolved(projected, f"{name}_conv1d", now.cache, slot).unflatten(-1, (heads, dim))

        q, k, v = (made(name) for name in "qkv")
        raw = self.f_b_proj(self.f_a_proj(x)).unflatten(-1, (heads, dim))
        attended = self._mixed(q, k, v.contiguous(), self.b_proj(x), raw, now.cache, slot)
        gate = self.g_proj(x) if self.full_gate else self.g_b_proj(self.g_a_proj(x))
        out: Tensor = self.o_proj(self.o_norm(attended, gate.unflatten(-1, (heads, dim))).flatten(-2))
        return out


def _own(part: Tensor) -> Tensor:
    """A slice in a storage of its own, so that the rest is not kept with it."""
    return part.clone(memory_format=torch.contiguous_format)
