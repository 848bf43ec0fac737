"""Attention of a decoder layer: multi-head latent (arXiv:2405.04434, section 2.1) and grouped-query
(arXiv:2305.13245).

Legend: B sequences, N rows, H heads, G key heads, D features of a query or key head, R rotated ones, V of a
value.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from archcalc.errors import InputError
from archcalc.reference.fields import Section
from archcalc.reference.saved.core import attend
from archcalc.reference.saved.modules import Norm, linear
from archcalc.reference.saved.options import Options
from archcalc.reference.saved.recompute import Region, checkpointed


class Rope(nn.Module):
    """Rotary embedding by halves (arXiv:2104.09864). The tables are buffers: what it saves is theirs, not
    the layer's."""

    cos: Tensor
    sin: Tensor

    def __init__(self, rows: int, features: int, device: torch.device) -> None:
        super().__init__()
        turns = 10000.0 ** (-torch.arange(0, features, 2, device=device, dtype=torch.float32) / features)
        angles = torch.arange(rows, device=device, dtype=torch.float32)[:, None] * turns
        both = torch.cat((angles, angles), dim=-1)[:, None, :]  # [N,1,R]
        self.register_buffer("cos", both.cos().to(torch.bfloat16))
        self.register_buffer("sin", both.sin().to(torch.bfloat16))

    def forward(self, x: Tensor) -> Tensor:
        """[B,N,H,R] -> the same, in a new storage."""
        first, second = x.chunk(2, dim=-1)
        return x * self.cos + torch.cat((-second, first), dim=-1) * self.sin


class MLA(nn.Module):
    """Latents down, heads up, attention, output. v is copied out of kv_b's output, so that output is not
    kept whole.

    The region `mla_up_proj` holds the two latent norms, q_b, kv_b and rope: what TransformerEngine fuses
    into one LayerNormLinear each. Without a query latent, q_proj stands in it and its input is the layer's
    norm output.
    """

    def __init__(self, section: Section, hidden: int, rows: int, options: Options, device: torch.device) -> None:
        super().__init__()
        self.options = options
        self.heads = section.integer("num_attention_heads")
        self.nope, self.rotated = section.integer("qk_nope_head_dim"), section.integer("qk_rope_head_dim")
        self.value, self.rank = section.integer("v_head_dim"), section.integer("kv_lora_rank")
        bias = section.flag("attention_bias")
        q_rank = section.optional_integer("q_lora_rank")
        q_features = self.heads * (self.nope + self.rotated)
        self.q_down = None if q_rank is None else linear(hidden, q_rank, bias, device)
        self.q_norm = None if q_rank is None else Norm(q_rank, 1e-6, options, device)
        self.q_up = linear(hidden if q_rank is None else q_rank, q_features, False, device)
        self.kv_down = linear(hidden, self.rank + self.rotated, bias, device)
        self.kv_norm = Norm(self.rank, 1e-6, options, device)
        self.kv_up = linear(self.rank, self.heads * (self.nope + self.value), False, device)
        self.rope = Rope(rows, self.rotated, device)
        self.out = linear(self.heads * self.value, hidden, bias, device)

    def forward(self, x: Tensor) -> Tensor:
        """[B,N,hidden] -> the same."""
        up = Region(self._up, active="mla_up_proj" in self.options.recompute)
        q, k, v = up(x if self.q_down is None else self.q_down(x), self.kv_down(x))
        out = _core(self.options, q, k, v)
        up.discard_after(out)
        result: Tensor = self.out(out.flatten(-2))
        return result

    def _up(self, q_latent: Tensor, kv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q_latent = q_latent if self.q_norm is None else self.q_norm(q_latent)
        queries = self.q_up(q_latent).unflatten(-1, (self.heads, -1))
        q_nope, q_rope = queries.split((self.nope, self.rotated), dim=-1)
        latent, k_rope = kv.split((self.rank, self.rotated), dim=-1)
        up = self.kv_up(self.kv_norm(latent)).unflatten(-1, (self.heads, -1))
        k_nope, v = up.split((self.nope, self.value), dim=-1)
        k_rope = self.rope(k_rope[:, :, None]).expand(-1, -1, self.heads, -1)
        q = torch.cat((q_nope, self.rope(q_rope)), dim=-1)
        return q, torch.cat((k_nope, k_rope), dim=-1), v.clone(memory_format=torch.contiguous_format)


class GQA(nn.Module):
    """Three projections, an optional norm of queries and keys (`per_head` over D, `full` over all heads),
    rope, attention, output. k and v are kept as they are, G heads wide."""

    def __init__(self, section: Section, hidden: int, rows: int, options: Options, device: torch.device) -> None:
        super().__init__()
        self.options = options
        self.head = section.integer("head_dim")
        heads, shared = section.integer("num_attention_heads"), section.integer("num_key_value_heads")
        bias = section.flag("attention_bias")
        self.q = linear(hidden, heads * self.head, bias, device)
        self.k = linear(hidden, shared * self.head, bias, device)
        self.v = linear(hidden, shared * self.head, bias, device)
        self.full = section.has("qk_norm") and section.choice("qk_norm", "per_head", "full") == "full"
        self.q_norm: Norm | None = None
        self.k_norm: Norm | None = None
        if section.has("qk_norm"):
            self.q_norm = Norm(heads * self.head if self.full else self.head, 1e-6, options, device)
            self.k_norm = Norm(shared * self.head if self.full else self.head, 1e-6, options, device)
        self.rope = Rope(rows, self.head, device)
        self.out = linear(heads * self.head, hidden, section.flag("attention_out_bias"), device)

    def forward(self, x: Tensor) -> Tensor:
        """[B,N,hidden] -> the same."""
        q, k = self._normed(self.q(x), self.q_norm), self._normed(self.k(x), self.k_norm)
        v = self.v(x).unflatten(-1, (-1, self.head))
        out = _core(self.options, self.rope(q), self.rope(k), v)
        result: Tensor = self.out(out.flatten(-2))
        return result

    def _normed(self, x: Tensor, norm: Norm | None) -> Tensor:
        if norm is not None and self.full:
            x = norm(x)
        x = x.unflatten(-1, (-1, self.head))
        return x if norm is None or self.full else norm(x)


def _core(options: Options, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    def core(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend(q, k, v, core=options.core)

    return checkpointed("core_attn" in options.recompute, core, q, k, v)


def attention(section: Section, hidden: int, rows: int, options: Options, device: torch.device) -> nn.Module:
    """The attention of a spec section.

    Raises:
        InputError: when its kind is neither `mla` nor `gqa`, or a key is missing.
    """
    kinds: dict[str, type[MLA] | type[GQA]] = {"mla": MLA, "gqa": GQA}
    kind = section.word("kind")
    if kind not in kinds:
        raise InputError(f"{section.where}.kind: {kind} is none of {', '.join(kinds)}", value=kind)
    return kinds[kind](section, hidden, rows, options, device)
