"""Attention cores: softmax(q k^T * scale + mask) v (arXiv:1706.03762, equation 1), run in five ways.

Each is called as `core(q, k, v, scale, view, picked, dropout)`: q [B,N,H,D], k [B,M,G,D], v [B,M,G,V] -> [B,N,H,V].
The queries are the last N of the M rows; what each sees, `View` says, and of that the rows in `picked`, int32 [B,N,K],
or None for all. `dropout` is the chance that a probability is dropped. Only the two unfused cores drop any: a fused
kernel draws its mask again in backward, from the state of a generator. torch's own fused kernels serve none of them:
they choose paths by device and head size, and some count no FLOPs.

Legend: B sequences, N query rows, M key rows, K key rows of one query, H heads, G key heads, D features of a key, V
features of a value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from archcalc.reference.kernels.dropout import dropped


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What a query sees.

    Attributes:
        causal: no row later than its own.
        window: no more rows than this, its own the last; None for all.
    """

    causal: bool = True
    window: int | None = None


def counted(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    view: View,
    picked: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Explicit products over no more pairs than a window or the picks leave."""
    rows, keys = q.shape[1], k.shape[1]
    if picked is not None:
        chosen = picked.long()
        mask = causal_mask(rows, keys, q).expand(len(q), -1, -1).gather(-1, chosen)
        return _own_keys(q, chosen_keys(k, chosen), chosen_keys(v, chosen), scale, mask)
    if view.window is not None and keys > view.window:
        mask = window_mask(rows, keys, view.window, q)
        return _own_keys(q, windows(k, rows, view.window), windows(v, rows, view.window), scale, mask)
    return _same_keys(q, k, v, scale, causal_mask(rows, keys, q) if view.causal else None)


def unfused(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    view: View,
    picked: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """torch's own math path: all scores; a mask keeps nothing. With dropout its steps one by one, for it would drop by
    the device's own form."""
    if dropout:
        return _math_with_dropout(q, k, v, scale, view, picked, dropout)
    heads_first = (tensor.transpose(1, 2) for tensor in (q, k, v))
    mask = None
    if view.window is not None or picked is not None:
        hidden = _hidden(q, k, view, picked)
        mask = q.new_zeros(hidden.shape).masked_fill(hidden, float("-inf"))
    math, shared = torch.ops.aten._scaled_dot_product_attention_math, k.shape[2] != q.shape[2]
    out: Tensor = math(*heads_first, mask, 0.0, view.causal and mask is None, scale=scale, enable_gqa=shared)[0]
    return out.transpose(1, 2).contiguous()


def flash(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    view: View,
    picked: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """A fused kernel. No window makes it keep less; a sparse one keeps the picks' numbers: its backward gathers the
    same rows again (TileLang, examples/deepseek_v32, sparse_mla_bwd.py)."""
    out: Tensor = _Flash.apply(q, k, v, scale, view, picked)
    return out


def written(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    view: View,
    picked: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """All scores in 16 bit, product by product (TransformerEngine, attention/dot_product_attention/backends.py,
    `UnfusedDotProductAttention`): keys and values of several heads are copied for each."""
    if k.shape[2] != q.shape[2]:
        k, v = (tensor.repeat_interleave(q.shape[2] // tensor.shape[2], dim=2) for tensor in (k, v))
    scores: Tensor = _Scores.apply(q, k, scale)
    probs: Tensor = _MaskedSoftmax.apply(scores, _hidden(q, k, view, picked) if view.causal else None)
    out: Tensor = _Values.apply(dropped(probs, dropout), v)
    return out


def copied(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    view: View,
    picked: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """A fused kernel that works on sequences, between layers that work on tokens first: what it makes is copied into
    their order (TransformerEngine, attention/dot_product_attention/backends.py, `FlashAttention`)."""
    return flash(q, k, v, scale, view, picked, dropout).clone()


CORES = {"counted": counted, "flash": flash, "flash-attn": copied, "unfused": unfused}


# -- the unfused ones


def _math_with_dropout(
    q: Tensor, k: Tensor, v: Tensor, scale: float, view: View, picked: Tensor | None, dropout: float
) -> Tensor:
    """What `_scaled_dot_product_attention_math` does in 16 bit: all in fp32, each operand times the scale's root."""
    root = scale**0.5
    q32 = q.transpose(1, 2).float() * root
    k32, v32 = (_repeated(tensor, q).transpose(1, 2) for tensor in (k, v))
    scores = torch.matmul(q32, (k32 * root).transpose(-2, -1))
    if view.causal:
        hidden = _hidden(q, k, view, picked)
        scores = scores + scores.new_zeros(hidden.shape).masked_fill(hidden, float("-inf"))
    out = torch.matmul(dropped(scores.softmax(-1), dropout), v32)
    return out.to(q.dtype).transpose(1, 2).contiguous()


class _Scores(torch.autograd.Function):
    """q k^T * scale: keeps q and k as they come; a batched product over rows first needs no copy of a view."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(q, k)
        ctx.scale = scale
        return torch.einsum("bnhd,bmhd->bhnm", q, k) * scale

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        q, k = ctx.saved_tensors
        scaled = gradient * ctx.scale
        return torch.einsum("bhnm,bmhd->bnhd", scaled, k), torch.einsum("bhnm,bnhd->bmhd", scaled, q), None


class _MaskedSoftmax(torch.autograd.Function):
    """Keeps its result in 16 bit, and not the mask (TransformerEngine, attention/dot_product_attention/softmax.py,
    `ScaledMaskedSoftmax`; Megatron-LM, core/fusions/fused_softmax.py, `ScaledUpperTriangMaskedSoftmax`)."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, hidden: Tensor | None) -> Tensor:
        wide = scores.float()
        probs = (wide if hidden is None else wide.masked_fill(hidden, float("-inf"))).softmax(-1).to(scores.dtype)
        ctx.save_for_backward(probs)
        return probs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (probs,) = ctx.saved_tensors
        wide, slope = probs.float(), gradient.float()
        return (wide * (slope - (wide * slope).sum(-1, keepdim=True))).to(gradient.dtype), None


class _Values(torch.autograd.Function):
    """probs v: keeps both."""

    @staticmethod
    def forward(ctx: Any, probs: Tensor, v: Tensor) -> Tensor:
        ctx.save_for_backward(probs, v)
        return torch.einsum("bhnm,bmhv->bnhv", probs, v).contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        probs, v = ctx.saved_tensors
        return torch.einsum("bnhv,bmhv->bhnm", gradient, v), torch.einsum("bhnm,bnhv->bmhv", probs, gradient)


# -- the counted one


def _same_keys(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Tensor:
    """All queries meet the same keys: k [B,M,G,D], v [B,M,G,V], mask [N,M] or None."""
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


def _own_keys(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor) -> Tensor:
    """Each query meets keys of its own: k [B,N,K,G,D], v [B,N,K,G,V], mask [N,K] or [B,N,K].

    One small batched product a query and key head: exactly N * K pairs a head, whatever is masked.
    """
    q_BNGRD = q.unflatten(2, (k.shape[3], -1))
    scores = torch.matmul(q_BNGRD, k.permute(0, 1, 3, 4, 2)) * scale + mask[..., None, None, :]  # [B,N,G,H/G,K]
    probs = scores.float().softmax(-1).to(v.dtype)
    return torch.matmul(probs, v.permute(0, 1, 3, 2, 4)).flatten(2, 3)


def causal_mask(rows: int, keys: int, like: Tensor) -> Tensor:
    """Additive [rows, keys]: each of the last `rows` rows sees itself and all before it."""
    return like.new_full((rows, keys), float("-inf")).triu(keys - rows + 1)


def windows(x: Tensor, rows: int, window: int) -> Tensor:
    """[B,M,G,D] -> [B,rows,window,G,D]: for each of the last `rows` rows, itself and the window - 1 before it.

    Rows before the first are zeros; `window_mask` hides them.
    """
    held = x[:, -(rows + window - 1) :]
    missing = rows + window - 1 - held.shape[1]
    padded = functional.pad(held, (0, 0, 0, 0, missing, 0))
    return padded.unfold(1, window, 1).permute(0, 1, 4, 2, 3)


def window_mask(rows: int, keys: int, window: int, like: Tensor) -> Tensor:
    """Additive [rows, window] over `windows`: only places before the first key are hidden."""
    row = torch.arange(rows, device=like.device)[:, None]
    place = torch.arange(window, device=like.device)
    absent = keys - rows + row - (window - 1) + place < 0
    return like.new_zeros(rows, window).masked_fill(absent, float("-inf"))


def chosen_keys(rows: Tensor, picked: Tensor) -> Tensor:
    """[B,M,G,D], row numbers [B,N,K] int64 -> [B,N,K,G,D]."""
    sequence = torch.arange(len(rows), device=rows.device)[:, None, None]
    return rows[sequence, picked]


# -- the fused one


class _Flash(torch.autograd.Function):
    """Keeps q, k, v as they come (views keep their storage, shared key heads are not repeated), out and lse.

    The scores are computed whole here: only what is kept follows FlashAttention (arXiv:2205.14135,
    algorithm 1).
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float, view: View, picked: Tensor | None) -> Tensor:
        scores = _scores(q, k, scale, view, picked)
        lse = scores.logsumexp(-1)  # [B,H,N] fp32
        probs = (scores - lse[..., None]).exp()
        out = torch.einsum("bhnm,bmhv->bnhv", probs, _repeated(v, q)).to(q.dtype).contiguous()
        ctx.save_for_backward(q, k, v, out, lse, picked)
        ctx.scale, ctx.view = scale, view
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        q, k, v, out, lse, picked = ctx.saved_tensors
        probs = (_scores(q, k, ctx.scale, ctx.view, picked) - lse[..., None]).exp()
        d_out = gradient.float()
        d_v = torch.einsum("bhnm,bnhv->bmhv", probs, d_out)
        d_probs = torch.einsum("bnhv,bmhv->bhnm", d_out, _repeated(v, q))
        inner = (d_out * out.float()).sum(-1).transpose(1, 2)[..., None]  # [B,H,N,1]
        d_scores = probs * (d_probs - inner) * ctx.scale
        d_q = torch.einsum("bhnm,bmhd->bnhd", d_scores, _repeated(k, q))
        d_k = torch.einsum("bhnm,bnhd->bmhd", d_scores, q.float())
        return d_q.to(q.dtype), _summed(d_k, k), _summed(d_v, v), None, None, None


def _scores(q: Tensor, k: Tensor, scale: float, view: View, picked: Tensor | None) -> Tensor:
    scores = torch.einsum("bnhd,bmhd->bhnm", q.float(), _repeated(k, q)) * scale
    return scores.masked_fill(_hidden(q, k, view, picked), float("-inf")) if view.causal else scores


def _hidden(q: Tensor, k: Tensor, view: View, picked: Tensor | None) -> Tensor:
    """[N,M], or [B,1,N,M] with picks: later rows, those before the window, those that were not picked."""
    every = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool, device=q.device)
    own = k.shape[1] - q.shape[1]  # the first query's own row
    hidden = every.triu(own + 1)
    if view.window is not None:
        hidden = hidden | every.tril(own - view.window)
    if picked is None:
        return hidden
    others = every.expand(len(q), -1, -1).scatter(-1, picked.long(), False)
    return (hidden | others)[:, None]


def _repeated(shared: Tensor, q: Tensor) -> Tensor:
    """[B,M,G,*] -> [B,M,H,*] fp32: query heads h of one group stand next to each other."""
    return shared.float().repeat_interleave(q.shape[2] // shared.shape[2], dim=2)


def _summed(gradient: Tensor, shared: Tensor) -> Tensor:
    return gradient.unflatten(2, (shared.shape[2], -1)).sum(3).to(shared.dtype)
