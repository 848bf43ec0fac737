"""A list of layers as the patterns that a spec writes: runs, and a run of runs that repeats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from archcalc.hf.dialect import Layer

LONGEST_PERIOD = 64
"""Layers of a repeated pattern at most; no public model has a longer one."""


Norms = Mapping[str, Mapping[str, str]]
"""Modules of the norms around `attention` and `ffn`."""


def folded(layers: Sequence[Layer], norms: Norms) -> list[dict[str, Any]]:
    """The shortest of the spellings that `layers` of a spec has for a list of layers."""
    best = _runs(layers, norms)
    for start in range(min(4, len(layers))):
        for period in range(2, min(LONGEST_PERIOD, (len(layers) - start) // 2) + 1):
            times = _times(layers, start, period)
            if times < 2:
                continue
            end = start + times * period
            repeated = {"repeat": times, "layers": _runs(layers[start : start + period], norms)}
            found = [*_runs(layers[:start], norms), repeated, *_runs(layers[end:], norms)]
            if _lines(found) < _lines(best):
                best = found
    return best


def _times(layers: Sequence[Layer], start: int, period: int) -> int:
    """How often a period repeats from a place on."""
    first, times = layers[start : start + period], 1
    while layers[start + times * period : start + (times + 1) * period] == first:
        times += 1
    return times


def _runs(layers: Sequence[Layer], norms: Norms) -> list[dict[str, Any]]:
    return [_entry(layer, len(list(run)), norms) for layer, run in groupby(layers)]


def _entry(layer: Layer, count: int, norms: Norms) -> dict[str, Any]:
    if not layer.scope and not norms:
        return {"count": count, "attention": layer.attention, "ffn": layer.ffn}
    scope = {"scope": layer.scope} if layer.scope else {}
    steps = [
        {"attention": layer.attention, **scope, **norms.get("attention", {})},
        {"ffn": layer.ffn, **norms.get("ffn", {})},
    ]
    return {"count": count, "steps": steps}


def _lines(entries: Sequence[dict[str, Any]]) -> int:
    return sum(1 + _lines(entry["layers"]) if "layers" in entry else 1 for entry in entries)
