"""From the size of a picture to the size that its patches are cut from: the rules of public image processors."""

from math import ceil, floor, sqrt
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from archcalc.errors import FieldError, InputError
from archcalc.section import About, Section, Size

MOST_STRETCHED = 200
"""The longer side over the shorter one of a picture that `smart_resize` still takes."""


class SmartResize(Section):
    """Sides rounded to whole merge windows, the area between two bounds (transformers, models/qwen2_vl/
    image_processing_qwen2_vl.py and models/qwen3_vl/video_processing_qwen3_vl.py, `smart_resize`)."""

    about = About(
        "Sides rounded to whole merge windows, the area between two bounds (Qwen2-VL, Qwen3-VL)",
        kind="Which rule this is",
        min_pixels="Area of an image at least [pixels]",
        max_pixels="Area of an image at most [pixels]",
        video_min_pixels="Area of a video at least, as `video_pixels` counts it [pixels]",
        video_max_pixels="Area of a video at most, as `video_pixels` counts it [pixels]",
        video_pixels="What the bounds of a video are of: one frame (Qwen2-VL), or all its frames (Qwen3-VL)",
    )

    kind: Literal["smart_resize"]
    min_pixels: Size
    max_pixels: Size
    video_min_pixels: Size
    video_max_pixels: Size
    video_pixels: Literal["per_frame", "per_video"]

    @model_validator(mode="after")
    def _bounds_fit(self) -> Self:
        for least, most in (("min_pixels", "max_pixels"), ("video_min_pixels", "video_max_pixels")):
            if getattr(self, least) > getattr(self, most):
                message = f"{least} {getattr(self, least)} is more than {most} {getattr(self, most)}"
                raise FieldError(message, least, most)
        return self

    def image(self, height: int, width: int, factor: int) -> tuple[int, int]:
        """(height, width) [pixels] that are multiples of `factor`. Raises InputError for a strip."""
        return _bounded(height, width, factor, self.min_pixels, self.max_pixels)

    def video(self, frames: int, height: int, width: int, factor: int, temporal: int) -> tuple[int, int]:
        """The same for a frame of a video whose frames are taken `temporal` at a time.

        Raises InputError for a strip, and for fewer frames than are taken at once where the bounds are of a video.
        """
        bounds = self.video_min_pixels, self.video_max_pixels
        if self.video_pixels == "per_frame":
            return _bounded(height, width, factor, *bounds)
        if frames < temporal:
            raise InputError(f"the processor takes videos of {temporal} frames or more, not {frames}", value=frames)
        if min(height, width) < factor:
            scale = max(factor / height, factor / width)
            height, width = int(height * scale), int(width * scale)
        return _bounded(height, width, factor, *bounds, frames, round(frames / temporal) * temporal)


def _bounded(
    height: int, width: int, factor: int, least: int, most: int, frames: int = 1, counted: int = 1
) -> tuple[int, int]:
    """Rounded sides, scaled where `counted` frames of them pass a bound; `frames` there really are."""
    if max(height, width) / min(height, width) > MOST_STRETCHED:
        raise InputError(
            f"the processor takes no picture {MOST_STRETCHED} times as long as wide: {height} x {width}",
            value=max(height, width),
        )
    rounded = [round(side / factor) * factor for side in (height, width)]
    area = counted * rounded[0] * rounded[1]
    if area > most:
        scale = sqrt((frames * height * width) / most)
        rounded = [max(factor, floor(side / scale / factor) * factor) for side in (height, width)]
    elif area < least:
        scale = sqrt(least / (frames * height * width))
        rounded = [ceil(side * scale / factor) * factor for side in (height, width)]
    return rounded[0], rounded[1]


class FixedSize(Section):
    """Every picture, and every frame of a video, becomes a square of `image_size` pixels (CLIP, SigLIP)."""

    about = About(
        "Every picture, and every frame of a video, becomes a square (CLIP, SigLIP)",
        kind="Which rule this is",
        image_size="Side of the square [pixels]",
    )

    kind: Literal["fixed"]
    image_size: Size

    def image(self, height: int, width: int, factor: int) -> tuple[int, int]:
        """(height, width) [pixels], whatever the picture."""
        return self.image_size, self.image_size

    def video(self, frames: int, height: int, width: int, factor: int, temporal: int) -> tuple[int, int]:
        """(height, width) [pixels] of a frame."""
        return self.image_size, self.image_size


Processor = Annotated[SmartResize | FixedSize, Field(discriminator="kind")]
