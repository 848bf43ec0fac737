"""Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1), expanded and absorbed; with an
indexer, over the keys that it picks.

Legend: B sequences, N new rows, M key rows, K picked ones, H heads, C latent rank (kv_lora_rank), D no-position
features of a head, R rotated features, V value features, W hidden size.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from archcalc.errors import InputError
from archcalc.reference.attention import Attention, AttentionCore, Pass
from archcalc.reference.cache import Features
from archcalc.reference.factory import Factory
from archcalc.reference.fields import Section
from archcalc.reference.indexer import Indexer
from archcalc.reference.kernels.recompute import Region
from archcalc.reference.norm_kinds import NormKind
from archcalc.reference.norms import Norm
from archcalc.reference.rope import Angles, Rope, rope_of, rotate_pairs, rotate_unfused

LATENT_NORM = NormKind(name="rms", eps=1e-6)
"""Public modeling code builds both latent norms as RMSNorm with its default epsilon, whatever the layers' are and
`rms_norm_eps` says."""


class LatentUp(nn.Linear):
    """kv_b_proj: one weight of [H*(D+V), C], applied to latents, or absorbed into the queries head by head."""

    def __init__(self, heads: int, nope: int, value: int, rank: int, make: Factory) -> None:
        super().__init__(rank, heads * (nope + value), bias=False, **make.at)
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

    The region `mla_up_proj` holds the two latent norms, q_b, kv_b and rope: what TransformerEngine fuses into one
    LayerNormLinear each. Without a query latent, q_proj stands in it and its input is the layer's norm output. v is
    copied out of kv_b's output, so that output is not kept whole. An indexer picks keys without any gradient, and
    keeps nothing of its own; with `index_topk` a layer takes what the last indexer before it picked (transformers,
    models/glm_moe_dsa), which that layer keeps. The output may be gated by a projection of its own (Kimi K3: vLLM,
    models/kimi_linear.py). Without angles the rotated features are features like the others (transformers,
    models/kimi_linear).

    Args:
        section: the spec's attention section of kind `mla`.
        hidden: W.
        norm: of no use here: see `LATENT_NORM`.
        softmax: factor on the scores' scale from the rope scaling (YaRN's mscale_all_dim, squared).

    Raises:
        InputError: an indexer without a query latent, which it reads, or beside `index_topk`.
    """

    def __init__(self, section: Section, hidden: int, norm: NormKind, softmax: float, make: Factory) -> None:
        super().__init__()
        self.heads = section.integer("num_attention_heads")
        self.rank = section.integer("kv_lora_rank")
        self.nope, self.rope = section.integer("qk_nope_head_dim"), section.integer("qk_rope_head_dim")
        value, q_rank = section.integer("v_head_dim"), section.optional_integer("q_lora_rank")
        bias = section.flag("attention_bias")
        queries = self.heads * (self.nope + self.rope)
        if q_rank is None:
            self.q_proj = make.linear(hidden, queries)
        else:
            self.q_a_proj = make.linear(hidden, q_rank, bias=bias)
            self.q_a_layernorm = Norm(LATENT_NORM, q_rank, make)
            self.q_b_proj = make.linear(q_rank, queries)
        self.has_q_latent = q_rank is not None
        self.kv_a_proj_with_mqa = make.linear(hidden, self.rank + self.rope, bias=bias)
        self.kv_a_layernorm = Norm(LATENT_NORM, self.rank, make)
        self.kv_b_proj = LatentUp(self.heads, self.nope, value, self.rank, make)
        self.o_proj = make.linear(self.heads * value, hidden, bias=bias)
        self.gated = section.has("output_gate") and section.choice("output_gate", "elementwise") == "elementwise"
        if self.gated:
            self.g_proj = make.linear(hidden, self.heads * value)
        self.kernels = make.kernels
        self._turn = partial(rotate_unfused, pairs=True) if make.options.unfused_rope else rotate_pairs
        index = section.optional_section("indexer")
        if index is not None and q_rank is None:
            raise InputError(f"{index.where} reads the query latent, and q_lora_rank is null")
        self.indexer = None if index is None or q_rank is None else Indexer(index, hidden, q_rank, self.rope, make)
        self.borrows = section.optional_integer("index_topk")
        if self.borrows is not None and self.indexer is not None:
            raise InputError(f"{section.where}.index_topk: an indexer of its own picks already", value=self.borrows)
        self.core = AttentionCore(make, most=self.borrows if self.indexer is None else self.indexer.most)
        self.scale = (self.nope + self.rope) ** -0.5 * softmax
        self.recompute = make.recomputes("mla_up_proj")

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

        def heads(q_down: Tensor, down: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return self._heads(q_down, down, angles, now, slot)

        up = Region(heads, active=self.recompute)
        q_down = self.q_a_proj(x) if self.has_q_latent else x
        picked = self._picked(x, q_down, angles, now, slot)
        attended: Tensor = self.core(*up(q_down, self.kv_a_proj_with_mqa(x)), self.scale, picked)
        up.discard_after(attended)
        if now.absorbed:
            attended = self.kv_b_proj(attended, "value")
        if self.gated:
            attended = self.kernels.gate_output(attended, self.g_proj(x).unflatten(-1, (self.heads, -1)))
        out: Tensor = self.o_proj(attended.flatten(-2))
        return out

    @torch.no_grad()
    def _picked(self, x: Tensor, q_down: Tensor, angles: Angles | None, now: Pass, slot: int) -> Tensor | None:
        """Row numbers [B,N,K] int32 of what each query sees, its own or an earlier layer's; None where none picks."""
        if self.borrows is not None:
            return now.picks_before(slot)
        if self.indexer is None:
            return None
        keys = self.indexer.keys(x, angles)
        if now.cache is not None:
            keys = now.cache.extend(slot, {"indexer.key": keys})["indexer.key"]
        picked: Tensor = self.indexer(x, self.q_a_layernorm(q_down), keys, angles)
        now.picked[slot] = picked
        return picked

    def _heads(
        self, q_down: Tensor, down: Tensor, angles: Angles | None, now: Pass, slot: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Down-projections of the new rows -> queries of those, keys and values of all rows."""
        q: Tensor = self.q_b_proj(self.q_a_layernorm(q_down)) if self.has_q_latent else self.q_proj(q_down)
        q = q.unflatten(-1, (self.heads, -1))
        q_nope, q_rope = q.split((self.nope, self.rope), dim=-1)
        latent, rope_key = down.split((self.rank, self.rope), dim=-1)
        latent, rope_key = self.kv_a_layernorm(latent), rope_key[:, :, None]
        if angles is not None:
            q_rope, rope_key = self._turn(q_rope, angles), self._turn(rope_key, angles)
            q = torch.cat((q_nope, q_rope), dim=-1)
        if now.cache is not None:
            held = now.cache.extend(slot, {"latent": latent, "rope_key": rope_key[:, :, 0]})
            latent, rope_key = held["latent"], held["rope_key"][:, :, None]
        if now.absorbed:  # one key/value head for all queries
            value = latent[:, :, None]
            return torch.cat((self.kv_b_proj(q_nope, "query"), q_rope), -1), torch.cat((value, rope_key), -1), value
        key, value = self.kv_b_proj(latent).split(self.kv_b_proj.sizes, dim=-1)
        key = torch.cat((key, rope_key.expand(-1, -1, self.heads, -1)), dim=-1)
        return q, key, value.clone(memory_format=torch.contiguous_format)
