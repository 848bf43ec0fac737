"""Published claims against computed values: verdicts, and causes that are found by trying readings, never typed in."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any, NamedTuple

from archcalc.documents.document import Column, Report, Table
from archcalc.documents.params import params_quantities
from archcalc.documents.quantities import QUANTITIES
from archcalc.documents.readings import (
    Kind,
    Reading,
    Value,
    convention_readings,
    cut_readings,
    field_readings,
    parameters_at,
    slip_readings,
)
from archcalc.errors import InputError, did_you_mean
from archcalc.files.model import Claim, Spec
from archcalc.tape import Tape
from archcalc.units import Printed, format_count, parse_printed
from archcalc.workload import Workload

Found = dict[str, int | float | bool]


class Judged(NamedTuple):
    """One claim with everything that was found out about it."""

    claim: Claim
    printed: Printed | None
    computed: Value
    verdict: str
    cause: str | None
    explanation: str
    readings: tuple[Reading, ...]


class Changed(NamedTuple):
    """A spec with one field changed: the cause it would be, its tape, its quantities, and the change in words."""

    cause: str
    tape: Tape
    quantities: Found
    words: str


COLUMNS = (
    Column("verdict", "verdict"),
    Column("cause", "cause"),
    Column("printed", "claimed"),
    Column("computed", "computed", "number"),
    Column("ratio", "ratio", "number"),
    Column("claim", "claim", "prose"),
    Column("explanation", "why", "prose"),
    Column("source", "source", "prose"),
)


def claims(spec: Spec) -> Report:
    """The `claims` command: every claim of a spec, judged. Raises InputError for a claim about no known quantity."""
    judged = judge(spec)
    findings = [_finding(item) for item in judged]
    counts: dict[str, int] = {}
    for item in judged:
        counts[item.verdict] = counts.get(item.verdict, 0) + 1
    return Report(
        command="claims",
        title=f"{spec.title}: {len(judged)} published claims, "
        + (", ".join(f"{n} {verdict}" for verdict, n in counts.items()) or "none to judge"),
        spec=spec,
        inputs={"spec": spec.name},
        quantities={},
        findings=findings,
        findings_table=Table("findings", "claims", COLUMNS, findings),
        conventions=(
            "confirmed: equal. rounded: equal to the printed precision, rounded or cut off.",
            "convention: equal under another counting convention. unstated: the source leaves it blank.",
            "refuted: none of these; the cause is a reading that reproduces the claimed number, or unexplained.",
            "Readings tried: powers of ten and unit words (from the computed value and from every other claim of the"
            " same quantity that is nearer to it), counting conventions, each spec field off by one or flipped.",
        ),
    )


def judge(spec: Spec) -> list[Judged]:
    """Verdict and cause of each claim, in the spec's order. Raises InputError for a claim about no known quantity."""
    tape = spec.trace(Workload())
    found = params_quantities(tape)
    changed: list[Changed] | None = None
    judged = []
    for claim, computed in zip(spec.claims, claimed_quantities(spec), strict=True):
        printed = None if claim.value is None else parse_printed(claim.value)
        if printed is None or printed.value == computed or printed.matches(computed):
            judged.append(_plain(claim, printed, computed))
            continue
        if changed is None:
            fields = field_readings(spec)
            changed = [Changed(cause, variant, params_quantities(variant), words) for cause, variant, words in fields]
        others = [
            (other.claim, parse_printed(other.value))
            for other in spec.claims
            if other.quantity == claim.quantity and other.value is not None and other is not claim
        ]
        readings = [
            *convention_readings(tape, claim.quantity, printed, found),
            *cut_readings(printed, computed),
            *slip_readings(printed, computed, others),
            *_changed_readings(claim.quantity, printed, computed, found, changed),
        ]
        judged.append(_disputed(claim, printed, computed, sorted(readings, key=lambda r: r.kind == "guess")))
    return judged


def claimed_quantities(spec: Spec) -> list[Value]:
    """The computed value of each claim's quantity. Raises InputError; its value is the name that is not known."""
    tape = spec.trace(Workload())
    found = params_quantities(tape)
    return [quantity_value(tape, found, claim.quantity) for claim in spec.claims]


def quantity_value(tape: Tape, found: Found, name: str) -> Value:
    """The value of a quantity name, `params[PATH]` included. Raises InputError for one that is not known."""
    if name.startswith("params[") and name.endswith("]"):
        return parameters_at(tape, name[7:-1])
    if name not in found:
        hint = did_you_mean(name, QUANTITIES) or f"one of {', '.join(found)}, or params[PATH]"
        raise InputError(f"a claim is about {name}, which is no quantity of this spec", value=name, hint=hint)
    return found[name]


def _changed_readings(
    quantity: str, printed: Printed, computed: Value, found: Found, changed: list[Changed]
) -> Iterator[Reading]:
    """Specs with one field changed that give the claimed number."""
    for cause, variant, quantities, what in changed:
        try:
            value = quantity_value(variant, quantities, quantity)
        except InputError:  # the change took the part away
            continue
        extra = int(quantities["params.mtp"] - found["params.mtp"])
        if extra and quantity in ("params.total", "params.backbone"):
            value, what = value + extra, f"{what}, counted in,"
        if value != computed and printed.matches(value):
            kind: Kind = "guess" if cause == "field-off-by-one" else "change"
            yield Reading(cause, f"{what} gives {value:,}", value, kind)


def _plain(claim: Claim, printed: Printed | None, computed: Value) -> Judged:
    shown = _shown(computed)
    if printed is None:
        return Judged(claim, None, computed, "unstated", None, f"the source leaves it blank; it is {shown}", ())
    if printed.value == computed:
        return Judged(claim, printed, computed, "confirmed", None, f"equal: {shown}", ())
    return Judged(claim, printed, computed, "rounded", None, f"{shown} prints as {printed.text}", ())


def _disputed(claim: Claim, printed: Printed, computed: Value, readings: list[Reading]) -> Judged:
    shown = _shown(computed)
    verdict, best = "refuted", [r for r in readings if r.kind not in ("convention", "cut")]
    for kind, weaker in (("cut", "rounded"), ("convention", "convention")):
        if any(r.kind == kind for r in readings):
            verdict, best = weaker, [r for r in readings if r.kind == kind]
    if not best:
        text = f"it is {shown}; no reading that was tried reproduces {printed.text}"
        return Judged(claim, printed, computed, "refuted", "unexplained", text, ())
    text = f"it is {shown}; " + "; or ".join(r.text for r in best)
    if all(r.kind == "guess" for r in best):
        text += f" (prints as {printed.text}: a guess, not a proof)"
    return Judged(claim, printed, computed, verdict, best[0].cause, text, tuple(readings))


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
