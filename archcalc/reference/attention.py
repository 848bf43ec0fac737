"""What every kind of attention has, and the core that they share.

Scores are explicit matrix products: fused kernels choose paths by device and head size, and some count no
FLOPs. Legend: B sequences, N new rows, M key rows, K key rows of one query, H query heads, G key/value heads,
D features of a head, W hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from archcalc.reference.cache import Cache, Features
from archcalc.reference.fields import Section
from archcalc.reference.rope import Angles, Rope


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """What the layers of one forward pass share.

    Attributes:
        angles: rotary angles of the new rows, by attention section; one that doesn't rotate is absent.
        mask: additive [N, M]: what each new row sees.
        cached: rows before the new ones [tokens].
        cache: where the rows are kept, or None.
        absorbed: whether MLA works on latents.
    """

    angles: Mapping[str, Angles]
    mask: Tensor
    cached: int
    cache: Cache | None = None
    absorbed: bool = False


class Attention(nn.Module):
    """A kind of attention. Its constructor takes the spec's section, the hidden size, the norm of queries and
    keys, the rope's factor on the scores' scale, and torch's factory arguments.

    Attributes:
        window: most rows that its cache keeps, or None for all.
    """

    window: int | None = None

    @classmethod
    def rotation(cls, section: Section, backbone: Section, device: torch.device) -> Rope | None:
        """The rotary embedding of a section of this kind; None if it doesn't rotate."""
        raise NotImplementedError

    def cached(self) -> Features:
        """Features of one cached row; a name with a dot is booked on that part of this module."""
        raise NotImplementedError

    def forward(self, x: Tensor, angles: Angles | None, now: Pass, slot: int) -> Tensor:
        """[B,N,W] -> [B,N,W]; `slot` is this module's place in the cache."""
        raise NotImplementedError


class AttentionCore(nn.Module):
    """softmax(q k^T * scale + mask) v (arXiv:1706.03762, equation 1). It has no weights, only FLOPs.

    Args:
        limit: most keys that a query is multiplied with, or None for all.
    """

    def __init__(self, limit: int | None = None) -> None:
        super().__init__()
        self.limit = limit

    def forward(self, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Tensor:
        """q [B,N,H,D] -> [B,N,H,Dv].

        All queries meet the same keys: k [B,M,G,D], v [B,M,G,Dv], mask [N,M] or None. Or each query its own:
        k [B,N,K,G,D], v [B,N,K,G,Dv], mask [N,K] or [B,N,K] or None.
        """
        return _own_keys(q, k, v, scale, mask) if k.dim() == 5 else _same_keys(q, k, v, scale, mask)


def _same_keys(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Tensor:
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


def _own_keys(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Tensor:
    """One small batched product a query and key head: exactly N * K pairs a head, whatever is masked."""
    q_BNGRD = q.unflatten(2, (k.shape[3], -1))
    scores = torch.matmul(q_BNGRD, k.permute(0, 1, 3, 4, 2)) * scale  # [B,N,G,H/G,K]
    if mask is not None:
        scores = scores + mask[..., None, None, :]
    probs = scores.float().softmax(-1).to(v.dtype)
    return torch.matmul(probs, v.permute(0, 1, 3, 2, 4)).flatten(2, 3)


def causal_mask(rows: int, cached: int, like: Tensor) -> Tensor:
    """Additive [rows, cached + rows]: row i sees the cached rows and rows 0..i of its own."""
    return like.new_full((rows, cached + rows), float("-inf")).triu(cached + 1)


def windows(x: Tensor, rows: int, window: int) -> Tensor:
    """[B,M,G,D] -> [B,rows,window,G,D]: for each of the last `rows` rows, itself and the window - 1 before it.

    Rows before the first are zeros; `window_mask` hides them.
    """
    held = x[:, -(rows + window - 1) :]
    missing = rows + window - 1 - held.shape[1]
    padded = functional.pad(held, (0, 0, 0, 0, missing, 0))
    return padded.unfold(1, window, 1).permute(0, 1, 4, 2, 3)


def window_mask(rows: int, cached: int, window: int, like: Tensor) -> Tensor:
    """Additive [rows, window] over `windows`: only places before the first row of the sequence are hidden."""
    row = torch.arange(rows, device=like.device)[:, None]
    place = torch.arange(window, device=like.device)
    absent = cached + row - (window - 1) + place < 0
    return like.new_zeros(rows, window).masked_fill(absent, float("-inf"))
