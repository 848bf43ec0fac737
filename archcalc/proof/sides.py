"""One side of a comparison: numbers by path and setting; and how two sides are joined."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from archcalc.tape import Segment

Side: TypeAlias = dict[tuple[str, str], tuple[int, int]]
"""(path, setting) to (how many identical parts the path stands for, what one of them comes to)."""

Sides: TypeAlias = dict[str, Side]
"""Sides by kind of number: params, buffers, mtp, flops, kv, weights, activations, schedule."""

Finding: TypeAlias = Mapping[str, Any]


def joined(ours: Mapping[str, Side], theirs: Mapping[str, Side]) -> list[Finding]:
    """One finding for each kind, path and setting of either side; what a side lacks counts as 0 and so differs."""
    return [
        finding
        for kind in dict.fromkeys((*ours, *theirs))
        for finding in _joined(kind, ours.get(kind, {}), theirs.get(kind, {}))
    ]


def _joined(kind: str, ours: Side, theirs: Side) -> Iterator[Finding]:
    """Parts that the two sides count differently are two findings, each of which the other side lacks."""
    mine = {(*key, count): each for key, (count, each) in ours.items()}
    other = {(*key, count): each for key, (count, each) in theirs.items()}
    for path, setting, count in dict.fromkeys((*mine, *other)):
        a, b = mine.get((path, setting, count), 0), other.get((path, setting, count), 0)
        yield {
            "kind": kind,
            "path": path,
            "setting": setting,
            "count": count,
            "ours": a,
            "theirs": b,
            "difference": count * (a - b),
        }


def add(side: Side, path: str, setting: str, n: int) -> None:
    """Add to what a path comes to: several operations may share one (a cache's key and value)."""
    side[path, setting] = (1, side.get((path, setting), (1, 0))[1] + n)


def single(numbers: Iterable[tuple[str, int]], setting: str) -> Side:
    """A side of parts that stand for themselves."""
    return {(path, setting): (1, n) for path, n in numbers}


def unfolded(template: str, segment: Segment) -> list[str]:
    """A path for every layer that it stands for; experts stay folded as `*`."""
    star = template.replace("{e}", "*")
    return [star.replace("{i}", str(i)) for i in segment.indices] if segment.indices else [star]
