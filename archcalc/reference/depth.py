"""Attention residuals: what a mixer reads is a softmax over the outputs of blocks of layers, not their sum.

Attention Residuals, arXiv:2603.15031, as Kimi K3 has them (vLLM, models/kimi_linear.py, `_apply_attn_res`, read, not
run). A block's output is noted where the next one begins, the embedding first; the running sum then begins anew.
Legend: B sequences, N rows, S slots for the blocks' outputs, W hidden size.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from archcalc.reference.factory import Factory
from archcalc.reference.kernels.recompute import checkpointed
from archcalc.reference.norm_kinds import NormKind
from archcalc.reference.norms import Norm


class Sources(nn.Linear):
    """..._res_proj: one row that scores sources, and the sum that they are weighed into.

    As many slots are multiplied as there are in the end; those that are empty yet are masked. For backward the running
    sum is kept, and all else is computed again: what public kernels do in training isn't known.
    """

    def __init__(self, hidden: int, make: Factory) -> None:
        super().__init__(hidden, 1, bias=False, **make.at)
        self.again = make.options.kernels != "counted"

    def forward(self, x: Tensor, blocks: Tensor, filled: int, norm: Norm) -> Tensor:
        """Running sum [B,N,W], blocks [B,N,S,W] of which the first `filled` are there -> [B,N,W]."""
        return checkpointed(self.again, partial(self._mixed, filled, norm), x, blocks)

    def _mixed(self, filled: int, norm: Norm, x: Tensor, blocks: Tensor) -> Tensor:
        sources = torch.cat((blocks, x[:, :, None]), dim=2)
        scores = super().forward(norm(sources))[..., 0].float()
        empty = torch.arange(blocks.shape[2] + 1, device=x.device)
        scores = scores.masked_fill((empty >= filled) & (empty < blocks.shape[2]), float("-inf"))
        weights = scores.softmax(-1).to(x.dtype).unsqueeze(2)  # [B,N,1,S+1]
        return torch.matmul(weights, sources)[:, :, 0]


def sources_of(hidden: int, eps: float, make: Factory) -> tuple[Norm, Sources]:
    """The two modules of a site: ..._res_norm and ..._res_proj."""
    return Norm(NormKind(name="rms", eps=eps), hidden, make), Sources(hidden, make)


class Blocks:
    """What blocks of layers have made in one pass.

    Args:
        x: the residual [B,N,W].
        size: layers of a block.
        depth: layers in all.
    """

    def __init__(self, x: Tensor, size: int, depth: int) -> None:
        self.size, self.slots = size, -(-depth // size)
        self.outputs = x.new_zeros(*x.shape[:2], self.slots, x.shape[2])

    def note(self, layer: int, x: Tensor) -> None:
        """Before a layer: if it begins a block, the residual is what the block before made."""
        slot, within = divmod(layer, self.size)
        if not within:
            kept = self.outputs
            self.outputs = torch.cat((kept[:, :, :slot], x[:, :, None], kept[:, :, slot + 1 :]), dim=2)
