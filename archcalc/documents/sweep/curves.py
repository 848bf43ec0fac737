"""Curves, and those among them that lie on each other: they are named together, and each keeps a part of the line."""

from __future__ import annotations

from collections.abc import Sequence
from math import log2
from typing import NamedTuple

FINEST = 250
"""Two curves lie on each other where at every length their distance is at most one part in so many of the axis's
height: a line's width is one in 170 of a picture's height."""


class Curve(NamedTuple):
    """A layer's values. `hue` and `dash` number its colour and its line style, from 0; a line's label starts with
    `whose` it is."""

    label: str
    values: tuple[int, ...]
    hue: int = 0
    dash: int = 0
    whose: str = ""


class Line(NamedTuple):
    """What is seen as one line: a curve, or several that lie on each other, in reading order."""

    curves: tuple[Curve, ...]

    @property
    def same(self) -> bool:
        """Whether all its curves have the same values, not only nearly so."""
        return len({curve.values for curve in self.curves}) == 1

    @property
    def alike(self) -> bool:
        """Whether its curves are the same thing of different cases, such as the linears of two models."""
        return len({curve.label.removeprefix(curve.whose) for curve in self.curves}) == 1

    @property
    def label(self) -> str:
        """All names in one: `Kimi K2.5 = Kimi K2: linears`."""
        if self.alike:
            first = self.curves[0]
            return self.sign.join(curve.whose for curve in self.curves) + first.label.removeprefix(first.whose)
        return self.sign.join(curve.label for curve in self.curves)

    @property
    def labels(self) -> list[str]:
        """A name for each of its curves, which says that the second and all after it are the same as those above."""
        return [f"{self.sign.lstrip()}{c.label}" if n else c.label for n, c in enumerate(self.curves)]

    @property
    def sign(self) -> str:
        """What stands between two of its names."""
        return " = " if self.same else " ≈ "


def lines(curves: Sequence[Curve]) -> list[Line]:
    """The curves of one picture with a logarithmic axis, those together that lie on each other."""
    values = [max(1, value) for curve in curves for value in curve.values]
    nearest = log2(max(values) / min(values)) / FINEST
    found: list[list[Curve]] = []
    for curve in curves:
        with_it = next((line for line in found if _apart(line[0], curve) <= nearest), None)
        if with_it is None:
            found.append([curve])
        else:
            with_it.append(curve)
    return [Line(tuple(line)) for line in found]


def _apart(one: Curve, other: Curve) -> float:
    """The longest distance between two curves, in doublings."""
    pairs = zip(one.values, other.values, strict=True)
    return max(abs(log2(max(1, a)) - log2(max(1, b))) for a, b in pairs)
