"""One value as text, by its unit."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from archcalc.documents.document import Column, Report, Unit
from archcalc.documents.quantities import quantity
from archcalc.errors import harmless
from archcalc.units import format_bytes, format_count, format_flops, format_int, format_share


def cell(value: Any, unit: Unit, units: str) -> str:
    """A value as people read it: exact counts with separators, bytes and FLOPs scaled, text made harmless."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str | list | tuple):
        return harmless(str(value))
    if isinstance(value, Fraction) and (value.denominator > 1 or unit != "bytes"):
        return f"{float(value):,.6g}" + (" B" if unit == "bytes" else "")
    if unit == "scaled":
        return format_count(int(value))
    if unit == "bytes":
        return format_bytes(int(value), units)
    if unit == "flops":
        return format_flops(int(value))
    if unit == "share":
        return format_share(value)
    if isinstance(value, float):
        return f"{value:,.4g}"
    return format_int(int(value))


def cell_of(row: Mapping[str, Any], column: Column, units: str) -> str:
    """A row's value in a column, in the column's unit or its own; without its sign where the row's label has it."""
    value = row.get(column.key)
    if row.get("below_zero") and isinstance(value, int | float):
        value = -value
    return cell(value, row["unit"] if column.unit == "own" else column.unit, units)


def first_line(report: Report, units: str) -> str:
    """What a report says before all else: its title, and the verdict behind it."""
    answer = "".join(part if isinstance(part, str) else cell(part.value, part.unit, units) for part in report.answer)
    return f"{report.title}: {answer}" if answer else report.title


def quantity_lines(report: Report, units: str) -> list[tuple[str, str, str]]:
    """(label, exact value, rounded value or empty) of each quantity, in the report's order."""
    lines = []
    for name, value in report.quantities.items():
        about = quantity(name)
        label = about.label or name
        if about.below_zero and value < 0:
            label, value = about.below_zero, -value
        text = cell(value, about.unit, units)
        exact = ""
        if about.unit == "count" and isinstance(value, int) and abs(value) >= 10_000:
            exact = format_count(value)
        elif about.unit == "bytes" and units != "bytes":
            exact = f"{value:,} B" if isinstance(value, int) else str(value)
        elif about.unit == "flops":
            exact = format_int(int(value))
        lines.append((harmless(label), text, exact))
    return lines
