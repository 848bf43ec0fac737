"""Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1), expanded and absorbed.

Legend: B sequences, N new rows, M key rows, H heads, C latent rank (kv_lora_rank), D no-position features of
a head, R rotated features, V value features, W hidden size.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from archcalc.reference.attention import AttentionCore
from archcalc.reference.cache import Cache, Features
from archcalc.reference.factory import Factory
from archcalc.reference.fields import Section
from archcalc.reference.norms import RMSNorm
from archcalc.reference.rope import Angles, rotate_pairs

LATENT_NORM_EPS = 1e-6
"""Public modeling code builds both latent norms with RMSNorm's default epsilon, whatever `rms_norm_eps`
says."""


class LatentUp(nn.Linear):
    """kv_b_proj: one weight of [H*(D+V), C], applied to latents, or absorbed into the queries head by head."""

    def __init__(self, heads: int, nope: int, value: int, rank: int, at: Factory) -> None:
        super().__init__(rank, heads * (nope + value), bias=False, **at)
        self.sizes = (nope, value)
        self.heads = heads

    def forward(self, x: Tensor, use: Literal["expand", "query", "value"] = "expand") -> Tensor:
        """Three uses of the one weight.

        expand: latents [B,M,C] -> keys and values [B,M,H,D+V].
        query: q [B,N,H,D] -> [B,N,H,C], and value: attended latents [B,N,H,C] -> [B,N,H,V]: the absorbed form,
        with W_k and W_v as views. As batched products: over a size of 1 `einsum` multiplies elementwise, which counts
        no FLOPs.
        """
        if use == "expand":
            return super().forward(x).unflatten(-1, (self.heads, sum(self.sizes)))
        w_key, w_value = self.weight.view(self.heads, sum(self.sizes), -1).split(self.sizes, dim=1)
        matrices = w_key if use == "query" else w_value.transpose(1, 2)
        return torch.bmm(x.flatten(0, 1).transpose(0, 1), matrices).transpose(0, 1).unflatten(0, x.shape[:2])


class MLA(nn.Module):
    """One layer's latent attention. The cache holds the normalised latent and the one rotated key of all heads.

    Args:
        section: the spec's attention section of kind `mla`.
        hidden: W.
        softmax: factor on the scores' scale from the rope scaling (YaRN's mscale_all_dim, squared).
    """

    def __init__(self, section: Section, hidden: int, eps: float, softmax: float, at: Factory) -> None:
        super().__init__()
        self.heads = section.integer("num_attention_heads")
        self.rank = section.integer("kv_lora_rank")
        self.nope, self.rope = section.integer("qk_nope_head_dim"), section.integer("qk_rope_head_dim")
        value, q_rank = section.integer("v_head_dim"), section.optional_integer("q_lora_rank")
        bias = section.flag("attention_bias")
        queries = self.heads * (self.nope + self.rope)
        if q_rank is None:
            self.q_proj = nn.Linear(hidden, queries, bias=False, **at)
        else:
            self.q_a_proj = nn.Linear(hidden, q_rank, bias=bias, **at)
            self.q_a_layernorm = RMSNorm(q_rank, LATENT_NORM_EPS, **at)
            self.q_b_proj = nn.Linear(q_rank, queries, bias=False, **at)
        self.has_q_latent = q_rank is not None
        self.kv_a_proj_with_mqa = nn.Linear(hidden, self.rank + self.rope, bias=bias, **at)
        self.kv_a_layernorm = RMSNorm(self.rank, LATENT_NORM_EPS, **at)
        self.kv_b_proj = LatentUp(self.heads, self.nope, value, self.rank, at)
        self.o_proj = nn.Linear(self.heads * value, hidden, bias=bias, **at)
        self.core = AttentionCore()
        self.scale = (self.nope + self.rope) ** -0.5 * softmax

    def cached(self) -> Features:
        """Features of one cached row, the same for all heads."""
        return {"latent": (self.rank,), "rope_key": (self.rope,)}

    def forward(
        self, x: Tensor, angles: Angles, mask: Tensor, cache: Cache | None, layer: int, absorbed: bool
    ) -> Tensor:
        """[B,N,W] -> [B,N,W]."""
        q_nope, q_rope = self._queries(x).split((self.nope, self.rope), dim=-1)
        q_rope = rotate_pairs(q_rope, angles)
        latent, rope_key = self.kv_a_proj_with_mqa(x).split((self.rank, self.rope), dim=-1)
        latent = self.kv_a_layernorm(latent)
        rope_key = rotate_pairs(rope_key[:, :, None], angles)[:, :, 0]
        if cache is not None:
            held = cache.extend(layer, {"latent": latent, "rope_key": rope_key})
            latent, rope_key = held["latent"], held["rope_key"]
        attend = self._absorbed if absorbed else self._expanded
        out: Tensor = self.o_proj(attend(q_nope, q_rope, latent, rope_key[:, :, None], mask).flatten(-2))
        return out

    def _queries(self, x: Tensor) -> Tensor:
        q: Tensor = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x))) if self.has_q_latent else self.q_proj(x)
        return q.unflatten(-1, (self.heads, self.nope + self.rope))

    def _expanded(self, q_nope: Tensor, q_rope: Tensor, latent: Tensor, rope_key: Tensor, mask: Tensor) -> Tensor:
        key, value = self.kv_b_proj(latent).split(self.kv_b_proj.sizes, dim=-1)
        key = torch.cat((key, rope_key.expand(-1, -1, self.heads, -1)), dim=-1)
        out: Tensor = self.core(torch.cat((q_nope, q_rope), dim=-1), key, value, self.scale, mask)
        return out

    def _absorbed(self, q_nope: Tensor, q_rope: Tensor, latent: Tensor, rope_key: Tensor, mask: Tensor) -> Tensor:
        q = torch.cat((self.kv_b_proj(q_nope, "query"), q_rope), dim=-1)
        key = torch.cat((latent[:, :, None], rope_key), dim=-1)  # one key/value head for all queries
        attended = self.core(q, key, latent[:, :, None], self.scale, mask)
        out: Tensor = self.kv_b_proj(attended, "value")
        return out
