"""Image and video sizes to patch grids, by the public preprocessing rule of Kimi K2.5
(kimi_k25_vision_processing).

Never upscaled; scaled down to the patch limits; padded up to whole merged groups. Plain arithmetic, no torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from archcalc.reference.fields import Section

Grid = tuple[int, int, int]
"""One chunk: frames, patches down, patches across."""


def grids(
    vision: Section, images: Sequence[tuple[int, int]] = (), videos: Sequence[tuple[int, int, int]] = ()
) -> list[Grid]:
    """The chunks of all images, then of all videos.

    Args:
        vision: the spec's `vision` section.
        images: (height, width) [px].
        videos: (sampled frames, height, width) [frames, px, px].
    """
    chunks = [(1, *sides(vision, height, width, vision.integer("in_patch_limit"))) for height, width in images]
    for frames, height, width in videos:
        most = vision.integer("temporal_merge_kernel_size")
        down, across = sides(vision, height, width, vision.integer("in_patch_limit_each_frame"))
        chunks += [(min(most, frames - start), down, across) for start in range(0, frames, most)]
    return chunks


def sides(vision: Section, height: int, width: int, limit: int) -> tuple[int, int]:
    """Patches down and across of one frame, padding included.

    Args:
        height, width: of the frame [px].
        limit: most patches of the frame before padding.
    """
    patch, longest = (
        vision.integer("patch_size"),
        vision.integer("patch_limit_on_one_side") * vision.integer("patch_size"),
    )
    patches = max(1, height // patch) * max(1, width // patch)
    scale = min(1.0, math.sqrt(limit / patches), longest / height, longest / width)
    merge = vision.pair("merge_kernel_size")
    counts = []
    for side, group in zip((height, width), merge, strict=True):
        pixels = min(max(1, int(side * scale)), longest)
        counts.append(-(-pixels // (patch * group)) * group)
    return counts[0], counts[1]


def tokens(vision: Section, chunks: Sequence[Grid]) -> int:
    """Backbone tokens of the chunks: one a merged group, whatever the frames."""
    down, across = vision.pair("merge_kernel_size")
    return sum((height // down) * (width // across) for _, height, width in chunks)
