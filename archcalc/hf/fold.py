"""A list of layers as the patterns that a spec writes: runs, and a run of runs that repeats."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from archcalc.hf.dialect import Layer

LONGEST_PERIOD = 64
"""Layers of a repeated pattern at most; no public model has a longer one."""


def folded(layers: Sequence[Layer]) -> list[dict[str, Any]]:
    """The shortest of the spellings that `layers` of a spec has for a list of layers."""
    best = _runs(layers)
    for start in range(min(4, len(layers))):
        for period in range(2, min(LONGEST_PERIOD, (len(layers) - start) // 2) + 1):
            times = _times(layers, start, period)
            if times < 2:
                continue
            end = start + times * period
            repeated = {"repeat": times, "layers": _runs(layers[start : start + period])}
            found = [*_runs(layers[:start]), repeated, *_runs(layers[end:])]
            if _lines(found) < _lines(best):
                best = found
    return best


def _times(layers: Sequence[Layer], start: int, period: int) -> int:
    """How often a period repeats from a place on."""
    first, times = layers[start : start + period], 1
    while layers[start + times * period : start + (times + 1) * period] == first:
        times += 1
    return times


def _runs(layers: Sequence[Layer]) -> list[dict[str, Any]]:
    return [_entry(layer, len(list(run))) for layer, run in groupby(layers)]


def _entry(layer: Layer, count: int) -> dict[str, Any]:
    if not layer.scope:
        return {"count": count, "attention": layer.attention, "ffn": layer.ffn}
    steps = [{"attention": layer.attention, "scope": layer.scope}, {"ffn": layer.ffn}]
    return {"count": count, "steps": steps}


def _lines(entries: Sequence[dict[str, Any]]) -> int:
    return sum(1 + _lines(entry["layers"]) if "layers" in entry else 1 for entry in entries)
