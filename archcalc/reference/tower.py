"""What every vision tower and every projector of the twin has, and attention that stays inside groups of patches.

Legend: P patches, V features of a patch, H heads, D features of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from archcalc.reference.attention import AttentionCore
from archcalc.reference.kernels.counted import runs
from archcalc.reference.pixels import Grid

Piece = tuple[str, Sequence[Tensor], Callable[[], Tensor]]
"""A path in the checkpoint, the tensors that belong to the model there, and a run of the module on fresh inputs."""


class Tower(nn.Module):
    """A vision tower. Its constructor takes the spec's `vision` section and the factory.

    Attributes:
        merge: patches down and across of the group that becomes one token.
        path: where the checkpoint keeps it.
    """

    merge: tuple[int, int]
    path: str

    def pixels(self, patches: int) -> Tensor:
        """Empty pixels of so many patches, in the shape and dtype that it takes."""
        kernel = self.convolution.weight
        return kernel.new_empty(patches, *kernel.shape[1:]).detach()

    @property
    def convolution(self) -> nn.Module:
        """What turns patches of pixels into features."""
        raise NotImplementedError

    def levels(self, pixels: Tensor, grids: Sequence[Grid]) -> list[Tensor]:
        """Patches of pixels -> [tokens, patches of a group, V], of the last layer and of earlier ones that are seen."""
        raise NotImplementedError

    def in_order(self, merged: Tensor, grids: Sequence[Grid]) -> Tensor:
        """Tokens as the backbone wants them, from the order that the patches of `levels` have."""
        return merged

    def grids(self, patches: int) -> list[Grid]:
        """Some grids of so many patches: what is kept for backward depends on their number alone."""
        raise NotImplementedError

    def pieces(self, patches: int) -> Iterator[Piece]:
        """One of each segment."""
        raise NotImplementedError


class Projector(nn.Module):
    """A projector. Its constructor takes the spec's `projector` section, the patches of a group, and the factory.

    Attributes:
        features: of one patch.
    """

    features: int

    def places(self) -> Mapping[str, nn.Module]:
        """Its modules by where the checkpoint keeps them."""
        raise NotImplementedError

    def project(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """[tokens, patches of a group, features] -> [tokens, backbone features], each level."""
        raise NotImplementedError

    def pieces(self) -> Iterator[tuple[str, nn.Module]]:
        """One of each segment: its path, and what maps a level."""
        yield from self.places().items()


def owned(module: nn.Module) -> list[Tensor]:
    """Parameters and buffers: what a count of activations leaves out."""
    return [*module.parameters(), *module.buffers()]


def attend_inside(core: AttentionCore, q: Tensor, k: Tensor, v: Tensor, sizes: Sequence[int]) -> Tensor:
    """q, k, v [P,H,D], rows of each group in turn -> [P, H*D]. Neighbours of one size run as a batch."""
    blocks = list(runs(sizes))
    lengths = [number * rows for number, rows in blocks]
    pieces = [
        core(*(t.unflatten(0, (number, rows)) for t in chunk), q.shape[-1] ** -0.5).flatten(0, 1)
        for (number, rows), *chunk in zip(blocks, *(t.split(lengths) for t in (q, k, v)), strict=True)
    ]
    attended = pieces[0] if len(pieces) == 1 else torch.cat(pieces)  # of one piece, a copy would be kept
    return attended.flatten(1)
