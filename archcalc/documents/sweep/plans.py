"""What tells plans from each other, beside their names and devices: the fields that are not the same in all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from archcalc.training.plan import Plan
from archcalc.units import format_int

SAID = ("kind", "name", "title", "sources", "assumed", "hardware", "parallel.world")
"""Fields that change no number, or that the words for the devices say already."""

PLAIN = ("parallel", "schedule", "batch")
"""Sections whose fields are known by their last name."""


def differing(plans: Sequence[Plan]) -> list[dict[str, str]]:
    """Each plan's own of the fields that differ: `{"parallel.pp": "pp 16"}`, empty where a plan does not have it."""
    fields = [dict(_fields(plan.model_dump())) for plan in plans]
    keys = [key for key in dict.fromkeys(key for each in fields for key in each) if not key.startswith(SAID)]
    shown = [key for key in keys if len({repr(each.get(key)) for each in fields}) > 1]
    return [{key: _said(key, each.get(key)) for key in shown} for each in fields]


def _fields(content: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Every field by its dotted name."""
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _fields(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def _said(key: str, value: Any) -> str:
    """A field in words; nothing where it is not given."""
    section, _, name = key.rpartition(".")
    if value is None or key == "schedule.kind":
        return value or ""
    return f"{name if section in PLAIN else key} {_words(value)}"


def _words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return format_int(value)
    if isinstance(value, list | tuple | set | frozenset):
        return " + ".join(_words(each) for each in value) or "none"
    return str(value)
