"""Attention cores: what stands between q, k, v and the output projection.

Legend: B sequences, N query rows, M key rows, H heads, G key heads, D features of a key, V features of a
value.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from archcalc.reference.saved.options import Core


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    core: Core,
    causal: bool = True,
    window: int | None = None,
    picked: Tensor | None = None,
) -> Tensor:
    """q [B,N,H,D], k [B,M,G,D], v [B,M,G,V] -> [B,N,H,V] in the layout that the output projection reads.

    With a window, each row sees itself and the window - 1 rows before it; no kernel keeps less for that. With
    `picked`, int32 [B,N,K], it sees those rows alone, and a sparse kernel keeps their numbers: its backward gathers
    the same rows again (TileLang, examples/deepseek_v32, sparse_mla_bwd.py). Plain code adds a mask, which keeps
    nothing.
    """
    if core == "flash":
        return _Flash.apply(q, k, v, causal, window, picked)
    heads_first = (tensor.transpose(1, 2) for tensor in (q, k, v))
    mask = None
    if window is not None or picked is not None:
        hidden = _hidden(q, k, window, picked)
        mask = q.new_zeros(hidden.shape).masked_fill(hidden, float("-inf"))
    math = torch.ops.aten._scaled_dot_product_attention_math
    causal = causal and mask is None
    out: Tensor = math(*heads_first, mask, 0.0, causal, enable_gqa=k.shape[2] != q.shape[2])[0]
    return out.transpose(1, 2).contiguous()


class _Flash(torch.autograd.Function):
    """Keeps q, k, v as they come (views keep their storage, shared key heads are not repeated), out and lse.

    The scores are computed whole here: only what is kept follows FlashAttention (arXiv:2205.14135,
    algorithm 1).
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, causal: bool, window: int | None, picked: Tensor | None
    ) -> Tensor:
        scores = _scores(q, k, causal, window, picked)
        lse = scores.logsumexp(-1)  # [B,H,N] fp32
        probs = (scores - lse[..., None]).exp()
        out = torch.einsum("bhnm,bmhv->bnhv", probs, _repeated(v, q)).to(q.dtype).contiguous()
        ctx.save_for_backward(q, k, v, out, lse, picked)
        ctx.causal, ctx.window = causal, window
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        q, k, v, out, lse, picked = ctx.saved_tensors
        probs = (_scores(q, k, ctx.causal, ctx.window, picked) - lse[..., None]).exp()
        d_out = gradient.float()
        d_v = torch.einsum("bhnm,bnhv->bmhv", probs, d_out)
        d_probs = torch.einsum("bnhv,bmhv->bhnm", d_out, _repeated(v, q))
        inner = (d_out * out.float()).sum(-1).transpose(1, 2)[..., None]  # [B,H,N,1]
        d_scores = probs * (d_probs - inner) * q.shape[-1] ** -0.5
        d_q = torch.einsum("bhnm,bmhd->bnhd", d_scores, _repeated(k, q))
        d_k = torch.einsum("bhnm,bnhd->bmhd", d_scores, q.float())
        return d_q.to(q.dtype), _summed(d_k, k), _summed(d_v, v), None, None, None


def _scores(q: Tensor, k: Tensor, causal: bool, window: int | None, picked: Tensor | None) -> Tensor:
    scores = torch.einsum("bnhd,bmhd->bhnm", q.float(), _repeated(k, q)) * q.shape[-1] ** -0.5
    if causal:
        scores = scores.masked_fill(_hidden(q, k, window, picked), float("-inf"))
    return scores


def _hidden(q: Tensor, k: Tensor, window: int | None, picked: Tensor | None) -> Tensor:
    """[N,M], or [B,1,N,M] with picks: later rows, those before the window, those that were not picked."""
    every = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool, device=q.device)
    hidden = every.triu(1) if window is None else every.triu(1) | every.tril(-window)
    if picked is None:
        return hidden
    others = every.expand(len(q), -1, -1).scatter(-1, picked.long(), False)
    return (hidden | others)[:, None]


def _repeated(shared: Tensor, q: Tensor) -> Tensor:
    """[B,M,G,*] -> [B,M,H,*] fp32: query heads h of one group stand next to each other."""
    return shared.float().repeat_interleave(q.shape[2] // shared.shape[2], dim=2)


def _summed(gradient: Tensor, shared: Tensor) -> Tensor:
    return gradient.unflatten(2, (shared.shape[2], -1)).sum(3).to(shared.dtype)
