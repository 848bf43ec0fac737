"""Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1), expanded and absorbed; with an
indexer, over the keys that it picks.

Legend: B sequences, N new rows, M key rows, K picked ones, H heads, C latent rank (kv_lora_rank), D no-position
features of a head, R rotated features, V value features, W hidden size.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from archcalc.errors import InputError
from archcalc.reference.attention import Attention, AttentionCore, Pass
from archcalc.reference.cache import Features
from archcalc.reference.factory import Factory
from archcalc.reference.fields import Section
from archcalc.reference.indexer import Indexer, chosen_keys
from archcalc.reference.norm_kinds import NormKind
from archcalc.reference.norms import RMSNorm
from archcalc.reference.rope import Angles, Rope, rope_of, rotate_pairs

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


class MLA(Attention):
    """One layer's latent attention. The cache holds the normalised latent and the one rotated key of all heads.

    Args:
        section: the spec's attention section of kind `mla`.
        hidden: W.
        norm: of no use here: the latent norms are RMSNorm whatever the layers' are.
        softmax: factor on the scores' scale from the rope scaling (YaRN's mscale_all_dim, squared).

    Raises:
        InputError: an indexer without a query latent, which it reads.
    """

    def __init__(self, section: Section, hidden: int, norm: NormKind, softmax: float, at: Factory) -> None:
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
        index = section.optional_section("indexer")
        if index is not None and q_rank is None:
            raise InputError(f"{index.where} reads the query latent, and q_lora_rank is null")
        self.indexer = None if index is None or q_rank is None else Indexer(index, hidden, q_rank, self.rope, at)
        self.core = AttentionCore(None if self.indexer is None else self.indexer.most)
        self.scale = (self.nope + self.rope) ** -0.5 * softmax

    @classmethod
    def rotation(cls, section: Section, backbone: Section, device: torch.device) -> Rope | None:
        """The rotated features of a head turn by the backbone's angles."""
        return rope_of(backbone, section.integer("qk_rope_head_dim"), device)

    def cached(self) -> Features:
        """Features of one cached row, the same for all heads; the indexer's key is its own."""
        latent: Features = {"latent": (self.rank,), "rope_key": (self.rope,)}
        return latent if self.indexer is None else {**latent, "indexer.key": (self.indexer.head_dim,)}

    def forward(self, x: Tensor, angles: Angles | None, now: Pass, slot: int) -> Tensor:
        """[B,N,W] -> [B,N,W]."""
        q_latent = self.q_a_layernorm(self.q_a_proj(x)) if self.has_q_latent else x
        q: Tensor = self.q_b_proj(q_latent) if self.has_q_latent else self.q_proj(x)
        q_nope, q_rope = q.unflatten(-1, (self.heads, -1)).split((self.nope, self.rope), dim=-1)
        latent, rope_key = self.kv_a_proj_with_mqa(x).split((self.rank, self.rope), dim=-1)
        latent = self.kv_a_layernorm(latent)
        if angles is not None:
            q_rope = rotate_pairs(q_rope, angles)
            rope_key = rotate_pairs(rope_key[:, :, None], angles)[:, :, 0]
        rows = {"latent": latent, "rope_key": rope_key}
        if self.indexer is not None:
            rows["indexer.key"] = self.indexer.keys(x, angles)
        if now.cache is not None:
            rows = now.cache.extend(slot, rows)
        picked = None if self.indexer is None else self.indexer(x, q_latent, rows["indexer.key"], angles, now.mask)
        attend = self._absorbed if now.absorbed else self._expanded
        attended = attend(q_nope, q_rope, rows["latent"], rows["rope_key"][:, :, None], now.mask, picked)
        out: Tensor = self.o_proj(attended.flatten(-2))
        return out

    def _expanded(
        self, q_nope: Tensor, q_rope: Tensor, latent: Tensor, rope_key: Tensor, mask: Tensor, picked: Tensor | None
    ) -> Tensor:
        key, value = self.kv_b_proj(latent).split(self.kv_b_proj.sizes, dim=-1)
        key = torch.cat((key, rope_key.expand(-1, -1, self.heads, -1)), dim=-1)
        return self._core(torch.cat((q_nope, q_rope), dim=-1), key, value, mask, picked)

    def _absorbed(
        self, q_nope: Tensor, q_rope: Tensor, latent: Tensor, rope_key: Tensor, mask: Tensor, picked: Tensor | None
    ) -> Tensor:
        q = torch.cat((self.kv_b_proj(q_nope, "query"), q_rope), dim=-1)
        key = torch.cat((latent[:, :, None], rope_key), dim=-1)  # one key/value head for all queries
        attended = self._core(q, key, latent[:, :, None], mask, picked)
        out: Tensor = self.kv_b_proj(attended, "value")
        return out

    def _core(self, q: Tensor, key: Tensor, value: Tensor, mask: Tensor, picked: Tensor | None) -> Tensor:
        """All keys, or, for each query, the picked ones: [B,N,K] row numbers."""
        if picked is not None:
            mask = mask.expand(len(q), -1, -1).gather(-1, picked)
            key, value = chosen_keys(key, picked), chosen_keys(value, picked)
        out: Tensor = self.core(q, key, value, self.scale, mask)
        return out
