"""What a plot shows, as plain numbers: curves over a range of lengths, limits, marks. Drawing them is `render`'s."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from archcalc.documents.document import Report
from archcalc.errors import InputError

Shape = Literal["areas", "bars", "lines"]

LONGEST = 1 << 30
"""The longest length that a plot goes to [tokens]."""

_STEPS = 8
"""Points in each doubling of the length that a curve is drawn through."""


class Curve(NamedTuple):
    """One line, or one layer of a stack. `hue` and `dash` number its colour and its line style, from 0."""

    label: str
    values: tuple[int, ...]
    hue: int = 0
    dash: int = 0


class Mark(NamedTuple):
    """One place of a picture that its text is about; `valued` where the text is to be followed by the height."""

    x: int
    y: int
    text: str
    valued: bool = False


class Limit(NamedTuple):
    """A height that nothing should pass, and what it is."""

    value: int
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One picture of a figure.

    Attributes:
        title: what tells it from its neighbours; empty where there is only one.
        verdict: what it shows, in a few words.
        xs: lengths [tokens] or rank numbers, ascending.
        points: those of `xs` that the table lists; a curve is drawn through all of them.
        curves: layers from the bottom up, or lines; one value for each of `xs`.
        limit: the line that the stack should stay under.
        marks: where something happens.
        edge: the model's own context limit, if it is within the range [tokens].
        below: a second line of each bar's label, such as its worst rank.
        unfit: those of `xs` whose bar passes the limit.
    """

    title: str = ""
    verdict: str = ""
    xs: tuple[int, ...]
    points: tuple[int, ...]
    curves: tuple[Curve, ...]
    limit: Limit | None = None
    marks: tuple[Mark, ...] = ()
    edge: int | None = None
    below: tuple[str, ...] = ()
    unfit: tuple[int, ...] = ()

    def totals(self) -> tuple[int, ...]:
        """Height of the whole stack at each of `xs`."""
        return tuple(map(sum, zip(*(curve.values for curve in self.curves), strict=True)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """Everything that a picture shows, and the same numbers as a report.

    Attributes:
        title: one line for people.
        setting: what all panels have in common.
        shape: stacked areas over lengths, stacked bars, or lines on two logarithmic axes.
        x_label: the horizontal axis.
        x_unit: `tokens` for a logarithmic axis of lengths, `int` for ranks.
        y_label: the vertical axis, without its unit.
        y_unit: bytes or flops.
        panels: one or more, in reading order, all on one vertical scale.
        report: the numbers as a document.
    """

    title: str
    setting: str
    shape: Shape
    x_label: str
    x_unit: Literal["tokens", "int"]
    y_label: str
    y_unit: Literal["bytes", "flops"]
    panels: tuple[Panel, ...]
    report: Report


class Range(NamedTuple):
    """A range of lengths, both ends in [tokens]."""

    low: int
    high: int

    def points(self) -> tuple[int, ...]:
        """Both ends and every power of two between them."""
        powers = (1 << n for n in range(self.high.bit_length()))
        return tuple(sorted({self.low, self.high, *(p for p in powers if self.low < p < self.high)}))

    def drawn(self) -> tuple[int, ...]:
        """The points with others between them: straight lines from each to the next look like the curve."""
        steps = (int(2 ** (n / _STEPS)) for n in range(_STEPS * self.high.bit_length()))
        return tuple(sorted({*self.points(), *(s for s in steps if self.low < s < self.high)}))


def span(low: int, high: int) -> Range:
    """A range that can be drawn. Raises InputError for an empty one, or one that starts at nothing."""
    hint = "write two lengths, the smaller first, such as 4k..256k"
    if low < 1:
        raise InputError("the range must start at 1 token or more", value=low, hint=hint)
    if low == high:
        raise InputError(f"the range from {low} to {high} tokens is empty", value=low, hint=hint)
    if low > high:
        raise InputError(f"the range from {low} to {high} tokens runs backwards", value=low, hint=hint)
    if high > LONGEST:
        raise InputError(f"the range ends past {LONGEST} tokens (1G)", value=high, hint=hint)
    return Range(low, high)
