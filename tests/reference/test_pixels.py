"""Sizes of images and videos to patch grids: the public preprocessing rule of Kimi K2.5."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from archcalc.reference.fields import Section
from archcalc.reference.pixels import grids, tokens


@pytest.fixture(scope="module")
def vision() -> Section:
    spec = yaml.safe_load((Path(__file__).parents[2] / "specs" / "k25.yaml").read_text(encoding="utf-8"))
    return Section(spec["vision"], "vision")


@pytest.mark.parametrize(
    ("size", "grid"),
    [
        ((224, 224), (16, 16)),  # whole groups of 28 px stay as they are
        ((225, 224), (18, 16)),  # one pixel more pads a whole group of two patches
        ((1, 1), (2, 2)),  # never upscaled, padded to one group
        ((1792, 1792), (128, 128)),  # 16384 patches: exactly the limit
        ((3584, 3584), (128, 128)),  # four times that: scaled by a half
        (
            (100, 14336),
            (4, 512),
        ),  # at most 512 patches = 7168 px a side: scaled by a half, 50 px padded to 56
    ],
)
def test_image_grids(vision: Section, size: tuple[int, int], grid: tuple[int, int]) -> None:
    assert grids(vision, [size]) == [(1, *grid)]


def test_padding_can_pass_the_limit(vision: Section) -> None:
    # 489 x 7080: 34 x 505 patches = 17170; scale sqrt(16384 / 17170) = 0.97684 gives 477 x 6916 px,
    # padded to 504 x 6916 = 36 x 494 patches = 18 x 247 groups = 4446 tokens, more than 16384 / 4
    assert tokens(vision, grids(vision, [(489, 7080)])) == 4446


def test_video_frames_have_a_lower_limit_and_come_in_chunks_of_four(vision: Section) -> None:
    # 1280 x 720: 91 x 51 patches = 4641 > 4096; scale 0.93945 gives 1202 x 676 px, padded to 1204 x 700
    assert grids(vision, videos=[(10, 720, 1280)]) == [(4, 50, 86), (4, 50, 86), (2, 50, 86)]
    assert tokens(vision, grids(vision, videos=[(10, 720, 1280)])) == 3 * 25 * 43
