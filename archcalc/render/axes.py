"""Where the ticks of an axis stand and what they read: for pictures and for text plots."""

from __future__ import annotations

from collections.abc import Iterator
from math import log2
from typing import Literal, NamedTuple

from archcalc.documents.sweep.figure import Figure, Panel
from archcalc.units import format_bytes, format_context, format_flops, format_int

YUnit = Literal["bytes", "flops"]

DWARFING, KEPT = 4, 2
"""A stack past so many times the limit is cut off, at so many times the limit: else the limit would lie in the lowest
quarter of the axis, and now it lies in the middle."""

_PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z", "Y")


class Tick(NamedTuple):
    """A place on an axis, and its text."""

    at: int
    text: str


class Scale(NamedTuple):
    """What the numbers along a linear axis are divided by, and the unit's name."""

    size: int
    name: str


def value_text(value: int, unit: YUnit, units: str) -> str:
    """A height in full."""
    return format_bytes(value, units) if unit == "bytes" else format_flops(value)


class Heights(NamedTuple):
    """What an axis shows: from the lowest value to `top`, past which stacks are cut off where `cut`."""

    low: int
    top: int
    cut: bool = False


def heights(figure: Figure) -> Heights:
    """The lowest and the highest value that must be visible, limits included; a flat line gets room on both sides.

    Where the highest stack is more than DWARFING times the highest limit, the axis ends at KEPT times that limit.
    """
    values: list[int] = []
    for panel in figure.panels:
        if figure.shape == "lines":
            values += [value for curve in panel.curves for value in curve.values]
        else:
            values += panel.totals()
    limits = [limit.value for panel in figure.panels for limit in panel.limits]
    low, high, limit = max(1, min(values)), max(1, *values, *limits), max(limits, default=0)
    if figure.shape != "lines":
        cut = bool(limit) and high > DWARFING * limit
        return Heights(low, KEPT * limit if cut else high, cut)
    return Heights(max(1, low // 2), 2 * high) if high / low == 1 else Heights(low, high)


class Upright(NamedTuple):
    """A picture's vertical axis: its ends, its ticks, and the scale they are in where they don't say it themselves."""

    low: int
    high: int
    ticks: list[Tick]
    scale: Scale = Scale(1, "")


def upright(figure: Figure, units: str, most: int) -> Upright:
    """A logarithmic axis for lines, and for stacks a linear one from 0, with room above what is not cut off."""
    low, top, cut = heights(figure)
    if figure.shape == "lines":
        low, high = low * 4 // 5, top * 5 // 4 + 1
        return Upright(low, high, log_ticks(low, high, figure.y_unit, units, most))
    high, scale = top if cut else top * 27 // 25 + 1, linear_scale(top, figure.y_unit, units)
    return Upright(0, high, linear_ticks(high, scale, most), scale)


def bar_ticks(panel: Panel, unit: str, most: int) -> list[Tick]:
    """A tick below each bar, by its number from 0, or below every second, third, ... of many."""
    texts = bar_names(panel, unit)
    if panel.below:
        texts = [f"{text}\n{more}" for text, more in zip(texts, panel.below, strict=True)]
    return [Tick(n, text) for n, text in enumerate(texts)][:: max(1, -(-len(texts) // most))]


def bar_names(panel: Panel, unit: str) -> list[str]:
    """What each place of the horizontal axis is called."""
    return [format_context(x) if unit == "tokens" else str(x) for x in panel.xs]


def length_ticks(low: int, high: int, most: int) -> list[Tick]:
    """Powers of two between two lengths, thinned to `most`, and the ends where they have room."""
    powers = [1 << n for n in range(high.bit_length()) if low <= 1 << n <= high]
    stride = max(1, -(-len(powers) // most))
    kept = powers[::stride]
    for end in (low, high):
        if all(abs(log2(end / other)) * most > log2(high / low) for other in kept):
            kept.append(end)
    return [Tick(n, format_context(n)) for n in sorted(kept)]


def linear_scale(top: int, unit: YUnit, units: str) -> Scale:
    """The unit that a linear axis up to `top` reads in."""
    if unit == "flops":
        power = min(max(0, len(str(top)) - 1) // 3, len(_PREFIXES) - 1)
        return Scale(1000**power, f"{_PREFIXES[power]}FLOP")
    if units == "bytes":
        return Scale(1, "bytes")
    base, names = (1000, ("B", "kB", "MB", "GB")) if units == "gb" else (1024, ("B", "KiB", "MiB", "GiB"))
    power = max((n for n in range(len(names)) if top >= base**n), default=0)
    return Scale(base**power, names[power])


def linear_ticks(top: int, scale: Scale, most: int) -> list[Tick]:
    """Round numbers of the scale's unit from 0 up to `top`, `most` of them above 0."""
    step = next(s for s in _round_numbers() if s * scale.size * most >= top)
    count = top // (step * scale.size)
    return [Tick(n * step * scale.size, format_int(n * step)) for n in range(count + 1)]


def log_ticks(low: int, high: int, unit: YUnit, units: str, most: int) -> list[Tick]:
    """Powers of two (bytes in GiB) or of ten (all else) between two heights, thinned to `most`.

    Where there are too few of them, round numbers in equal steps.
    """
    powers = list(_powers(2 if unit == "bytes" and units == "gib" else 10, low, high))
    if len(powers) < 3:
        scale = linear_scale(high, unit, units)
        ticks = [Tick(n, f"{text} {scale.name}") for n, text in linear_ticks(high, scale, most) if n >= low]
        return ticks or [Tick(high, _short(high, unit, units))]
    stride = max(1, -(-len(powers) // most))
    return [Tick(n, _short(n, unit, units)) for n in powers[::stride]]


def place(value: float, low: int, high: int, size: int) -> int:
    """Column of a value on a logarithmic axis of `size` columns, from 0: none that rounding puts past an end."""
    return min(max(0, round((size - 1) * log2(value / low) / log2(high / low))), size - 1)


def _powers(base: int, low: int, high: int) -> Iterator[int]:
    n = 1
    while n <= high:
        if n >= low:
            yield n
        n *= base


def _round_numbers() -> Iterator[int]:
    size = 1
    while True:
        yield from (size, 2 * size, 5 * size)
        size *= 10


def _short(n: int, unit: YUnit, units: str) -> str:
    """A round height with as few digits as it needs."""
    scale = linear_scale(n, unit, units)
    return f"{n // scale.size:,} {scale.name}"
