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
from archcalc.reference.rope import Angles, Rope, own_rope, rope_of, rotate_halves


class GQA(Attention):
    """Grouped-query attention (arXiv:2305.13245); with as many key as query heads, multi-head attention.

    With a sliding window (Longformer, arXiv:2004.05150, section 3.1; causal as in Mistral 7B, arXiv:2310.06825,
    section 2) a query sees itself and the window - 1 rows before it.

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
        widths = {"q": self.heads * self.head_dim, "k": self.kv_heads * self.head_dim}
        self.q_proj = make.linear(hidden, widths["q"], bias=bias)
        self.k_proj = make.linear(hidden, widths["k"], bias=bias)
        self.v_proj = make.linear(hidden, widths["k"], bias=bias)
        self.o_proj = make.linear(widths["q"], hidden, bias=out_bias)
        self.core = AttentionCore(make, window=self.window)
        self.norm = section.choice("qk_norm", "per_head", "full") if section.has("qk_norm") else None
        if self.norm is not None:
            per_head = self.norm == "per_head"
            self.q_norm = Norm(norm, self.head_dim if per_head else widths["q"], make)
            self.k_norm = Norm(norm, self.head_dim if per_head else widths["k"], make)

    @classmethod
    def rotation(cls, section: Section, backbone: Section, device: torch.device) -> Rope | None:
        """All features of a head turn, by the section's own `rope_parameters` or the backbone's."""
        dim = section.integer("head_dim")
        if section.has("rope_parameters"):
            return own_rope(section, dim, device)
        return rope_of(backbone, dim, device)

    def cached(self) -> Features:
        """Features of one cached row: the rotated key and the value of every key/value head."""
        return {"key": (self.kv_heads, self.head_dim), "value": (self.kv_heads, self.head_dim)}

    def forward(self, x: Tensor, angles: Angles | None, now: Pass, slot: int) -> Tensor:
        """[B,N,W] -> [B,N,W]."""
        q: Tensor = self.q_proj(x)
        k: Tensor = self.k_proj(x)
        v: Tensor = self.v_proj(x)
        if self.norm == "full":
            q, k = self.q_norm(q), self.k_norm(k)
        q = q.unflatten(-1, (self.heads, self.head_dim))
        k, v = (t.unflatten(-1, (self.kv_heads, self.head_dim)) for t in (k, v))
        if self.norm == "per_head":
            q, k = self.q_norm(q), self.k_norm(k)
        if angles is not None:
            q, k = rotate_halves(q, angles), rotate_halves(k, angles)
        if now.cache is not None:
            held = now.cache.extend(slot, {"key": k, "value": v})
            k, v = held["key"], held["value"]
        attended: Tensor = self.core(q, k, v, self.head_dim**-0.5)
        out: Tensor = self.o_proj(attended.flatten(-2))
        return out
