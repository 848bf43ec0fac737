"""The indexer of DeepSeek Sparse Attention (DeepSeek-V3.2, arXiv:2512.02556, section 2.1), as in transformers'
models/deepseek_v32/modeling_deepseek_v32.py: it scores all rows cheaply and picks those that a query attends to.

The picks are numbers, so no gradient of the language-model loss reaches it; it is trained by a loss of its own, which
isn't counted. Legend: B sequences, N new rows, M key rows, K picked ones, J index heads, D features of one, R rotated
features, W hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from archcalc.errors import InputError
from archcalc.reference.factory import Factory
from archcalc.reference.fields import Section
from archcalc.reference.flopcount import Product
from archcalc.reference.kernels.cores import causal_mask
from archcalc.reference.norm_kinds import NormKind
from archcalc.reference.norms import Norm
from archcalc.reference.rope import Angles, rotate_halves

KEY_NORM = NormKind(name="layer", eps=1e-6)
"""Fixed in public modeling code."""


class IndexCore(Product):
    """sum over heads of weight * relu(q k^T) (DeepSeek-V3.2, equation 1). It has no weights, only FLOPs."""

    def forward(self, q: Tensor, k: Tensor, weights: Tensor) -> Tensor:
        """q [B,N,J,D], k [B,M,D], weights [B,N,J], all fp32 -> [B,N,M].

        Two batched products, so 2*B*N*M*J*D and 2*B*N*M*J FLOPs by torch's own rule.
        """
        scores = torch.bmm(q.flatten(1, 2), k.transpose(1, 2)).relu()
        per_query = scores.unflatten(1, q.shape[1:3]).flatten(0, 1)  # [B*N,J,M]
        return torch.bmm(weights.flatten(0, 1)[:, None], per_query).view(*q.shape[:2], -1)


class Indexer(nn.Module):
    """Picks at most `most` rows for each query.

    Args:
        section: the spec's section `indexer`.
        hidden: W.
        q_rank: features of the query latent.
        rope: R; of an index head, the first R features turn.

    Raises:
        InputError: index heads of fewer features than turn.
    """

    def __init__(self, section: Section, hidden: int, q_rank: int, rope: int, make: Factory) -> None:
        super().__init__()
        self.heads, self.head_dim = section.integer("index_n_heads"), section.integer("index_head_dim")
        self.most = section.integer("index_topk")
        self.rope = rope
        if self.head_dim < rope:
            raise InputError(
                f"{section.where}.index_head_dim: {rope} features turn, more than an index head has",
                value=self.head_dim,
            )
        section.finish()
        self.wq_b = make.linear(q_rank, self.heads * self.head_dim)
        self.wk = make.linear(hidden, self.head_dim)
        self.k_norm = Norm(KEY_NORM, self.head_dim, make)
        self.weights_proj = make.linear(hidden, self.heads)
        self.core = IndexCore()

    @torch.no_grad()
    def keys(self, x: Tensor, angles: Angles | None) -> Tensor:
        """[B,N,W] -> what is cached of each row, [B,N,D]."""
        return self._turned(self.k_norm(self.wk(x))[:, :, None], angles)[:, :, 0]

    @torch.no_grad()
    def forward(self, x: Tensor, q_latent: Tensor, keys: Tensor, angles: Angles | None) -> Tensor:
        """Row numbers [B,N,K] int32, the best by score of the rows up to a query's own; all M if no more fit.

        The scores are computed either way, as in public modeling code.
        """
        q = self._turned(self.wq_b(q_latent).unflatten(-1, (self.heads, self.head_dim)), angles)
        weights = self.weights_proj(x).float() * (self.heads * self.head_dim) ** -0.5
        scores = self.core(q.float(), keys.float(), weights)
        scores = scores + causal_mask(x.shape[1], keys.shape[1], scores)
        return scores.topk(min(self.most, keys.shape[1]), dim=-1).indices.to(torch.int32)

    def _turned(self, x: Tensor, angles: Angles | None) -> Tensor:
        """[B,N,J,D] -> the same; by halves, though the attention around it turns pairs."""
        if angles is None:
            return x
        turning, plain = x.split((self.rope, self.head_dim - self.rope), dim=-1)
        return torch.cat((rotate_halves(turning, angles), plain), dim=-1)
