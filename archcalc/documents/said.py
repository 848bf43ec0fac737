"""Numbers in a sentence: those of a quantity with all digits, and rounded where that is easier to read."""

from __future__ import annotations

from archcalc.documents.document import Amount, Value
from archcalc.documents.quantities import quantity as quantity_of
from archcalc.units import format_bytes, format_count, format_flops, printed_kind


def shown(value: Value, quantity: str) -> str:
    """All digits, and from a million on the rounded number in brackets."""
    text = number_text(value, quantity)
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) < 1_000_000:
        return text
    rounded = {"bytes": format_bytes, "flops": format_flops}.get(printed_kind(quantity), format_count)
    return f"{text} ({rounded(value)})"


def number_text(value: Value, quantity: str) -> str:
    """All digits: of a whole number, a share in percent, another fraction; yes or no."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    unit = quantity_of(quantity).unit
    return f"{float(value) * 100:.3f} %" if unit == "share" else f"{float(value):,.10g}"


def spare(nbytes: int) -> tuple[Amount, str]:
    """What is left of a memory, or lacks where it is below zero, as an answer has it."""
    return Amount(abs(nbytes), "bytes"), " to spare" if nbytes >= 0 else " missing"
