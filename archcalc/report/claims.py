"""Published claims against computed values: verdicts, and causes that are found by trying readings, never typed in."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any, NamedTuple

from archcalc.errors import InputError, did_you_mean
from archcalc.report.document import Column, Report, Table
from archcalc.report.params import params_quantities
from archcalc.report.quantities import QUANTITIES
from archcalc.report.readings import (
    Reading,
    convention_readings,
    field_readings,
    parameters_at,
    slip_readings,
)
from archcalc.spec.model import Claim, Spec
from archcalc.tape import Tape
from archcalc.units import Printed, format_count, parse_printed
from archcalc.workload import Workload

Value = int | float | Fraction


class Judged(NamedTuple):
    """One claim with everything that was found out about it."""

    claim: Claim
    printed: Printed | None
    computed: Value
    verdict: str
    cause: str | None
    explanation: str
    readings: tuple[Reading, ...]


COLUMNS = (
    Column("claim", "claim"),
    Column("computed", "computed", "number"),
    Column("ratio", "ratio", "number"),
    Column("verdict", "verdict"),
    Column("cause", "cause"),
    Column("explanation", "explanation"),
)


def claims_report(spec: Spec) -> Report:
    """Every claim of a spec, judged. Raises InputError for a claim about no known quantity."""
    judged = judge(spec)
    findings = [_finding(item) for item in judged]
    counts: dict[str, int] = {}
    for item in judged:
        counts[item.verdict] = counts.get(item.verdict, 0) + 1
    return Report(
        command="claims",
        title=f"{spec.title}: {len(judged)} published claims, "
        + (", ".join(f"{n} {verdict}" for verdict, n in counts.items()) or "none to judge"),
        inputs={"spec": spec.name},
        quantities={},
        findings=findings,
        findings_table=Table("findings", "claims", COLUMNS, findings),
        conventions=(
            "confirmed: equal. rounded: equal to the printed precision. convention: equal under another counting convention.",
            "refuted: none of these; the cause is a reading that reproduces the claimed number, or unexplained.",
            "Readings tried: powers of ten and unit words (from the computed value and from every other claim of the same"
            " quantity that is nearer to it), counting conventions, each spec field off by one or flipped.",
        ),
    )


def judge(spec: Spec) -> list[Judged]:
    """Verdict and cause of each claim, in the spec's order."""
    tape = spec.trace(Workload())
    found = params_quantities(tape)
    values = [quantity_value(tape, found, claim.quantity) for claim in spec.claims]
    fields: list[tuple[str, Tape, str]] | None = None
    judged = []
    for claim, computed in zip(spec.claims, values, strict=True):
        printed = None if claim.value is None else parse_printed(claim.value)
        if printed is None or printed.value == computed or printed.matches(computed):
            judged.append(_plain(claim, printed, computed))
            continue
        others = [
            (other.claim, parse_printed(other.value))
            for other in spec.claims
            if other.quantity == claim.quantity and other.value is not None and other is not claim
        ]
        if fields is None:
            fields = list(field_readings(spec))
        readings = tuple(_readings(tape, claim, printed, computed, others, fields))
        judged.append(_disputed(claim, printed, computed, readings))
    return judged


def quantity_value(tape: Tape, found: dict[str, int | float | bool], name: str) -> Value:
    """The value of a quantity name, `params[PATH]` included. Raises InputError for one that is not known."""
    if name.startswith("params[") and name.endswith("]"):
        return parameters_at(tape, name[7:-1])
    if name not in found:
        hint = did_you_mean(name, QUANTITIES) or f"one of {', '.join(found)}, or params[PATH]"
        raise InputError(f"a claim is about {name}, which is no quantity of this spec", value=name, hint=hint)
    return found[name]


def _readings(
    tape: Tape,
    claim: Claim,
    printed: Printed,
    computed: Value,
    others: list[tuple[str, Printed]],
    fields: list[tuple[str, Tape, str]],
) -> Iterator[Reading]:
    yield from convention_readings(tape, claim.quantity, printed)
    yield from slip_readings(printed, computed, others)
    for cause, variant, what in fields:
        try:
            value = quantity_value(variant, params_quantities(variant), claim.quantity)
        except InputError:
            continue
        extra = params_quantities(variant)["params.mtp"] - params_quantities(tape)["params.mtp"]
        if extra and claim.quantity in ("params.total", "params.backbone"):
            value, what = value + int(extra), f"{what}, counted in,"
        if value != computed and printed.matches(value):
            guess = cause == "field-off-by-one"
            yield Reading(cause, f"{what} gives {value:,}", value, guess=guess)


def _plain(claim: Claim, printed: Printed | None, computed: Value) -> Judged:
    shown = _shown(computed)
    if printed is None:
        return Judged(claim, None, computed, "unstated", None, f"the source leaves it blank; it is {shown}", ())
    if printed.value == computed:
        return Judged(claim, printed, computed, "confirmed", None, f"equal: {shown}", ())
    return Judged(claim, printed, computed, "rounded", None, f"{shown} prints as {printed.text}", ())


def _disputed(claim: Claim, printed: Printed, computed: Value, readings: tuple[Reading, ...]) -> Judged:
    shown = _shown(computed)
    conventions = [r for r in readings if r.convention]
    if conventions:
        text = "; ".join(r.text for r in conventions)
        return Judged(claim, printed, computed, "convention", conventions[0].cause, f"{shown} as defined; {text}", readings)
    if not readings:
        text = f"it is {shown}; no reading that was tried reproduces {printed.text}"
        return Judged(claim, printed, computed, "refuted", "unexplained", text, ())
    text = f"it is {shown}; " + "; or ".join(r.text for r in readings)
    if all(r.guess for r in readings):
        text += f" (prints as {printed.text}: a guess, not a proof)"
    return Judged(claim, printed, computed, "refuted", readings[0].cause, text, readings)


def _shown(value: Value) -> str:
    if isinstance(value, int):
        return f"{value:,}" + (f" ({format_count(value)})" if abs(value) >= 1_000_000 else "")
    return f"{float(value) * 100:.3f} %"


def _finding(item: Judged) -> dict[str, Any]:
    claimed = None if item.printed is None else _number(item.printed.value)
    computed = _number(item.computed)
    return {
        "claim": item.claim.claim,
        "source": item.claim.source,
        "quantity": item.claim.quantity,
        "printed": item.claim.value,
        "claimed": claimed,
        "computed": computed,
        "ratio": None if claimed is None or not computed else float(Fraction(claimed) / Fraction(computed)),
        "verdict": item.verdict,
        "cause": item.cause,
        "explanation": item.explanation,
        "readings": [{"cause": r.cause, "text": r.text, "value": _number(r.value)} for r in item.readings],
    }


def _number(value: Value) -> int | float:
    fraction = Fraction(value)
    return int(fraction) if fraction.denominator == 1 else float(fraction)
