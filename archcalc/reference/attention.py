"""What every kind of attention has, and the core that they share.

Legend: B sequences, N new rows, M key rows, K key rows of one query, H query heads, G key/value heads, D features of
a head, W hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from archcalc.errors import InputError
from archcalc.reference.cache import Cache, Features, State
from archcalc.reference.depth import Blocks
from archcalc.reference.factory import Factory
from archcalc.reference.fields import Section
from archcalc.reference.flopcount import Product
from archcalc.reference.kernels.cores import CORES, View, written
from archcalc.reference.kernels.recompute import checkpointed
from archcalc.reference.rope import Angles, Rope


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """What the layers of one forward pass share.

    Attributes:
        angles: rotary angles of the new rows, by attention section; one that doesn't rotate is absent.
        cache: where the rows are kept, or None.
        absorbed: whether MLA works on latents.
        picked: row numbers [B,N,K] that an indexer picked, by its attention's place in the cache.
        shares: whether later layers take them.
        blocks: what blocks of layers have made, where residuals are attended to.
    """

    angles: Mapping[str, Angles]
    cache: Cache | None = None
    absorbed: bool = False
    picked: dict[int, Tensor] = field(default_factory=dict)
    shares: bool = False
    blocks: Blocks | None = None

    def picks_before(self, slot: int) -> Tensor:
        """What the last indexer before a place picked.

        Raises:
            InputError: no layer before it has one.
        """
        before = [each for each in self.picked if each < slot]
        if not before:
            raise InputError("a layer with index_topk takes what an earlier layer's indexer picked, and none did")
        return self.picked[max(before)]


class Attention(nn.Module):
    """A kind of attention. Its constructor takes the spec's section, the hidden size, the norm of queries and
    keys, the rope's factor on the scores' scale, and the factory.

    Attributes:
        window: most rows that its cache keeps, or None for all.
        borrows: rows of each query that an earlier layer's indexer picked for it, or None.
    """

    window: int | None = None
    borrows: int | None = None

    @classmethod
    def rotation(cls, section: Section, backbone: Section, device: torch.device) -> Rope | None:
        """The rotary embedding of a section of this kind; None if it doesn't rotate."""
        raise NotImplementedError

    def cached(self) -> Features:
        """Features of one cached row; a name with a dot is booked on that part of this module."""
        raise NotImplementedError

    def states(self) -> Mapping[str, State]:
        """What is kept once a sequence, whatever its length."""
        return {}

    def forward(self, x: Tensor, angles: Angles | None, now: Pass, slot: int) -> Tensor:
        """[B,N,W] -> [B,N,W]; `slot` is this module's place in the cache."""
        raise NotImplementedError


class AttentionCore(Product):
    """Scores, softmax, weighted sum, by the core of the options. It has no weights, only FLOPs.

    Args:
        causal: whether a query sees no later row.
        window: rows that a query sees, its own the last, or None for all.
        most: rows that are picked for a query, or None where nothing picks.
        copies: whether it puts q, k and v into tensors of their own first, but where they are equal views of one
            (TransformerEngine, attention/dot_product_attention/utils.py, `get_qkv_layout`, where no layout that it
            knows holds them): inside, so that a checkpoint of it keeps the views.

    Attributes:
        limit: most keys that a query is multiplied with, or None for all.
    """

    def __init__(
        self,
        make: Factory,
        *,
        causal: bool = True,
        window: int | None = None,
        most: int | None = None,
        copies: bool = False,
    ) -> None:
        super().__init__()
        options = make.options
        in_16_bit = options.core == "unfused" and options.kernels == "fused"
        self.core, self.recompute = written if in_16_bit else CORES[options.core], make.recomputes("core_attn")
        self.dropout = options.attention_dropout
        self.copies = copies
        self.view, self.limit = View(causal=causal, window=window), window if most is None else most

    def forward(self, q: Tensor, k: Tensor, v: Tensor, scale: float, picked: Tensor | None = None) -> Tensor:
        """q [B,N,H,D], k [B,M,G,D], v [B,M,G,Dv], picked [B,N,K] int32 -> [B,N,H,Dv]."""

        def core(q: Tensor, k: Tensor, v: Tensor, *picks: Tensor) -> Tensor:
            if self.copies and (k.shape[2] != q.shape[2] or len({t.untyped_storage()._cdata for t in (q, k, v)}) > 1):
                q, k, v = (tensor.contiguous() for tensor in (q, k, v))
            return self.core(q, k, v, scale, self.view, picks[0] if picks else None, self.dropout)

        return checkpointed(self.recompute, core, q, k, v, *(() if picked is None else (picked,)))
