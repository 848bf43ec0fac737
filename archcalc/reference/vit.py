"""A vision transformer with rotary or learned positions, as in the public classes of Qwen2-VL, Qwen2.5-VL, Qwen3-VL,
CLIP and SigLIP (transformers, models/*/modeling_*.py, and vision_utils.py for positions and windows).

Patches come frame after frame, in each frame merge group after merge group. Attention stays inside a frame, or inside
a window of it. Legend: P patches of all frames, V features of a patch, m patches along a side of a merge group.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from archcalc.errors import InputError
from archcalc.reference.factory import Factory
from archcalc.reference.fields import Section
from archcalc.reference.norm_kinds import NormKind
from archcalc.reference.norms import Norm
from archcalc.reference.pixels import Grid
from archcalc.reference.places import place
from archcalc.reference.rope import Angles
from archcalc.reference.tower import Piece, Tower, owned
from archcalc.reference.vit_parts import NAMES, Block, Table, positions


class ViT(Tower):
    """Patches to features of merge groups, of the last layer and of those that hand theirs on.

    Args:
        section: the spec's `vision` section.

    Raises:
        InputError: features of a head that are no multiple of 4, where they are rotated: each frequency takes a pair
            for the row and one for the column.
    """

    def __init__(self, section: Section, make: Factory) -> None:
        super().__init__()
        section.choice("kind", "vit")
        self.names, self.path = NAMES[section.choice("names", *NAMES)], section.word("prefix")
        self.features, self.side = section.integer("hidden_size"), section.integer("spatial_merge_size")
        self.merge = (self.side, self.side)
        self._embedding(section, make)
        norm = NormKind(name=section.choice("norm", "layer", "rms"), eps=section.number("norm_eps"))
        for name, there in (("pre_layrnorm", "pre_norm"), ("post_layernorm", "post_norm")):
            if section.flag(there):
                self.add_module(name, Norm(norm, self.features, make))
        depth = section.integer("num_hidden_layers")
        place(self, self.names.blocks, nn.ModuleList(Block(section, self.names, norm, make) for _ in range(depth)))
        self._groups(section, depth)
        self.theta = section.number("rope_theta") if section.has("rope_theta") else None
        self.head_dim = section.integer("head_dim")
        if self.theta is not None and self.head_dim % 4:
            raise InputError(
                f"two-dimensional rotary embedding turns features in fours, and {self.head_dim} of a head are none",
                value=self.head_dim,
            )

    def _embedding(self, section: Section, make: Factory) -> None:
        patch, depth = section.integer("patch_size"), section.integer("temporal_patch_size", 1)
        kernel = (depth, patch, patch) if depth > 1 else (patch, patch)
        convolution = nn.Conv3d if depth > 1 else nn.Conv2d
        channels, bias = section.integer("in_channels"), section.flag("patch_embed_bias")
        made = convolution(channels, self.features, kernel, stride=kernel, bias=bias, **make.at)  # type: ignore[arg-type]
        place(self, self.names.patches, made)
        table = section.optional_integer("num_position_embeddings")
        self.interpolate = section.flag("interpolate_pos_encoding")
        self.has_table, self.has_class = table is not None, section.flag("class_token")
        if table is not None:
            place(self, self.names.positions, Table(table, self.features, **make.at))
        if self.has_class:
            module = self.get_submodule(self.names.patches.partition(".")[0])
            module.class_embedding = nn.Parameter(torch.zeros(self.features, **make.at))

    def _groups(self, section: Section, depth: int) -> None:
        window = section.optional_integer("window_size")
        self.window = None if window is None else window // self.side // section.integer("patch_size")
        full = range(depth) if window is None else section.integers("fullatt_block_indexes")
        self.windowed = [layer not in full for layer in range(depth)]
        self.seen = section.integers("deepstack_visual_indexes")

    # -- parts ------------------------------------------------------------------------------------------------------

    @property
    def convolution(self) -> nn.Module:
        """What turns patches of pixels into features."""
        return self.get_submodule(self.names.patches)

    @property
    def stack(self) -> nn.ModuleList:
        """The blocks in order."""
        found = self.get_submodule(self.names.blocks)
        assert isinstance(found, nn.ModuleList)
        return found

    def angles(self, grids: Sequence[Grid]) -> Angles | None:
        """Rotary angles of the patches, [P, half of a head's features], in the order that the blocks see."""
        if self.theta is None:
            return None
        half, device = self.head_dim // 2, self.convolution.weight.device
        frequencies = 1.0 / self.theta ** (torch.arange(0, half, 2, dtype=torch.float32, device=device) / half)
        places = torch.cat([positions(grid, self.side, device) for grid in grids], dim=1).float()
        angles = torch.cat([side[:, None] * frequencies for side in places], dim=-1)
        return torch.polar(torch.ones_like(angles), self._by_window(angles, grids))

    def embed(self, pixels: Tensor, grids: Sequence[Grid]) -> Tensor:
        """Patches [P, channels, (frames,) patch, patch] -> [P, and class tokens, V]."""
        x = self.convolution(pixels).flatten(1)
        if self.has_class:
            module = self.get_submodule(self.names.patches.partition(".")[0])
            pictures = x.unflatten(0, (-1, grids[0][1] * grids[0][2]))  # all of one size
            token = module.class_embedding.expand(len(pictures), 1, -1)
            x = torch.cat((token, pictures), dim=1).flatten(0, 1)
        if self.has_table:
            table = self.get_submodule(self.names.positions)
            assert isinstance(table, Table)
            x = table.added(x, grids, self.side, interpolate=self.interpolate)
        if "pre_layrnorm" in self._modules:
            x = self.get_submodule("pre_layrnorm")(x)
        return self._by_window(x, grids)

    def finish(self, x: Tensor, grids: Sequence[Grid]) -> Tensor:
        """The last norm, and the patches alone: [P, and class tokens, V] -> [P, V]."""
        if "post_layernorm" in self._modules:
            x = self.get_submodule("post_layernorm")(x)
        if self.has_class:
            x = x.unflatten(0, (-1, 1 + grids[0][1] * grids[0][2]))[:, 1:].flatten(0, 1)
        return x

    # -- order of windows -------------------------------------------------------------------------------------------

    def _order(self, grids: Sequence[Grid]) -> Tensor:
        """Merge groups in the order of windows, [P / m²] int64."""
        device, before, found = self.convolution.weight.device, 0, []
        for frames, height, width in grids:
            down, across = height // self.side, width // self.side
            numbers = torch.arange(frames * down * across, device=device).view(frames, down, across) + before
            before += frames * down * across
            for frame in numbers:
                found += [w.flatten() for row in frame.split(self.window, 0) for w in row.split(self.window, 1)]
        return torch.cat(found)

    def _by_window(self, x: Tensor, grids: Sequence[Grid]) -> Tensor:
        if self.window is None:
            return x
        return x.unflatten(0, (-1, self.side**2))[self._order(grids)].flatten(0, 1)

    def in_order(self, merged: Tensor, grids: Sequence[Grid]) -> Tensor:
        """Tokens back from the order of windows."""
        return merged if self.window is None else merged[self._order(grids).argsort()]

    def sizes(self, grids: Sequence[Grid], *, windows: bool) -> list[int]:
        """Rows of each group that attends inside itself."""
        found = []
        for frames, height, width in grids:
            if windows and self.window is not None:
                side = self.window * self.side
                cuts = [[min(side, n - start) for start in range(0, n, side)] for n in (height, width)]
                found += [down * across for down in cuts[0] for across in cuts[1]] * frames
            else:
                found += [height * width + self.has_class] * frames
        return found

    # -- the whole --------------------------------------------------------------------------------------------------

    def levels(self, pixels: Tensor, grids: Sequence[Grid]) -> list[Tensor]:
        """[tokens, patches of a group, V], the last layer's first."""
        x, angles = self.embed(pixels, grids), self.angles(grids)
        sizes = [self.sizes(grids, windows=windows) for windows in (False, True)]
        earlier: dict[int, Tensor] = {}
        for layer, block in enumerate(self.stack):
            x = block(x, angles, sizes[self.windowed[layer]])
            if layer in self.seen:
                earlier[layer] = x
        levels = [self.finish(x, grids), *(earlier[layer] for layer in self.seen)]
        return [level.unflatten(0, (-1, self.side**2)) for level in levels]

    def grids(self, patches: int) -> list[Grid]:
        """Frames of one merge group; of a tower with a table of its own, whole pictures."""
        side = self.side
        if self.has_table and not self.interpolate:
            table = self.get_submodule(self.names.positions)
            assert isinstance(table, Table)
            side = int((table.num_embeddings - self.has_class) ** 0.5)
        return [(patches // side**2, side, side)]

    def pieces(self, patches: int) -> Iterator[Piece]:
        """Embedding, a block of each kind, what follows the last."""
        grids, pixels, angles = self.grids(patches), self.pixels(patches), self.angles(self.grids(patches))
        embed = self.names.patches.partition(".")[0]
        yield f"{self.path}.{embed}", owned(self), lambda: self.embed(pixels, grids)
        rows = patches + self.has_class * grids[0][0]
        x = pixels.new_empty(rows, self.features, requires_grad=True)
        tables = [*owned(self), *([] if angles is None else [angles])]
        for kind in dict.fromkeys(self.windowed):
            first, sizes = self.windowed.index(kind), self.sizes(grids, windows=kind)
            block = self.stack[first]
            yield f"{self.path}.{self.names.blocks}.{first}", tables, partial(block, x, angles, sizes)
        last = "post_layernorm" if "post_layernorm" in self._modules else "patches"
        if last == "post_layernorm" or self.has_class:
            yield f"{self.path}.{last}", owned(self), lambda: self.finish(x, grids)
