"""Limits on a change: `kv.bytes_per_token:+1%`, `params.total:+1B`, `weights.bytes:±2GiB`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any, Literal, NamedTuple

from archcalc.documents.compare.change import Number, change, unit_of
from archcalc.documents.document import Unit
from archcalc.documents.quantities import QUANTITIES
from archcalc.errors import InputError, did_you_mean, show_value
from archcalc.units import parse_count, parse_memory

HINT = "write NAME:+1%, NAME:-1% or NAME:±1%, or a size such as params.total:+1B or weights.bytes:+2GiB"


ASKED = {"serve.": "add --gpu NAME", "train.": "add --plan PLAN"}
"""What makes a comparison of two specs have quantities, by how they begin."""


class Limit(NamedTuple):
    """How far a quantity may go up (`+`), down (`-`), or either way (`±`).

    `amount` is the text after the sign, without `%` where `percent` says that it is one.
    """

    text: str
    name: str
    way: Literal["+", "-", "±"]
    amount: str
    percent: bool


def parse_limit(text: str) -> Limit:
    """A limit from the command line. Raises InputError where it is not one; units are checked by `judge`."""
    name, colon, bound = text.rpartition(":")
    bound = bound.strip().replace("+-", "±", 1).replace("+/-", "±", 1).replace("−", "-", 1)
    if not colon or not name.strip():
        raise InputError(f"{show_value(text)} is no limit", source="--fail-on", value=text, hint=HINT)
    way, amount = bound[:1], bound[1:].strip()
    if way not in ("+", "-", "±"):
        raise InputError(
            f"{show_value(text)} does not say in which direction", source="--fail-on", value=text, hint=HINT
        )
    percent = amount.endswith("%")
    if percent:
        amount = amount.removesuffix("%").strip()
    if not re.match(r"[0-9]", amount) or (percent and decimal(amount) is None):
        raise InputError(f"{show_value(text)} holds no number", source="--fail-on", value=text, hint=HINT)
    ways: dict[str, Literal["+", "-", "±"]] = {"+": "+", "-": "-", "±": "±"}
    return Limit(text, name.strip(), ways[way], amount, percent)


def check_names(limits: Iterable[Limit], before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Raises InputError for a limit on a quantity that is unknown, not compared here, or on one side only."""
    for limit in limits:
        sides = [side for side, found in (("BASE", before), ("HEAD", after)) if limit.name in found]
        if len(sides) == 2:
            continue
        if sides:
            lacking = "HEAD" if sides == ["BASE"] else "BASE"
            raise InputError(
                f"{limit.name} is in {sides[0]} only: {lacking} has no such quantity to hold against it",
                source="--fail-on",
                value=limit.text,
                hint="leave this limit out, or set it on a quantity that both sides have",
            )
        both = [name for name in after if name in before]
        if limit.name in QUANTITIES:
            raise InputError(
                f"{limit.name} is not among the quantities compared here",
                source="--fail-on",
                value=limit.text,
                hint=next((hint for start, hint in ASKED.items() if limit.name.startswith(start)), None)
                or f"compared are {', '.join(both)}",
            )
        raise InputError(
            f"no quantity is named {limit.name}",
            source="--fail-on",
            value=limit.text,
            hint=did_you_mean(limit.name, (*both, *QUANTITIES)) or f"compared are {', '.join(both)}",
        )


def judge(limit: Limit, before: Number, after: Number) -> dict[str, Any]:
    """A limit held against a change: `verdict` is kept or exceeded.

    A percentage is of the size before. From 0 every rise is more than any percentage.

    Raises:
        InputError: a size that does not fit the quantity's unit, or a yes or no beside a number.
    """
    if isinstance(before, bool) != isinstance(after, bool):
        message = f"{limit.name} is yes or no on one side and a number on the other"
        raise InputError(message, source="--fail-on", value=limit.text, hint="leave this limit out")
    room = _room(limit, before)
    moved = Fraction(after) - Fraction(before)
    exceeded = (limit.way in "+±" and moved > room) or (limit.way in "-±" and -moved > room)
    number = change(int(before), int(after)) if isinstance(before, bool) else change(before, after)
    return {
        "limit": limit.text,
        "quantity": limit.name,
        "unit": unit_of(limit.name),
        **number._asdict(),
        "verdict": "exceeded" if exceeded else "kept",
    }


def _room(limit: Limit, before: Number) -> Fraction:
    """How far the quantity may move, in its own unit. Raises InputError for a size that does not fit it."""
    unit = unit_of(limit.name)
    if unit == "ordinal":
        message = f"{limit.name} says which one, and is no amount"
        raise InputError(message, source="--fail-on", value=limit.text, hint="leave this limit out")
    if limit.percent:
        return abs(Fraction(before)) * Fraction(limit.amount) / 100
    try:
        return size_of(limit.amount, unit)
    except InputError as error:
        reason = f"{limit.name} is measured in {_measured(unit)}: {error.message}"
        raise InputError(reason, source="--fail-on", value=limit.text, hint=error.hint) from None


def size_of(amount: str, unit: Unit) -> Fraction:
    """An amount of a unit, exactly: 1.0T, 80GiB, 0.5. Raises InputError."""
    exact = decimal(amount)
    if exact is not None and (unit in ("share", "number") or exact.denominator == 1):
        return exact
    return Fraction(parse_memory(amount) if unit == "bytes" else parse_count(amount))


def _measured(unit: Unit) -> str:
    return {"bytes": "bytes", "flops": "FLOP", "share": "shares of 1", "number": "plain numbers"}.get(unit, "counts")


def decimal(text: str) -> Fraction | None:
    """A plain decimal number, exactly, or None."""
    return Fraction(text) if re.fullmatch(r"[0-9]{1,30}(\.[0-9]{1,30})?", text) else None
