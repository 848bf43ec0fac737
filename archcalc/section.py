"""The base of everything that is read from a YAML file: strict, frozen sections.

The modules of a spec's sections don't postpone their annotations: pydantic would compile and evaluate the text of each
field at every start.
"""

from typing import Annotated, Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from archcalc.units import IMAGE_FORM, parse_context, parse_memory, parse_sides

Size = Annotated[int, Field(gt=0, le=1 << 60)]

PLAUSIBLE = 1 << 28
"""What no size of a model has passed, of whatever unit: the largest of any release are 25,165,824 pixels of a video
(Qwen3-VL) and 10,485,760 tokens of context (Llama 4 Scout), the largest announced context 100 million."""

_NUMBER = r"([0-9]+(_[0-9]+)*|[1-9][0-9]{0,2}(,[0-9]{3})+)(\.[0-9]+)?"
"""A number of a text with a unit, as `units` reads it."""


def _bytes(value: Any) -> Any:
    """Text with a unit as bytes; anything else as it is."""
    return parse_memory(value) if isinstance(value, str) else value


def _memory(**least: Any) -> Any:
    bound = {"exclusiveMinimum" if name == "gt" else "minimum": n for name, n in least.items()}
    integer = {"type": "integer", **bound, "maximum": 1 << 60}
    text = rf"^\s*{_NUMBER}\s*(([kKmMgGtTpP][iI]?)?[bB])?\s*$"
    return (
        Field(**least, le=1 << 60),
        BeforeValidator(_bytes),
        WithJsonSchema({"anyOf": [integer, {"type": "string", "pattern": text}]}),
    )


Memory = Annotated[int, *_memory(gt=0)]
"""Bytes, or text such as 96GB or 94.97GiB."""

Amount = Annotated[int, *_memory(ge=0)]
"""The same, or nothing."""


def _tokens(value: Any) -> Any:
    """Text with a suffix as tokens; anything else as it is."""
    return parse_context(value) if isinstance(value, str) else value


def _sides(value: Any) -> Any:
    """Text as height and width; anything else as it is."""
    return parse_sides(value, 2, IMAGE_FORM) if isinstance(value, str) else value


_TOKENS = {
    "anyOf": [
        {"type": "integer", "exclusiveMinimum": 0, "maximum": 1 << 60},
        {"type": "string", "pattern": rf"^\s*{_NUMBER}\s*([kKmMgG]([iI][bB]?)?)?\s*$"},
    ]
}
Tokens = Annotated[int, Field(gt=0, le=1 << 60), BeforeValidator(_tokens), WithJsonSchema(_TOKENS)]
"""A length in tokens, or text such as 128k."""

_SIDES = {"type": "string", "pattern": "^[0-9]{1,7}[xX][0-9]{1,7}$"}
Sides = Annotated[tuple[int, int], BeforeValidator(_sides), WithJsonSchema(_SIDES)]
"""Height and width of an image, as text such as 1024x768 [pixels]."""


T = TypeVar("T")


class Same(Generic[T]):
    """Hashes a section by identity: a frozen one holds lists, which don't hash."""

    __slots__ = ("one",)

    def __init__(self, one: T) -> None:
        self.one = one

    def __hash__(self) -> int:
        return id(self.one)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and other.one is self.one


class About:
    """What a section is, and what each of its keys means: data that `python -OO` keeps, as it drops docstrings.

    Editors show it (schema/), and docs/reference/ is made of it. A text is a fragment without a full stop; a unit
    stands last, in square brackets.
    """

    __slots__ = ("keys", "text")

    def __init__(self, text: str, /, **keys: str) -> None:
        self.text = text
        self.keys = keys

    @property
    def sentence(self) -> str:
        """What it is, with a full stop; empty where nobody has said it."""
        return f"{self.text}." if self.text else ""


class Section(BaseModel):
    """A strict, frozen section of a YAML file: unknown keys are errors, nothing is coerced.

    `about` says what it is and what each key means. It has no annotation, which pydantic would evaluate again for each
    subclass at every start. `retired` are keys that were read once: a file that still has one is read without it, with
    a warning.
    """

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        defer_build=True,
        ignored_types=(About,),
    )
    about = About("")
    retired: ClassVar[frozenset[str]] = frozenset()
