"""From pixels to patches: Kimi K2.5's public resizing rule, height before width everywhere."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from archcalc.arch.vision.moonvit3d import MoonViT3D
from archcalc.arch.vision.tower import Group
from archcalc.workload import Workload
from tests.support import data, spec_of


def tower(**changes: object) -> MoonViT3D:
    content = data("k25")
    content["vision"] |= changes
    found = spec_of(content).vision
    assert isinstance(found, MoonViT3D)
    return found


K25 = tower()
IMAGE, FRAME, SIDE = 16384, 4096, 512  # patches: of an image, of a video frame, along a side
sides = st.integers(1, 20_000)


@pytest.mark.parametrize(
    ("height", "width", "patches"),
    [
        (28, 28, (2, 2)),
        (224, 448, (16, 32)),
        (1, 1, (2, 2)),  # never scaled up, padded to one merge window
        (29, 28, (4, 2)),  # one pixel more is one window more
        (1024, 768, (74, 56)),  # padded to 1036 x 784
        (768, 1024, (56, 74)),
        (1792, 1792, (128, 128)),  # 128 x 128 = 16384 patches: the limit itself
        (1806, 1806, (128, 128)),  # 129 x 129: scaled by 128 / 129
        # 34 x 505 = 17170 patches: scaled by sqrt(16384 / 17170) = 0.97684 to 477 x 6915 px, padded to 504 x 6916:
        # flooring comes first, so 36 x 494 = 17784 patches pass the limit
        (489, 7080, (36, 494)),
        (7080, 489, (494, 36)),
        (14336, 28, (512, 2)),  # 512 patches a side at most: halved to 7168 x 14, padded to 7168 x 28
    ],
)
def test_patches_of_an_image(height: int, width: int, patches: tuple[int, int]) -> None:
    assert K25.grid(height, width, IMAGE) == patches


def test_padding_past_the_limit_gives_4446_tokens() -> None:
    assert K25.tokens(K25.groups(Workload(images=((489, 7080),)))) == 4446  # 18 x 247 windows


def test_a_frame_of_a_video_has_a_lower_limit() -> None:
    # 1080 x 1920: 77 x 137 = 10549 patches: scaled by sqrt(4096 / 10549) = 0.62312 to 672 x 1196, padded to 672 x 1204
    assert K25.groups(Workload(videos=((1, 1080, 1920),))) == [Group(1, 48, 86)]


@pytest.mark.parametrize(("frames", "chunks"), [(1, [1]), (4, [4]), (5, [4, 1]), (9, [4, 4, 1]), (12, [4, 4, 4])])
def test_frames_run_in_chunks_of_four(frames: int, chunks: list[int]) -> None:
    assert [chunk.t for chunk in K25.groups(Workload(videos=((frames, 448, 448),)))] == chunks


def test_a_chunk_of_four_frames_makes_as_many_tokens_as_one_frame() -> None:
    one, four = (K25.groups(Workload(videos=((frames, 448, 448),))) for frames in (1, 4))
    assert K25.tokens(one) == K25.tokens(four) == 16 * 16


def test_images_come_before_videos_each_in_chunks_of_its_own() -> None:
    workload = Workload(images=((28, 28), (56, 28)), videos=((5, 28, 56),))
    assert K25.groups(workload) == [Group(1, 2, 2), Group(1, 4, 2), Group(4, 2, 4), Group(1, 2, 4)]


def test_cached_pictures_are_not_run_again() -> None:
    assert K25.groups(Workload(phase="decode", context=1036, images=((1024, 768),))) == []


@given(height=sides, width=sides, limit=st.sampled_from([IMAGE, FRAME]))
@example(height=489, width=7080, limit=IMAGE)
@example(height=1, width=20_000, limit=IMAGE)
def test_a_grid_is_whole_windows_never_larger_than_the_padded_picture(height: int, width: int, limit: int) -> None:
    grid = K25.grid(height, width, limit)
    for patches, pixels in zip(grid, (height, width), strict=True):
        assert patches % 2 == 0
        assert 2 <= patches <= SIDE
        assert patches <= -(-pixels // 28) * 2  # never scaled up


@given(height=sides, width=sides, limit=st.sampled_from([IMAGE, FRAME]))
def test_a_grid_keeps_to_its_limit_but_for_one_window_of_padding_a_side(height: int, width: int, limit: int) -> None:
    h, w = K25.grid(height, width, limit)
    inner = max(0, h - 2) * max(0, w - 2)
    # floor(a)·floor(b) <= limit after scaling may be (a+1)·(b+1) - epsilon patches before flooring
    assert inner <= limit + (h + w)


@given(height=sides, width=sides)
def test_turning_a_picture_turns_its_grid(height: int, width: int) -> None:
    assert K25.grid(height, width, IMAGE) == K25.grid(width, height, IMAGE)[::-1]


@given(height=st.integers(1, 1792), width=st.integers(1, 1792))
def test_a_picture_within_the_limits_is_only_padded(height: int, width: int) -> None:
    assert K25.grid(height, width, IMAGE) == (-(-height // 28) * 2, -(-width // 28) * 2)


def test_windows_need_not_be_square() -> None:
    wide = tower(merge_kernel_size=[1, 4])
    assert wide.grid(14, 14, IMAGE) == (1, 4)  # height in windows of 1 patch, width of 4
    assert wide.tokens([Group(2, 3, 8)]) == 3 * 2
