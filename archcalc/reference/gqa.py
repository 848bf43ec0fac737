"""Grouped-query attention. Legend: B sequences, N new rows, M key rows, W hidden size."""

from __future__ import annotations

import torch
from torch import Tensor

from archcalc.errors import InputError
from archcalc.reference.attention import Attention, AttentionCore, Pass
from archcalc.reference.cache import Features
from archcalc.reference.factory import Factory
from archcalc.reference.fields import Section
from archcalc.reference.norm_kinds import NormKind
from archcalc.reference.norms import Norm
from archcalc.reference.rope import Angles, Rope, own_rope, rope_of, rotate_first, rotate_unfused

GATES = ("elementwise", "per_head")


class GQA(Attention):
    """Grouped-query attention (arXiv:2305.13245); with as many key as query heads, multi-head attention.

    With a sliding window (Longformer, arXiv:2004.05150, section 3.1; causal as in Mistral 7B, arXiv:2310.06825,
    section 2) a query sees itself and the window - 1 rows before it. The output may be gated: feature by feature, with
    the gates of a head behind its queries in q_proj (Qwen3-Next), or head by head by a g_proj (Step-3.7).

    Args:
        section: the spec's attention section of kind `gqa`.
        hidden: W.
        norm: kind of the optional query and key norms.
    """

    def __init__(self, section: Section, hidden: int, norm: NormKind, softmax: float, make: Factory) -> None:
        super().__init__()
        self.heads = section.integer("num_attention_heads")
        self.kv_heads = section.integer("num_key_value_heads")
        self.head_dim = section.integer("head_dim")
        self.window = section.optional_integer("sliding_window")
        if self.window is not None and self.window < 1:
            raise InputError(f"{section.where}.sliding_window must be at least 1", value=self.window)
        bias, out_bias = section.flag("attention_bias"), section.flag("attention_out_bias")
        self.gate = section.choice("output_gate", *GATES) if section.has("output_gate") else None
        self.kernels = make.kernels
        self._turn = rotate_unfused if make.options.unfused_rope else rotate_first
        self._side_by_side = make.options.kernels == "fused" and self.gate is None and not section.has("qk_norm")
        widths = {"q": self.heads * self.head_dim, "k": self.kv_heads * self.head_dim}
        self.q_proj = make.linear(hidden, widths["q"] * (2 if self.gate == "elementwise" else 1), bias=bias)
        self.k_proj = make.linear(hidden, widths["k"], bias=bias)
        self.v_proj = make.linear(hidden, widths["k"], bias=bias)
        if self.gate == "per_head":
            self.g_proj = make.linear(hidden, self.heads)
        self.o_proj = make.linear(widths["q"], hidden, bias=out_bias)
        self.core = AttentionCore(make, window=self.window, copies=self._side_by_side)
        self.norm = section.choice("qk_norm", "per_head", "full") if section.has("qk_norm") else None
        if self.norm is not None:
            per_head = self.norm == "per_head"
            self.q_norm = Norm(norm, self.head_dim if per_head else widths["q"], make)
            self.k_norm = Norm(norm, self.head_dim if per_head else widths["k"], make)

    @classmethod
    def rotation(cls, section: Section, backbone: Section, device: torch.device) -> Rope | None:
        """By the section's own `rope_parameters` or the backbone's; of a head `rotary_dim` features, or all.

        Raises:
            InputError: more features than a head has.
        """
        dim = section.integer("rotary_dim", section.integer("head_dim"))
        if dim > section.integer("head_dim"):
            raise InputError(f"{section.where}.rotary_dim is more than head_dim", value=dim)
        if section.has("rope_parameters"):
            return own_rope(section, dim, device)
        return rope_of(backbone, dim, device)

    def cached(self) -> Features:
        """Features of one cached row: the rotated key and the value of every key/value head."""
        return {"key": (self.kv_heads, self.head_dim), "value": (self.kv_heads, self.head_dim)}

    def forward(self, x: Tensor, angles: Angles | None, now: Pass, slot: int) -> Tensor:
        """[B,N,W] -> [B,N,W]."""
        q, gate = self._queries(x)
        k: Tensor = self.k_proj(x)
        v: Tensor = self.v_proj(x)
        if self._side_by_side:  # views of one tensor, as Megatron-LM's linear_qkv writes them
            shape, widths = q.shape, (q[0, 0].numel(), k.shape[-1], v.shape[-1])
            q, k, v = torch.cat((q.flatten(2), k, v), dim=-1).split(widths, dim=-1)
            q = q.unflatten(-1, shape[2:])
        if self.norm == "full":
            q, k = self.q_norm(q.flatten(2)).view(q.shape), self.k_norm(k)
        k, v = (t.unflatten(-1, (self.kv_heads, self.head_dim)) for t in (k, v))
        if self.norm == "per_head":
            q, k = self.q_norm(q), self.k_norm(k)
        if angles is not None:
            q, k = self._turn(q, angles), self._turn(k, angles)
        if now.cache is not None:
            held = now.cache.extend(slot, {"key": k, "value": v})
            k, v = held["key"], held["value"]
        attended: Tensor = self.core(q, k, v, self.head_dim**-0.5)
        if gate is not None:
            attended = self.kernels.gate_output(attended, gate)
        out: Tensor = self.o_proj(attended.flatten(-2))
        return out

    def _queries(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """[B,N,W] -> queries [B,N,H,D], and the logits of the gate, [B,N,H,D or 1]."""
        q: Tensor = self.q_proj(x).unflatten(-1, (self.heads, -1))
        if self.gate == "elementwise":
            query, gate = q.chunk(2, dim=-1)
            if self.norm == "full":  # all heads at once: side by side, even where one head needs no copy for that
                query = query.clone(memory_format=torch.contiguous_format)
            return query, gate
        return q, self.g_proj(x)[..., None] if self.gate == "per_head" else None
