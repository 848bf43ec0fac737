"""Attention of a decoder layer: multi-head latent (arXiv:2405.04434, section 2.1) and grouped-query
(arXiv:2305.13245), by the name that a spec gives them.

Legend: B sequences, N rows, H heads, G key heads, D features of a query or key head, R rotated ones, V of a
value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from archcalc.errors import InputError
from archcalc.reference.fields import Section
from archcalc.reference.indexer import Indexer
from archcalc.reference.norm_kinds import NormKind, norm_name
from archcalc.reference.saved.core import attend
from archcalc.reference.saved.modules import Norm, kind_of, linear
from archcalc.reference.saved.options import Options
from archcalc.reference.saved.recompute import Region, checkpointed

LATENT_NORM = NormKind(name="rms", eps=1e-6)
"""Inside MLA, whatever the layers' norms are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """What an attention section's module needs besides the section.

    Attributes:
        hidden: features of the residual.
        norm: kind of the norms of queries and keys.
        rotates: whether the backbone has rotary embedding.
        rows: tokens of one sequence.
        options: how it is run.
        device: of its weights.
    """

    hidden: int
    norm: NormKind
    rotates: bool
    rows: int
    options: Options
    device: torch.device


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

    An indexer picks keys without any gradient, and keeps nothing of its own; the core keeps the picks.
    """

    def __init__(self, section: Section, around: Around) -> None:
        super().__init__()
        hidden, options, device = around.hidden, around.options, around.device
        self.options = options
        self.heads = section.integer("num_attention_heads")
        self.nope, self.rotated = section.integer("qk_nope_head_dim"), section.integer("qk_rope_head_dim")
        self.value, self.rank = section.integer("v_head_dim"), section.integer("kv_lora_rank")
        bias = section.flag("attention_bias")
        q_rank = section.optional_integer("q_lora_rank")
        q_features = self.heads * (self.nope + self.rotated)
        self.q_down = None if q_rank is None else linear(hidden, q_rank, bias, device)
        self.q_norm = None if q_rank is None else Norm(q_rank, LATENT_NORM, options, device)
        self.q_up = linear(hidden if q_rank is None else q_rank, q_features, False, device)
        self.kv_down = linear(hidden, self.rank + self.rotated, bias, device)
        self.kv_norm = Norm(self.rank, LATENT_NORM, options, device)
        self.kv_up = linear(self.rank, self.heads * (self.nope + self.value), False, device)
        self.rope = Rope(around.rows, self.rotated, device) if around.rotates else nn.Identity()
        self.out = linear(self.heads * self.value, hidden, bias, device)
        self.indexer = self._indexer(section.optional_section("indexer"), hidden, q_rank, device)

    def forward(self, x: Tensor) -> Tensor:
        """[B,N,hidden] -> the same."""
        up = Region(self._up, active="mla_up_proj" in self.options.recompute)
        q_latent = x if self.q_down is None else self.q_down(x)
        picked = self._picked(x, q_latent)
        q, k, v = up(q_latent, self.kv_down(x))
        out = _core(self.options, q, k, v, picked=picked)
        up.discard_after(out)
        result: Tensor = self.out(out.flatten(-2))
        return result

    def _indexer(self, index: Section | None, hidden: int, q_rank: int | None, device: torch.device) -> Indexer | None:
        if index is None:
            return None
        if q_rank is None:
            raise InputError(f"{index.where} reads the query latent, and q_lora_rank is null")
        return Indexer(index, hidden, q_rank, self.rotated, {"device": device, "dtype": torch.bfloat16})

    @torch.no_grad()
    def _picked(self, x: Tensor, q_latent: Tensor) -> Tensor | None:
        """Row numbers [B,N,min(most, N)] int32, by content alone: what turns changes no size."""
        if self.indexer is None:
            return None
        rows = x.shape[1]
        latent = q_latent if self.q_norm is None else self.q_norm(q_latent)
        mask = x.new_full((rows, rows), float("-inf"), dtype=torch.float32).triu(1)
        picked = self.indexer(x, latent, self.indexer.keys(x, None), None, mask)
        if picked is None:  # all of them fit
            picked = torch.arange(rows, device=x.device).expand(len(x), rows, rows)
        return picked.to(torch.int32).contiguous()

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
    rope, attention, output. k and v are kept as they are, G heads wide, whatever a window hides."""

    def __init__(self, section: Section, around: Around) -> None:
        super().__init__()
        hidden, options, device = around.hidden, around.options, around.device
        self.options, self.window = options, section.optional_integer("sliding_window")
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
            self.q_norm = Norm(heads * self.head if self.full else self.head, around.norm, options, device)
            self.k_norm = Norm(shared * self.head if self.full else self.head, around.norm, options, device)
        self.rope = Rope(around.rows, self.head, device) if _rotates(section, around) else nn.Identity()
        self.out = linear(heads * self.head, hidden, section.flag("attention_out_bias"), device)

    def forward(self, x: Tensor) -> Tensor:
        """[B,N,hidden] -> the same."""
        q, k = self._normed(self.q(x), self.q_norm), self._normed(self.k(x), self.k_norm)
        v = self.v(x).unflatten(-1, (-1, self.head))
        out = _core(self.options, self.rope(q), self.rope(k), v, self.window)
        result: Tensor = self.out(out.flatten(-2))
        return result

    def _normed(self, x: Tensor, norm: Norm | None) -> Tensor:
        if norm is not None and self.full:
            x = norm(x)
        x = x.unflatten(-1, (-1, self.head))
        return x if norm is None or self.full else norm(x)


def _rotates(section: Section, around: Around) -> bool:
    """The section's own `rope_parameters`, or the backbone's."""
    if not section.has("rope_parameters"):
        return around.rotates
    return section.section("rope_parameters").has("rope_theta")


def _core(
    options: Options, q: Tensor, k: Tensor, v: Tensor, window: int | None = None, picked: Tensor | None = None
) -> Tensor:
    def core(q: Tensor, k: Tensor, v: Tensor, *picks: Tensor) -> Tensor:
        return attend(q, k, v, core=options.core, window=window, picked=picks[0] if picks else None)

    return checkpointed("core_attn" in options.recompute, core, q, k, v, *(() if picked is None else (picked,)))


ATTENTIONS: dict[str, Callable[[Section, Around], nn.Module]] = {"mla": MLA, "gqa": GQA}
"""Kind -> class. `add_attention` adds one."""


def add_attention(kind: str, made: Callable[[Section, Around], nn.Module]) -> None:
    """Make a kind known.

    Raises:
        InputError: when it is known already.
    """
    if kind in ATTENTIONS:
        raise InputError(f"the attention kind {kind} is known already", value=kind)
    ATTENTIONS[kind] = made


def attention(section: Section, backbone: Section, rows: int, options: Options, device: torch.device) -> nn.Module:
    """The attention of a spec section.

    Raises:
        InputError: when its kind isn't known, a key is missing, or nobody reads one.
    """
    kind = section.word("kind")
    if kind not in ATTENTIONS:
        raise InputError(f"{section.where}.kind: {kind} is none of {', '.join(ATTENTIONS)}", value=kind)
    around = Around(
        hidden=backbone.integer("hidden_size"),
        norm=kind_of(backbone, norm_name(backbone)),
        rotates=backbone.has("rope_theta"),
        rows=rows,
        options=options,
        device=device,
    )
    made = ATTENTIONS[kind](section, around)
    section.finish()
    return made
