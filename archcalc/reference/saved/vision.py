"""The vision tower and its projector: MoonViT-3D and the patch merger of Kimi K2.5's public modeling code.

Both profiles run the same operations here: LayerNorm and GELU are single kernels of PyTorch.
Legend: P patches, H heads, D features of a head, C channels, S pixels of a patch's side.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from archcalc.errors import InputError
from archcalc.reference.fields import Section
from archcalc.reference.saved.attention import Rope
from archcalc.reference.saved.core import attend
from archcalc.reference.saved.counting import saved_bytes
from archcalc.reference.saved.kernels import activation
from archcalc.reference.saved.modules import BF16, META, dtype_of, linear, owned


class VisionBlock(nn.Module):
    """x + wo(attention(norm0 x)), then x + fc1(gelu(fc0(norm1 x))). v stays a view of the whole qkv
    output."""

    def __init__(self, section: Section, patches: int, device: torch.device) -> None:
        super().__init__()
        self.hidden = hidden = section.integer("vt_hidden_size")
        width, self.heads = section.integer("vt_intermediate_size"), section.integer("vt_num_attention_heads")
        self.norm0, self.norm1 = (_layer_norm(hidden, section, "layer_norm_eps", device) for _ in range(2))
        self.qkv = linear(hidden, 3 * hidden, True, device)
        self.out = linear(hidden, hidden, True, device)
        self.fc0, self.fc1 = linear(hidden, width, True, device), linear(width, hidden, True, device)
        self.rope = Rope(patches, hidden // self.heads, device)

    def forward(self, x: Tensor) -> Tensor:
        """[P,hidden] -> the same; one chunk, every patch sees every other."""
        q, k, v = self.qkv(self.norm0(x)).unflatten(-1, (3, self.heads, -1)).unbind(1)
        out = attend(self.rope(q[None]), self.rope(k[None]), v[None], core="flash", causal=False)
        x = x + self.out(out[0].flatten(-2))
        return x + self.fc1(activation("gelu_pytorch_tanh")(self.fc0(self.norm1(x))))


class PatchEmbed(nn.Module):
    """One convolution of the pixels plus a learned position table, stretched to the image's grid."""

    def __init__(self, section: Section, device: torch.device) -> None:
        super().__init__()
        hidden, side = section.integer("vt_hidden_size"), section.integer("patch_size")
        height, width = section.integer("init_pos_emb_height"), section.integer("init_pos_emb_width")
        self.proj = nn.Conv2d(section.integer("in_channels"), hidden, side, side, device=device, dtype=BF16)
        self.positions = nn.Parameter(torch.zeros(height, width, hidden, device=device, dtype=BF16))

    def forward(self, pixels: Tensor) -> Tensor:
        """[P,C,S,S] -> [P,hidden]; the stretch keeps sizes only, so any grid of P patches stands for all."""
        grid = (1, pixels.shape[0])
        table = functional.interpolate(self.positions.permute(2, 0, 1)[None], size=grid, mode="bicubic")
        out: Tensor = self.proj(pixels).flatten(1) + table.flatten(0, 2).T
        return out


class Projector(nn.Module):
    """LayerNorm, patches of a merge group side by side, linear, GELU, linear."""

    def __init__(self, section: Section, group: int, device: torch.device) -> None:
        super().__init__()
        features = section.integer("mm_hidden_size")
        merged = group * features
        self.group, self.features = group, features
        self.after_merge = section.flag("use_postshuffle_norm")
        self.act = section.word("projector_hidden_act")
        normed = merged if self.after_merge else features
        self.norm = _layer_norm(normed, section, "projector_ln_eps", device)
        self.fc1 = linear(merged, merged, True, device)
        self.fc2 = linear(merged, section.integer("text_hidden_size"), True, device)

    def forward(self, x: Tensor) -> Tensor:
        """[P/group, group, features] -> [P/group, hidden of the backbone]."""
        x = self.norm(x.flatten(1)) if self.after_merge else self.norm(x).flatten(1)
        out: Tensor = self.fc2(activation(self.act)(self.fc1(x)))
        return out


def _layer_norm(features: int, section: Section, eps: str, device: torch.device) -> nn.LayerNorm:
    return nn.LayerNorm(features, eps=section.number(eps, 1e-5), device=device, dtype=BF16)


def vision_block_bytes(vision: Mapping[str, object], patches: int) -> int:
    """Bytes that one block of the tower keeps for `patches` patches, its input included [bytes]."""
    section = Section(vision, "vision")
    dtype = dtype_of(section)
    block = VisionBlock(section, patches, META).to(dtype)
    x = torch.empty(patches, block.hidden, dtype=dtype, device=META, requires_grad=True)
    return saved_bytes(lambda: block(x), owned(block))


def patch_embed_bytes(vision: Mapping[str, object], patches: int) -> int:
    """Bytes that the patch embedding keeps: its pixels, which need no gradient but give the weight's [bytes]."""
    section = Section(vision, "vision")
    dtype = dtype_of(section)
    embed, side = PatchEmbed(section, META).to(dtype), section.integer("patch_size")
    pixels = torch.empty(patches, section.integer("in_channels"), side, side, dtype=dtype, device=META)
    return saved_bytes(lambda: embed(pixels), owned(embed))


def vision_norm_bytes(vision: Mapping[str, object], patches: int) -> int:
    """Bytes that the tower's final LayerNorm keeps: its input and two fp32 statistics a patch [bytes]."""
    section = Section(vision, "vision")
    hidden = section.integer("vt_hidden_size")
    dtype = dtype_of(section)
    norm = _layer_norm(hidden, section, "layer_norm_eps", META).to(dtype)
    x = torch.empty(patches, hidden, dtype=dtype, device=META, requires_grad=True)
    return saved_bytes(lambda: norm(x), owned(norm))


def projector_bytes(projector: Mapping[str, object], vision: Mapping[str, object], patches: int) -> int:
    """Bytes that the projector keeps for `patches` patches that reach it, its input included [bytes].

    Raises:
        InputError: when the patches don't fill whole merge groups.
    """
    height, width = Section(vision, "vision").pair("merge_kernel_size")
    group = height * width
    if patches % group:
        raise InputError(f"{patches} patches don't fill groups of {height} x {width}")
    section = Section(projector, "projector")
    dtype = dtype_of(section)
    module = Projector(section, group, META).to(dtype)
    x = torch.empty(patches // group, group, module.features, dtype=dtype, device=META, requires_grad=True)
    return saved_bytes(lambda: module(x), owned(module))
