"""The two ends of a backbone: token embedding, and final norm with head and loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from archcalc.errors import InputError
from archcalc.reference.fields import Section
from archcalc.reference.saved.counting import saved_bytes
from archcalc.reference.saved.kernels import kernels_of
from archcalc.reference.saved.modules import BF16, META, Norm, dtype_of, linear, owned
from archcalc.reference.saved.options import Kernels, Options
from archcalc.reference.saved.recompute import checkpointed

Loss = Literal["kernels", "bf16", "chunked"]
LOSSES: tuple[str, ...] = ("kernels", "bf16", "chunked")
CHUNK = 1024
"""Tokens of a chunk of the chunked loss; what is kept doesn't depend on it."""


def embedding_bytes(*, hidden: int, vocabulary: int, tokens: int) -> int:
    """Bytes that the token embedding keeps: its int64 ids, 8 a token [bytes]."""
    table = nn.Embedding(vocabulary, hidden, device=META, dtype=BF16)
    ids = torch.zeros(tokens, dtype=torch.int64, device=META)
    return saved_bytes(lambda: table(ids), owned(table))


class Head(nn.Module):
    """Final norm, output projection, cross-entropy. No recompute option of the layers reaches it.

    Args:
        loss: `kernels`: what the profile does with whole logits: eager upcasts them and keeps the fp32
            log-softmax,
            fused keeps the fp32 softmax. `bf16`: eager cross-entropy on logits that are not upcast.
            `chunked`: logits of `CHUNK` tokens at a time, dropped and computed again in backward.
    """

    def __init__(
        self, hidden: int, vocabulary: int, eps: float, options: Options, loss: Loss, device: torch.device
    ) -> None:
        super().__init__()
        self.norm = Norm(hidden, eps, options, device)
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
    eps = section.number("rms_norm_eps", 1e-6)
    head = Head(hidden, vocabulary, eps, Options(kernels=kernels), loss, META).to(dtype_of(section))
    x = torch.empty(tokens, hidden, dtype=dtype_of(section), device=META, requires_grad=True)
    labels = torch.zeros(tokens, dtype=torch.int64, device=META)
    return saved_bytes(lambda: head(x, labels), owned(head))
