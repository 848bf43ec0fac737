"""The two ends of a backbone: token embedding, and final norm with head and loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from archcalc.errors import InputError
from archcalc.reference.fields import Section
from archcalc.reference.norm_kinds import NormKind, norm_name
from archcalc.reference.saved.counting import saved_bytes
from archcalc.reference.saved.kernels import kernels_of
from archcalc.reference.saved.modules import BF16, META, Norm, dtype_of, kind_of, linear, owned
from archcalc.reference.saved.options import Kernels, Options
from archcalc.reference.saved.recompute import checkpointed

Loss = Literal["kernels", "bf16", "chunked"]
LOSSES: tuple[str, ...] = ("kernels", "bf16", "chunked")
CHUNK = 1024
"""Tokens of a chunk of the chunked loss; what is kept doesn't depend on it."""


class Embedding(nn.Module):
    """Token table, learned positions added if there are any, and a norm if there is one.

    Args:
        positions: rows of the position table, or None.
        norm: kind of the norm behind both, or None.
    """

    def __init__(
        self,
        hidden: int,
        vocabulary: int,
        options: Options,
        *,
        positions: int | None = None,
        norm: NormKind | None = None,
        device: torch.device = META,
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, hidden, device=device, dtype=BF16)
        self.positions = None if positions is None else nn.Embedding(positions, hidden, device=device, dtype=BF16)
        self.norm = None if norm is None else Norm(hidden, norm, options, device)

    def forward(self, ids: Tensor, places: Tensor) -> Tensor:
        """Ids and positions, both [B,N] int64 as Megatron-LM's data pipeline passes them -> [B,N,hidden]."""
        x: Tensor = self.tokens(ids)
        x = x if self.positions is None else x + self.positions(places)
        return x if self.norm is None else self.norm(x)


def embedding_bytes(
    *,
    hidden: int,
    vocabulary: int,
    tokens: int,
    positions: int | None = None,
    norm: NormKind | None = None,
    kernels: Kernels = "fused",
    dtype: torch.dtype = BF16,
) -> int:
    """Bytes that the embedding keeps: int64 ids, and positions where they are learned, 8 a token each; and what its
    norm keeps [bytes]."""
    options = Options(kernels=kernels)
    table = Embedding(hidden, vocabulary, options, positions=positions, norm=norm).to(dtype)
    ids, places = (torch.zeros(1, tokens, dtype=torch.int64, device=META) for _ in range(2))
    return saved_bytes(lambda: table(ids, places), owned(table))


class Head(nn.Module):
    """Final norm, output projection, cross-entropy. No recompute option of the layers reaches it.

    Args:
        loss: `kernels`: what the profile does with whole logits: eager upcasts them and keeps the fp32
            log-softmax,
            fused keeps the fp32 softmax. `bf16`: eager cross-entropy on logits that are not upcast.
            `chunked`: logits of `CHUNK` tokens at a time, dropped and computed again in backward.
    """

    def __init__(
        self, hidden: int, vocabulary: int, norm: NormKind, options: Options, loss: Loss, device: torch.device
    ) -> None:
        super().__init__()
        self.norm = Norm(hidden, norm, options, device)
        self.head = linear(hidden, vocabulary, False, device)
        self.kernels, self.loss = kernels_of(options), loss

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """[T,hidden], [T] int64 -> the mean loss."""
        x = self.norm(x)
        if self.loss == "kernels":
            return self.kernels.cross_entropy(self.head(x), labels)
        if self.loss == "bf16":
            return functional.cross_entropy(self.head(x), labels)
        pieces = zip(x.split(CHUNK), labels.split(CHUNK), strict=True)
        sums = [checkpointed(True, self._sum, rows, targets) for rows, targets in pieces]
        return torch.stack(sums).sum() / labels.numel()

    def _sum(self, x: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(self.head(x).float(), labels, reduction="sum")


def head_bytes(
    backbone: Mapping[str, object], *, tokens: int, kernels: Kernels = "fused", loss: Loss = "kernels"
) -> int:
    """Bytes that final norm, head and loss keep, the norm's input included [bytes].

    Raises:
        InputError: a key is missing, or the loss isn't known.
    """
    if loss not in LOSSES:
        raise InputError(f"loss: {loss} is none of {', '.join(LOSSES)}", value=loss)
    section = Section(backbone, "backbone")
    hidden, vocabulary = section.integer("hidden_size"), section.integer("vocab_size")
    norm = kind_of(section, norm_name(section))
    head = Head(hidden, vocabulary, norm, Options(kernels=kernels), loss, META).to(dtype_of(section))
    x = torch.empty(tokens, hidden, dtype=dtype_of(section), device=META, requires_grad=True)
    labels = torch.zeros(tokens, dtype=torch.int64, device=META)
    return saved_bytes(lambda: head(x, labels), owned(head))
