"""Image and video sizes to patch grids, by the public preprocessing rules. Plain arithmetic, no torch.

Kimi K2.5 (kimi_k25_vision_processing): never upscaled; scaled down to the patch limits; padded up to whole merged
groups. Qwen2-VL and its heirs: scaled either way, between two areas. CLIP: to one square.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from archcalc.errors import InputError
from archcalc.reference.fields import Section

Grid = tuple[int, int, int]
"""One chunk: frames (layers of patches), patches down, patches across."""


def grids(
    vision: Section, images: Sequence[tuple[int, int]] = (), videos: Sequence[tuple[int, int, int]] = ()
) -> list[Grid]:
    """The chunks of all images, then of all videos.

    Args:
        vision: the spec's `vision` section.
        images: (height, width) [px].
        videos: (sampled frames, height, width) [frames, px, px].

    Raises:
        InputError: a picture that the processor refuses.
    """
    return RULES[vision.choice("kind", *RULES)].grids(vision, images, videos)


def _chunks(vision: Section, images: Sequence[tuple[int, int]], videos: Sequence[tuple[int, int, int]]) -> list[Grid]:
    """MoonViT-3D's: a video runs in chunks of so many frames."""
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
    """Backbone tokens of the chunks."""
    return RULES[vision.choice("kind", *RULES)].tokens(vision, chunks)


def _chunk_tokens(vision: Section, chunks: Sequence[Grid]) -> int:
    """One a merged group, whatever the frames."""
    down, across = vision.pair("merge_kernel_size")
    return sum((height // down) * (width // across) for _, height, width in chunks)


# -- pictures of whole merge groups, or of one size ----------------------------------------------------------------


def _pictures(vision: Section, images: Sequence[tuple[int, int]], videos: Sequence[tuple[int, int, int]]) -> list[Grid]:
    """A ViT's: a grid for each image and video, whose patches are so many frames deep; the last frames are repeated."""
    patch, deep = vision.integer("patch_size"), vision.integer("temporal_patch_size", 1)
    found = [(1, *_picture(vision, height, width, None)) for height, width in images]
    found += [(math.ceil(frames / deep), *_picture(vision, h, w, frames)) for frames, h, w in videos]
    return [(layers, height // patch, width // patch) for layers, height, width in found]


def _picture(vision: Section, height: int, width: int, frames: int | None) -> tuple[int, int]:
    """Sides after resizing [px]; `frames` of a video, None for an image."""
    rule = vision.section("processor")
    if rule.choice("kind", "smart_resize", "fixed") == "fixed":
        return rule.integer("image_size"), rule.integer("image_size")
    factor = vision.integer("patch_size") * vision.integer("spatial_merge_size")
    if frames is None:
        return smart_resize(height, width, factor, rule.integer("min_pixels"), rule.integer("max_pixels"))
    least, most = rule.integer("video_min_pixels"), rule.integer("video_max_pixels")
    if rule.choice("video_pixels", "per_frame", "per_video") == "per_frame":
        return smart_resize(height, width, factor, least, most)
    deep = vision.integer("temporal_patch_size", 1)
    if frames < deep:
        raise InputError(f"{frames} frames are fewer than a patch is deep: {deep}", value=frames)
    grown = max(1.0, factor / height, factor / width)
    if grown > 1:
        height, width = int(height * grown), int(width * grown)
    return smart_resize(height, width, factor, least, most, frames, round(frames / deep) * deep)


def smart_resize(
    height: int, width: int, factor: int, least: int, most: int, frames: int = 1, rounded_frames: int = 1
) -> tuple[int, int]:
    """Sides that are multiples of `factor` [px], between two areas (transformers, `smart_resize` of
    models/qwen2_vl/image_processing_qwen2_vl.py; with frames, of models/qwen3_vl/video_processing_qwen3_vl.py).

    Raises:
        InputError: more than 200 times as long as wide.
    """
    if max(height, width) > 200 * min(height, width):
        raise InputError(f"{height} x {width} is more than 200 times as long as wide", value=max(height, width))
    down, across = round(height / factor), round(width / factor)
    area = rounded_frames * down * factor * across * factor
    if area > most:
        shrink = math.sqrt(frames * height * width / most)
        down, across = (max(1, math.floor(side / shrink / factor)) for side in (height, width))
    if area < least:
        grow = math.sqrt(least / (frames * height * width))
        down, across = (math.ceil(side * grow / factor) for side in (height, width))
    return down * factor, across * factor


def _picture_tokens(vision: Section, chunks: Sequence[Grid]) -> int:
    """One a merge group of each layer of patches."""
    return sum(layers * height * width for layers, height, width in chunks) // vision.integer("spatial_merge_size") ** 2


class Rules(NamedTuple):
    """What a kind of tower makes of sizes: grids of patches, and tokens."""

    grids: Callable[..., list[Grid]]
    tokens: Callable[[Section, Sequence[Grid]], int]


RULES = {"moonvit3d": Rules(_chunks, _chunk_tokens), "vit": Rules(_pictures, _picture_tokens)}
"""By the kind of the tower."""
