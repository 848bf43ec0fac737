"""MoonViT-3D: a vision transformer over chunks of frames, as in Kimi K2.5's public modeling code
(arXiv:2602.02276), and in Kimi K3's, whose checkpoint names it so.

An image is a chunk of one frame. Attention is full inside a chunk and never crosses chunks. Legend: P patches
of all chunks, T frames, H and W patches a side, V hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from archcalc.errors import InputError
from archcalc.reference.attention import AttentionCore
from archcalc.reference.factory import Factory
from archcalc.reference.fields import Section
from archcalc.reference.norm_kinds import NormKind
from archcalc.reference.norms import Norm
from archcalc.reference.pixels import Grid
from archcalc.reference.rope import Angles, rotate_pairs
from archcalc.reference.tower import Piece, Tower, attend_inside, owned


class PositionTable(nn.Module):
    """A learned [H0, W0, V] table, resampled bicubically to each chunk, plus a fixed sine-cosine row a frame.

    Images (one frame) get no temporal term. The temporal table is derived, so it is no part of a checkpoint.
    """

    time: Tensor

    def __init__(self, height: int, width: int, frames: int, features: int, make: Factory) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(height, width, features, **make.at))
        nn.init.normal_(self.weight, std=0.02)
        frequencies = 1.0 / 10000.0 ** (torch.arange(0, features, 2, dtype=torch.float32) / features)
        angles = torch.arange(frames, dtype=torch.float32)[:, None] * frequencies
        self.register_buffer("time", torch.cat((angles.sin(), angles.cos()), dim=1).to(make.device), persistent=False)

    def forward(self, grids: Sequence[Grid]) -> Tensor:
        """[P, V], chunk after chunk, frame after frame, row after row."""
        return torch.cat([self._chunk(*grid) for grid in grids])

    def _chunk(self, frames: int, height: int, width: int) -> Tensor:
        table = self.weight
        if (height, width) != tuple(table.shape[:2]):
            image = table.permute(2, 0, 1)[None]
            image = nn.functional.interpolate(image, size=(height, width), mode="bicubic", align_corners=False)
            table = image[0].permute(1, 2, 0)
        spatial = table.flatten(0, 1)
        if frames == 1:
            return spatial
        return (spatial[None] + self.time[:frames, None].to(spatial.dtype)).flatten(0, 1)


class PatchEmbed(nn.Module):
    """A convolution whose stride is its kernel, and positions."""

    def __init__(self, section: Section, features: int, make: Factory) -> None:
        super().__init__()
        patch, channels = section.integer("patch_size"), section.integer("in_channels", 3)
        bias = section.flag("patch_embed_proj_bias", default=True)
        self.proj = nn.Conv2d(channels, features, patch, stride=patch, bias=bias, **make.at)
        section.choice("pos_emb_type", "divided_fixed")
        height, width = section.integer("init_pos_emb_height"), section.integer("init_pos_emb_width")
        frames = section.integer("init_pos_emb_time")
        self.pos_emb = PositionTable(height, width, frames, features, make)

    def forward(self, pixels: Tensor, grids: Sequence[Grid]) -> Tensor:
        """Patches [P, channels, patch, patch] -> [P, V]."""
        out: Tensor = self.proj(pixels).flatten(1) + self.pos_emb(grids)
        return out


class VisionMLP(nn.Module):
    """fc1(gelu(fc0 x)), with the tanh form of GELU."""

    def __init__(self, features: int, width: int, bias: bool, make: Factory) -> None:
        super().__init__()
        self.fc0 = make.linear(features, width, bias=bias)
        self.fc1 = make.linear(width, features, bias=bias)
        self.act = nn.GELU(approximate="tanh")

    def forward(self, x: Tensor) -> Tensor:
        """[P, V] -> [P, V]."""
        out: Tensor = self.fc1(self.act(self.fc0(x)))
        return out


class VisionBlock(nn.Module):
    """Pre-norm attention with one fused q, k, v projection, and a pre-norm MLP; in K2.5 every projection has a bias,
    in K3 none, and its heads are wider together than the residual stream."""

    def __init__(self, section: Section, features: int, norm: NormKind, make: Factory) -> None:
        super().__init__()
        self.heads = section.integer("vt_num_attention_heads")
        inner = section.integer("qkv_hidden_size", features)
        bias = section.flag("attn_bias", default=True)
        self.norm0, self.norm1 = Norm(norm, features, make), Norm(norm, features, make)
        self.wqkv = make.linear(features, 3 * inner, bias=bias)
        self.wo = make.linear(inner, features, bias=bias)
        width, mlp_bias = section.integer("vt_intermediate_size"), section.flag("linear_bias", default=True)
        self.mlp = VisionMLP(features, width, mlp_bias, make)
        self.core = AttentionCore(make, causal=False)

    def forward(self, x: Tensor, angles: Angles, grids: Sequence[Grid]) -> Tensor:
        """[P, V] -> [P, V]."""
        x = x + self.wo(self._attend(self.wqkv(self.norm0(x)), angles, grids))
        out: Tensor = x + self.mlp(self.norm1(x))
        return out

    def _attend(self, qkv: Tensor, angles: Angles, grids: Sequence[Grid]) -> Tensor:
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).unbind(1)
        q, k = rotate_pairs(q, angles), rotate_pairs(k, angles)
        return attend_inside(self.core, q, k, v, [frames * height * width for frames, height, width in grids])


class Encoder(nn.Module):
    """The blocks and a final norm, with two-dimensional rotary angles.

    Pairs of a head's features alternate between the column's and the row's angle; both use the same
    frequencies.

    Raises:
        InputError: features of a head that are no multiple of 4: each frequency takes two pairs.
    """

    frequencies: Tensor

    def __init__(self, section: Section, features: int, make: Factory) -> None:
        super().__init__()
        heads = section.integer("vt_num_attention_heads")
        rms = section.choice("norm_type", "layernorm", "rmsnorm", default="layernorm") == "rmsnorm"
        norm = NormKind(name="rms" if rms else "layer", eps=section.number("layer_norm_eps", 1e-5))
        theta = section.number("rope_theta", 10000.0)
        layers = section.integer("vt_num_hidden_layers")
        section.choice("video_attn_type", "spatial_temporal")
        self.blocks = nn.ModuleList(VisionBlock(section, features, norm, make) for _ in range(layers))
        self.final_layernorm = Norm(norm, features, make)
        inner = section.integer("qkv_hidden_size", features)
        if inner % (4 * heads):
            raise InputError(
                f"two-dimensional rotary embedding turns features in fours; {inner} do not divide into {heads} heads"
                " of those",
                value=inner,
            )
        half = inner // heads // 2
        frequencies = 1.0 / theta ** (torch.arange(0, half, 2, dtype=torch.float32) / half)
        self.register_buffer("frequencies", frequencies.to(make.device), persistent=False)

    def forward(self, x: Tensor, grids: Sequence[Grid]) -> Tensor:
        """[P, V] -> [P, V]."""
        angles = self.angles(grids)
        for block in self.blocks:
            x = block(x, angles, grids)
        out: Tensor = self.final_layernorm(x)
        return out

    def angles(self, grids: Sequence[Grid]) -> Angles:
        """Of the patches of all chunks, [P, half of a head's features]."""
        places = []
        for frames, height, width in grids:
            across = torch.arange(width, device=self.frequencies.device).repeat(height)
            down = torch.arange(height, device=self.frequencies.device).repeat_interleave(width)
            places.append(torch.stack((across, down), dim=-1).repeat(frames, 1))
        angles = (torch.cat(places).float()[:, None, :] * self.frequencies[:, None]).flatten(1)
        return torch.polar(torch.ones_like(angles), angles)


class MoonViT3D(Tower):
    """Patches to merged features: embed, encode, average over a chunk's frames, group 2x2 neighbours.

    Args:
        section: the spec's `vision` section.
    """

    path = "vision_tower"

    def __init__(self, section: Section, make: Factory) -> None:
        super().__init__()
        section.choice("kind", "moonvit3d")
        features = section.integer("vt_hidden_size")
        self.merge = section.pair("merge_kernel_size")
        section.choice("merge_type", "sd2_tpool")
        self.patch_embed = PatchEmbed(section, features, make)
        self.encoder = Encoder(section, features, make)

    def forward(self, pixels: Tensor, grids: Sequence[Grid]) -> Tensor:
        """Patches [P, channels, patch, patch] -> [merged tokens, patches of a group, V], chunk after
        chunk."""
        x = self.encoder(self.patch_embed(pixels, grids), grids)
        chunks = x.split([frames * height * width for frames, height, width in grids])
        return torch.cat([self._merged(chunk, grid) for chunk, grid in zip(chunks, grids, strict=True)])

    def _merged(self, chunk: Tensor, grid: Grid) -> Tensor:
        frames, height, width = grid
        down, across = self.merge
        cells = chunk.view(frames, height // down, down, width // across, across, -1)
        return cells.permute(0, 1, 3, 2, 4, 5).mean(0).flatten(2, 3).flatten(0, 1)

    @property
    def convolution(self) -> nn.Module:
        """What turns patches of pixels into features."""
        return self.patch_embed.proj

    def levels(self, pixels: Tensor, grids: Sequence[Grid]) -> list[Tensor]:
        """The last layer's alone: [merged tokens, patches of a group, V]."""
        return [self(pixels, grids)]

    def grids(self, patches: int) -> list[Grid]:
        """One row of patches."""
        return [(1, 1, patches)]

    def pieces(self, patches: int) -> Iterator[Piece]:
        """Patch embedding, a block, the final norm."""
        embed, encoder, grids, pixels = self.patch_embed, self.encoder, self.grids(patches), self.pixels(patches)
        block, angles = encoder.blocks[0], encoder.angles(grids)
        x = pixels.new_empty(patches, embed.proj.weight.shape[0], requires_grad=True)
        yield "vision_tower.patch_embed", owned(embed), lambda: embed(pixels, grids)
        yield "vision_tower.encoder.blocks.0", [*owned(block), angles], lambda: block(x, angles, grids)
        yield "vision_tower.encoder.final_layernorm", owned(encoder), lambda: encoder.final_layernorm(x)
