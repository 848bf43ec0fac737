"""Attention cores and grouped-query attention.

Scores are explicit matrix products: fused kernels choose paths by device and head size, and some count no
FLOPs. Legend: B sequences, N new rows, M key rows, H query heads, G key/value heads, D features of a head,
W hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from archcalc.reference.cache import Cache, Features
from archcalc.reference.factory import Factory
from archcalc.reference.fields import Section
from archcalc.reference.norms import RMSNorm
from archcalc.reference.rope import Angles, rotate_halves


class AttentionCore(nn.Module):
    """softmax(q k^T * scale + mask) v (arXiv:1706.03762, equation 1). It has no weights, only FLOPs."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Tensor:
        """q [B,N,H,D], k [B,M,G,D], v [B,M,G,Dv], mask [N,M] or None -> [B,N,H,Dv]."""
        batch, rows, heads, features = q.shape
        keys, groups = k.shape[1], k.shape[2]
        shared = heads // groups  # query heads that share one key head
        q_BGRD = q.view(batch, rows, groups, shared, features).permute(0, 2, 3, 1, 4)
        q_BGRD = q_BGRD.reshape(batch, groups, shared * rows, features)
        scores = torch.matmul(q_BGRD, k.permute(0, 2, 3, 1)) * scale
        scores = scores.view(batch, groups, shared, rows, keys)
        if mask is not None:
            scores = scores + mask
        probs = scores.float().softmax(-1).to(v.dtype).view(batch, groups, shared * rows, keys)
        out = torch.matmul(probs, v.permute(0, 2, 1, 3)).view(batch, heads, rows, v.shape[-1])
        return out.transpose(1, 2)


def causal_mask(rows: int, cached: int, like: Tensor) -> Tensor:
    """Additive [rows, cached + rows]: row i sees the cached rows and rows 0..i of its own."""
    return like.new_full((rows, cached + rows), float("-inf")).triu(cached + 1)


class GQA(nn.Module):
    """Grouped-query attention (arXiv:2305.13245); with as many key as query heads, multi-head attention.

    Args:
        section: the spec's attention section of kind `gqa`.
        hidden: W.
        eps: epsilon of the optional query and key norms.
    """

    def __init__(self, section: Section, hidden: int, eps: float, softmax: float, at: Factory) -> None:
        super().__init__()
        self.heads = section.integer("num_attention_heads")
        self.kv_heads = section.integer("num_key_value_heads")
        self.head_dim = section.integer("head_dim")
        bias, out_bias = section.flag("attention_bias"), section.flag("attention_out_bias")
        widths = {"q": self.heads * self.head_dim, "k": self.kv_heads * self.head_dim}
        self.q_proj = nn.Linear(hidden, widths["q"], bias=bias, **at)
        self.k_proj = nn.Linear(hidden, widths["k"], bias=bias, **at)
        self.v_proj = nn.Linear(hidden, widths["k"], bias=bias, **at)
        self.o_proj = nn.Linear(widths["q"], hidden, bias=out_bias, **at)
        self.core = AttentionCore()
        self.norm = section.choice("qk_norm", "per_head", "full") if section.has("qk_norm") else None
        if self.norm is not None:
            per_head = self.norm == "per_head"
            self.q_norm = RMSNorm(self.head_dim if per_head else widths["q"], eps, **at)
            self.k_norm = RMSNorm(self.head_dim if per_head else widths["k"], eps, **at)

    def cached(self) -> Features:
        """Features of one cached row: the rotated key and the value of every key/value head."""
        return {"key": (self.kv_heads, self.head_dim), "value": (self.kv_heads, self.head_dim)}

    def forward(
        self, x: Tensor, angles: Angles, mask: Tensor, cache: Cache | None, layer: int, absorbed: bool
    ) -> Tensor:
        """[B,N,W] -> [B,N,W]. `absorbed` is MLA's and changes nothing here."""
        q: Tensor = self.q_proj(x)
        k: Tensor = self.k_proj(x)
        v: Tensor = self.v_proj(x)
        if self.norm == "full":
            q, k = self.q_norm(q), self.k_norm(k)
        q = q.unflatten(-1, (self.heads, self.head_dim))
        k, v = (t.unflatten(-1, (self.kv_heads, self.head_dim)) for t in (k, v))
        if self.norm == "per_head":
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = rotate_halves(q, angles), rotate_halves(k, angles)
        if cache is not None:
            held = cache.extend(layer, {"key": k, "value": v})
            k, v = held["key"], held["value"]
        out: Tensor = self.o_proj(self.core(q, k, v, self.head_dim**-0.5, mask).flatten(-2))
        return out
