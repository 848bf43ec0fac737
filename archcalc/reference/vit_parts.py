"""Parts of a vision transformer: attention inside groups, feed-forward, block, position table (transformers,
models/qwen2_vl, qwen2_5_vl, qwen3_vl, clip and siglip).

Legend: P patches of all frames, V features of a patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from archcalc.reference.activations import ACTIVATIONS, Glu
from archcalc.reference.attention import AttentionCore
from archcalc.reference.factory import Factory
from archcalc.reference.fields import Section
from archcalc.reference.norm_kinds import NormKind
from archcalc.reference.norms import Norm
from archcalc.reference.pixels import Grid
from archcalc.reference.rope import Angles, rotate_halves
from archcalc.reference.tower import attend_inside


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x) (OpenAI's CLIP)."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., F] -> the same."""
        return x * torch.sigmoid(1.702 * x)


ACTS = {**ACTIVATIONS, "quick_gelu": QuickGELU()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """Modules of the tower, of a block and inside it."""

    patches: str
    positions: str
    blocks: str
    norms: tuple[str, str]
    attention: str
    qkv: tuple[str, ...]
    out: str
    mlp: tuple[str, str]


QWEN = Names(
    patches="patch_embed.proj",
    positions="pos_embed",
    blocks="blocks",
    norms=("norm1", "norm2"),
    attention="attn",
    qkv=("qkv",),
    out="proj",
    mlp=("fc1", "fc2"),
)
NAMES = {
    "qwen2_vl": QWEN,
    "qwen3_vl": replace(QWEN, mlp=("linear_fc1", "linear_fc2")),
    "clip": Names(
        patches="embeddings.patch_embedding",
        positions="embeddings.position_embedding",
        blocks="encoder.layers",
        norms=("layer_norm1", "layer_norm2"),
        attention="self_attn",
        qkv=("q_proj", "k_proj", "v_proj"),
        out="out_proj",
        mlp=("fc1", "fc2"),
    ),
}


class Attention(nn.Module):
    """Queries, keys and values from one linear or three, rotated if there are angles, inside groups of rows."""

    def __init__(self, section: Section, names: Names, make: Factory) -> None:
        super().__init__()
        features, self.heads = section.integer("hidden_size"), section.integer("num_attention_heads")
        inner, bias = self.heads * section.integer("head_dim"), section.flag("attention_bias")
        self._made = names.qkv
        for name in names.qkv:
            self.add_module(name, make.linear(features, 3 * inner // len(names.qkv), bias=bias))
        self._out = names.out
        self.add_module(names.out, make.linear(inner, features, bias=bias))
        self.core = AttentionCore(make, causal=False)

    def forward(self, x: Tensor, angles: Angles | None, sizes: Sequence[int]) -> Tensor:
        """[P, V] -> [P, V]."""
        made = [self.get_submodule(name)(x) for name in self._made]
        each = made[0].unflatten(-1, (3, -1)).unbind(1) if len(made) == 1 else made
        q, k, v = (t.unflatten(-1, (self.heads, -1)) for t in each)
        if angles is not None:
            q, k = rotate_halves(q, angles), rotate_halves(k, angles)
        out: Tensor = self.get_submodule(self._out)(attend_inside(self.core, q, k, v, sizes))
        return out


class FeedForward(nn.Module):
    """Two linears around an activation, or three with a gate."""

    def __init__(self, section: Section, names: Names, make: Factory) -> None:
        super().__init__()
        features, width = section.integer("hidden_size"), section.integer("intermediate_size")
        self.kernels, self._act = make.kernels, ACTS[section.choice("hidden_act", *ACTS)]
        gated, bias = section.flag("gated"), section.flag("mlp_bias")
        self._into = ("gate_proj", "up_proj") if gated else names.mlp[:1]
        self._out = "down_proj" if gated else names.mlp[1]
        for name in self._into:
            self.add_module(name, make.linear(features, width, bias=bias))
        self.add_module(self._out, make.linear(width, features, bias=bias))

    def forward(self, x: Tensor) -> Tensor:
        """[P, V] -> [P, V]."""
        first, *up = (self.get_submodule(name)(x) for name in self._into)
        if up:
            inner = self.kernels.gated(first, up[0], None, Glu(self._act), fp8=False)
        else:
            inner = self.kernels.activated(first, None, self._act, fp8=False)
        out: Tensor = self.get_submodule(self._out)(inner)
        return out


class Block(nn.Module):
    """x + attention(norm x), then x + mlp(norm x)."""

    def __init__(self, section: Section, names: Names, norm: NormKind, make: Factory) -> None:
        super().__init__()
        self._names = names
        for name in names.norms:
            self.add_module(name, Norm(norm, section.integer("hidden_size"), make))
        self.add_module(names.attention, Attention(section, names, make))
        self.mlp = FeedForward(section, names, make)

    def forward(self, x: Tensor, angles: Angles | None, sizes: Sequence[int]) -> Tensor:
        """[P, V] -> [P, V]; `sizes` are the rows of each group."""
        first, second = (self.get_submodule(name) for name in self._names.norms)
        x = x + self.get_submodule(self._names.attention)(first(x), angles, sizes)
        out: Tensor = x + self.mlp(second(x))
        return out


class Table(nn.Embedding):
    """Learned positions: one for each row of a picture of fixed size, or a square grid resampled to each frame's, as a
    weighted sum of the four nearest (bilinear, corners aligned)."""

    def added(self, x: Tensor, grids: Sequence[Grid], merge: int, *, interpolate: bool) -> Tensor:
        """[P, V] -> [P, V]."""
        if not interpolate:
            return (x.unflatten(0, (-1, self.num_embeddings)) + self.weight).flatten(0, 1)
        side = int(self.num_embeddings**0.5)
        indices, weights = zip(*(self._nearest(grid, side, merge) for grid in grids), strict=True)
        found = self(torch.cat(indices)) * torch.cat(weights)[..., None]
        return x + found.sum(1).to(x.dtype)

    def _nearest(self, grid: Grid, side: int, merge: int) -> tuple[Tensor, Tensor]:
        """Rows of the table [P, 4] int64 and their weights [P, 4] fp32."""
        frames, *lengths = grid
        places = positions(grid, merge, self.weight.device)[:, : lengths[0] * lengths[1]]
        near, shares = [], []
        for place_of, length in zip(places, lengths, strict=True):
            exact = place_of.float() * (side - 1) / max(length - 1, 1)
            below = exact.long()
            share = exact - below
            near.append(torch.stack((below, (below + 1).clamp(max=side - 1)), -1))
            shares.append(torch.stack((1 - share, share), -1))
        rows = (near[0][:, :, None] * side + near[1][:, None]).flatten(1)
        weights = (shares[0][:, :, None] * shares[1][:, None]).flatten(1)
        return rows.repeat(frames, 1), weights.repeat(frames, 1)


def positions(grid: Grid, merge: int, device: torch.device) -> Tensor:
    """Row and column of each patch, [2, P]: frame after frame, merge group after merge group."""
    frames, height, width = grid
    down, across = torch.meshgrid(
        torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
    )
    groups = (height // merge, merge, width // merge, merge)
    both = [side.reshape(groups).transpose(1, 2).flatten().repeat(frames) for side in (down, across)]
    return torch.stack(both)
