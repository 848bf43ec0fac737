"""Before, after, delta and percent of one number: the four that every row of a diff has."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from sys import float_info
from typing import Any, NamedTuple

from archcalc.documents.document import Unit
from archcalc.documents.quantities import QUANTITIES

Number = int | float | Fraction


class Change(NamedTuple):
    """A number on both sides; None where a side has no such number. `percent` is None where it is undefined, and so are
    both `percent` and `delta` of what is no amount."""

    before: Number | None
    after: Number | None
    delta: Number | None
    percent: float | None


def change(before: Number | None, after: Number | None) -> Change:
    """The change of a number. What is missing on one side counts as 0 in `delta`; from 0, or from next to
    nothing, there is no percentage.

    Yes and no (bool) have neither delta nor percentage.
    """
    if isinstance(before, bool) or isinstance(after, bool):
        return Change(before, after, None, None)
    delta = (after or 0) - (before or 0)
    exact = None if not before else 100 * (Fraction(after or 0) - Fraction(before)) / abs(Fraction(before))
    return Change(before, after, delta, None if exact is None or abs(exact) > float_info.max else float(exact))


def unit_of(name: str) -> Unit:
    """The unit of a quantity; of one that this version does not know, what its name says."""
    if name in QUANTITIES:
        return QUANTITIES[name].unit
    if name.startswith("params["):
        return "count"
    if name.endswith("bytes") or "bytes_per" in name:
        return "bytes"
    return "flops" if name.startswith("flops.") or name in ("forward", "backward") else "number"


def quantity_rows(
    before: Mapping[str, Number | bool], after: Mapping[str, Number | bool]
) -> tuple[list[dict[str, Any]], dict[str, Number | bool]]:
    """A row for each quantity that differs, in the head's order, and the quantities that are equal."""
    rows, equal = [], {}
    for name in dict.fromkeys((*after, *before)):
        old, new = before.get(name), after.get(name)
        if old is not None and old == new and isinstance(old, bool) == isinstance(new, bool):
            equal[name] = new
            continue
        kind = "added" if old is None else "removed" if new is None else "changed"
        unit = unit_of(name)
        number = Change(old, new, None, None) if unit == "ordinal" else change(old, new)
        rows.append({"quantity": name, "unit": unit, "change": kind, **number._asdict()})
    return rows, equal
