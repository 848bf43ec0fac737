"""The pictures of a plan: what images and videos every sequence of a batch brings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Self

from pydantic import (
    BeforeValidator,
    Field,
    TypeAdapter,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
    model_validator,
)

from archcalc.errors import FieldError
from archcalc.section import About, Section
from archcalc.units import IMAGE_FORM, VIDEO_FORM, parse_sides

Count = Annotated[int, Field(gt=0, le=65_536)]
"""How many pictures: each is held in memory, so a slip must not become a list of billions."""


def _sides(count: int, form: str) -> Any:
    """The type of a size: text in one word, or its numbers."""

    def read(value: Any) -> Any:
        bare = isinstance(value, str) or type(value) is int
        return list(parse_sides(str(value), count, form)) if bare else value

    numbers: dict[str, Any] = {
        "type": "array",
        "items": {"type": "integer", "exclusiveMinimum": 0, "maximum": 9_999_999},
    }
    numbers |= {"minItems": count, "maxItems": count}
    text = {"type": "string", "pattern": "^" + "[xX]".join(["[0-9]{1,7}"] * count) + "$"}
    schema = WithJsonSchema({"anyOf": [text, numbers]})
    return BeforeValidator(read), Field(min_length=count, max_length=count), schema


Side = Annotated[int, Field(gt=0, lt=10**7)]
ImageSize = Annotated[list[Side], *_sides(2, IMAGE_FORM)]
VideoSize = Annotated[list[Side], *_sides(3, VIDEO_FORM)]


class Pictures(Section):
    """Pictures of one size in each sequence, or how many tokens they make in the mean."""

    size: list[Side] | None = None
    per_sequence: Count | None = None
    tokens_per_sequence: Annotated[int, Field(gt=0, le=1 << 28)] | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        given = [key for key in ("size", "per_sequence") if getattr(self, key) is not None]
        if self.tokens_per_sequence is not None:
            if given:
                message = "tokens_per_sequence stands in place of size and per_sequence: give either"
                raise FieldError(message, "tokens_per_sequence", *given)
        elif len(given) < 2:
            lacking = " and ".join(key for key in ("size", "per_sequence") if key not in given)
            hint = "or write tokens_per_sequence alone"
            raise FieldError(f"{lacking} {'are' if not given else 'is'} missing", *given, hint=hint)
        return self


class ImageBatch(Pictures):
    """Images: `size` is height and width [pixels]."""

    about = About(
        (
            "Images of one size in each sequence; or, where only the mixture of the data is known, how many tokens "
            "they make"
        ),
        size="Height and width, as 896x896 or [896, 896]; goes with `per_sequence` [pixels]",
        per_sequence="How many a sequence has; goes with `size`",
        tokens_per_sequence=(
            "In place of `size` and `per_sequence`: tokens that they make of a sequence in the mean [tokens]"
        ),
    )

    size: ImageSize | None = None


class VideoBatch(Pictures):
    """Videos: `size` is sampled frames, height and width [frames, pixels, pixels]."""

    about = About(
        (
            "Videos of one size in each sequence; or, where only the mixture of the data is known, how many tokens "
            "they make"
        ),
        size=(
            "Sampled frames, height and width, as 8x448x448 or [8, 448, 448]; goes with `per_sequence` [frames, "
            "pixels, pixels]"
        ),
        per_sequence="How many a sequence has; goes with `size`",
        tokens_per_sequence=(
            "In place of `size` and `per_sequence`: tokens that they make of a sequence in the mean [tokens]"
        ),
    )

    size: VideoSize | None = None


def _either(section: type[Pictures]) -> Callable[[Any, ValidatorFunctionWrapHandler], Any]:
    """A mapping or a list. What is wrong with it is said once, not once for each of the two."""

    def read(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
        try:
            return validate(value)
        except ValidationError:
            if not isinstance(value, dict | list):
                raise
        form: Any = section if isinstance(value, dict) else list[section]  # type: ignore[valid-type]
        return TypeAdapter(form).validate_python(value, strict=True)

    return read


Images = Annotated[ImageBatch | list[ImageBatch] | None, WrapValidator(_either(ImageBatch))]
Videos = Annotated[VideoBatch | list[VideoBatch] | None, WrapValidator(_either(VideoBatch))]
