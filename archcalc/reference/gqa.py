"""Grouped-query attention. Legend: B sequences, N new rows, M key rows, W hidden size."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from archcalc.errors import InputError
from archcalc.reference.attention import Attention, AttentionCore, Pass, window_mask, windows
from archcalc.reference.cache import Features
from archcalc.reference.factory import Factory
from archcalc.reference.fields import Section
from archcalc.reference.norm_kinds import NormKind
from archcalc.reference.norms import make_norm
from archcalc.reference.rope import Angles, Rope, own_rope, rope_of, rotate_halves


class GQA(Attention):
    """Grouped-query attention (arXiv:2305.13245); with as many key as query heads, multi-head attention.

    With a sliding window (Longformer, arXiv:2004.05150, section 3.1; causal as in Mistral 7B, arXiv:2310.06825,
    section 2) a query sees itself and the window - 1 rows before it, and is multiplied with no others.

    Args:
        section: the spec's attention section of kind `gqa`.
        hidden: W.
        norm: kind of the optional query and key norms.
    """

    def __init__(self, section: Section, hidden: int, norm: NormKind, softmax: float, at: Factory) -> None:
        super().__init__()
        self.heads = section.integer("num_attention_heads")
        self.kv_heads = section.integer("num_key_value_heads")
        self.head_dim = section.integer("head_dim")
        self.window = section.optional_integer("sliding_window")
        if self.window is not None and self.window < 1:
            raise InputError(f"{section.where}.sliding_window must be at least 1", value=self.window)
        bias, out_bias = section.flag("attention_bias"), section.flag("attention_out_bias")
        widths = {"q": self.heads * self.head_dim, "k": self.kv_heads * self.head_dim}
        self.q_proj = nn.Linear(hidden, widths["q"], bias=bias, **at)
        self.k_proj = nn.Linear(hidden, widths["k"], bias=bias, **at)
        self.v_proj = nn.Linear(hidden, widths["k"], bias=bias, **at)
        self.o_proj = nn.Linear(widths["q"], hidden, bias=out_bias, **at)
        self.core = AttentionCore(self.window)
        self.norm = section.choice("qk_norm", "per_head", "full") if section.has("qk_norm") else None
        if self.norm is not None:
            per_head = self.norm == "per_head"
            self.q_norm = make_norm(norm, self.head_dim if per_head else widths["q"], at)
            self.k_norm = make_norm(norm, self.head_dim if per_head else widths["k"], at)

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
        out: Tensor = self.o_proj(self._attend(q, k, v, now).flatten(-2))
        return out

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, now: Pass) -> Tensor:
        rows, scale = q.shape[1], self.head_dim**-0.5
        if self.window is None or now.cached + rows <= self.window:
            out: Tensor = self.core(q, k, v, scale, now.mask)
            return out
        k, v = (windows(t, rows, self.window) for t in (k, v))
        out = self.core(q, k, v, scale, window_mask(rows, now.cached, self.window, q))
        return out
