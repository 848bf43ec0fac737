"""Published claims against computed values: verdicts, and causes that are found by trying readings, never typed in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any, NamedTuple

from archcalc.documents.counted import convention_readings
from archcalc.documents.document import Column, Report, Table, Value
from archcalc.documents.measured import Measures, Unmeasured, on_tape
from archcalc.documents.params import params_quantities
from archcalc.documents.readings import (
    Kind,
    Reading,
    cut_readings,
    field_readings,
    slip_readings,
    unit_readings,
)
from archcalc.documents.said import number_text, shown
from archcalc.documents.standing import CONTEXT, IMAGE, SEQ
from archcalc.errors import InputError, SpecError, show_value
from archcalc.files.document import Document
from archcalc.files.hints import name_hint
from archcalc.files.loader import NOUNS, bundled_file, bundled_names
from archcalc.files.model import Claim, Spec
from archcalc.tape import Tape
from archcalc.units import Printed, printed_kind
from archcalc.workload import Workload

FOLDERS = {"plan": "plans", "gpu": "hardware"}
"""Keys of a claim that name a file, and the folder of the bundled ones."""


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
    """A spec with one field changed: the cause it would be, its tape, what its weights say, and the change in words."""

    cause: str
    tape: Tape
    counted: Mapping[str, Value]
    words: str


class Variants:
    """Specs with one field changed, made when a first claim needs them, and only as many as take seconds."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._made: list[Changed] | None = None
        self._left = MOST_OPERATIONS

    def asked(self) -> list[Changed]:
        """All of them, or none where too many operations have been looked at already."""
        if self._made is None:
            self._made = [Changed(cause, tape, params_quantities(tape), words) for cause, tape, words in self._some()]
        self._left -= sum(each.tape.length for each in self._made)
        return self._made if self._left >= 0 else []

    def _some(self) -> Iterator[tuple[str, Tape, str]]:
        """As many as a quarter of the operations allows."""
        length = 0
        for cause, tape, words in field_readings(self._spec):
            length += tape.length
            if length > MOST_OPERATIONS // 4:
                return
            yield cause, tape, words


MOST_OPERATIONS = 160_000
"""Operations of the passes that are looked at for fields off by one, of all claims together."""


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
            *measured_under(spec),
            "confirmed: equal. rounded: equal to the printed precision, rounded or cut off.",
            "convention: equal under another counting convention. unstated: the source leaves it blank.",
            "refuted: none of these; the cause is a reading that reproduces the claimed number, or unexplained.",
            "Readings tried: powers of ten and unit words (from the computed value and from every other claim of the"
            " same quantity that is nearer to it), counting conventions, two of them at once where none does alone,"
            " each spec field off by one or flipped where weights and caches settle the number.",
        ),
    )


def measured_under(spec: Spec) -> Iterator[str]:
    """The standard workload, where claims are about numbers that depend on it."""
    groups = {claim.quantity.partition(".")[0] for claim in spec.claims}
    words = {
        "flops": f"FLOPs of a prefill of {SEQ:,} text tokens, batch 1, causal",
        "vision": f"vision of an image of {IMAGE[0]:,} x {IMAGE[1]:,} pixels",
        "kv": f"KV cache of a sequence in bf16, its growth at {CONTEXT:,} tokens",
        "serve": "serving of one sequence of the model's full length, in the engine's defaults, on the fewest GPUs",
    }
    said = [text for group, text in words.items() if group in groups]
    if said:
        yield f"Where a claim does not say otherwise: {'; '.join(said)}."


def judge(spec: Spec) -> list[Judged]:
    """Verdict and cause of each claim, in the spec's order. Raises SpecError as `claimed_quantities`."""
    tape = spec.trace(Workload())
    found = params_quantities(tape)
    variants = Variants(spec)
    judged = []
    for claim, computed in zip(spec.claims, claimed_quantities(spec), strict=True):
        printed = claim.printed
        if printed is None or printed.value == computed or printed.matches(computed):
            judged.append(_plain(claim, printed, computed))
            continue
        others = [
            (other.claim, other.printed)
            for other in spec.claims
            if (other.quantity, other.flags) == (claim.quantity, claim.flags) and other is not claim
        ]
        readings = [
            *convention_readings(spec, claim, printed, computed, found),
            *(unit_readings(printed, computed) if printed_kind(claim.quantity) == "bytes" else ()),
            *cut_readings(printed, computed),
            *slip_readings(printed, computed, [(words, number) for words, number in others if number]),
            *_changed_readings(claim, printed, computed, found, variants.asked()),
        ]
        judged.append(_disputed(claim, printed, computed, sorted(readings, key=lambda r: r.kind == "guess")))
    return judged


def claimed_quantities(spec: Spec) -> list[Value]:
    """The computed value of each claim's quantity. Raises Misclaimed for what a spec can't be asked."""
    measures = Measures(spec)
    return [_measured(measures, claim, n) for n, claim in enumerate(spec.claims)]


class Misclaimed(InputError):
    """A claim that can't be judged; `loc` is where it stands in the spec."""

    loc: tuple[str | int, ...] = ()


def _measured(measures: Measures, claim: Claim, n: int) -> Value:
    try:
        files = {key: _bundled(key, getattr(claim, key), folder) for key, folder in FOLDERS.items()}
        return measures.value(claim.quantity, claim.model_copy(update=files))
    except Unmeasured as error:
        made = Misclaimed(_told(claim, error), value=error.value, hint=error.hint)
        made.loc = ("claims", n, error.key)
        raise made from None


def _told(claim: Claim, error: Unmeasured) -> str:
    """The message, beginning with the quantity unless that says the same as the part it names."""
    name = claim.quantity
    if name.startswith("params[") and error.key == "quantity":
        return error.message
    if error.message.startswith(f"{name} "):
        return f"a claim is about {name}, which {error.message.removeprefix(name).lstrip()}"
    return f"a claim is about {name}: {error.message}"


def _bundled(key: str, name: str | None, folder: str) -> str | None:
    """The file of a bundled plan or GPU. Raises Unmeasured for another: a spec comes from anybody, and names no file to
    read."""
    if name is not None and name not in bundled_names(folder):
        message = f"no bundled {NOUNS[folder]} is named {show_value(name)}"
        hint = name_hint(name, folder, "none").removesuffix("; or give none")
        raise Unmeasured.of(InputError(message, value=name, hint=hint), key)
    return None if name is None else bundled_file(name, folder)


def _changed_readings(
    claim: Claim, printed: Printed, computed: Value, found: Mapping[str, Value], changed: list[Changed]
) -> Iterator[Reading]:
    """Specs with one field changed that give the claimed number, where weights and caches settle it."""
    for cause, variant, counted, what in changed:
        try:
            value = on_tape(variant, claim.quantity, claim, counted)
        except InputError:  # the change took the part away, or it takes more than one pass
            continue
        extra = int(counted["params.mtp"] - found["params.mtp"])
        if extra and claim.quantity in ("params.total", "params.backbone"):
            value, what = value + extra, f"{what}, counted in,"
        if value != computed and printed.matches(value):
            kind: Kind = "guess" if cause == "field-off-by-one" else "change"
            yield Reading(cause, f"{what} gives {number_text(value, claim.quantity)}", value, kind)


def _plain(claim: Claim, printed: Printed | None, computed: Value) -> Judged:
    said = shown(computed, claim.quantity)
    if printed is None:
        return Judged(claim, None, computed, "unstated", None, f"the source leaves it blank; it is {said}", ())
    if printed.value == computed:
        return Judged(claim, printed, computed, "confirmed", None, f"equal: {said}", ())
    return Judged(claim, printed, computed, "rounded", None, f"{said} prints as {printed.text}", ())


def _disputed(claim: Claim, printed: Printed, computed: Value, readings: list[Reading]) -> Judged:
    said = shown(computed, claim.quantity)
    verdict, best = "refuted", [r for r in readings if r.kind not in ("convention", "cut")]
    for kind, weaker in (("cut", "rounded"), ("convention", "convention")):
        if any(r.kind == kind for r in readings):
            verdict, best = weaker, [r for r in readings if r.kind == kind]
    if not best:
        text = f"it is {said}; no reading that was tried reproduces {printed.text}"
        return Judged(claim, printed, computed, "refuted", "unexplained", text, ())
    text = f"it is {said}; " + "; or ".join(r.text for r in best)
    if all(r.kind == "guess" for r in best):
        text += f" (prints as {printed.text}: a guess, not a proof)"
    return Judged(claim, printed, computed, verdict, best[0].cause, text, tuple(readings))


def _finding(item: Judged) -> dict[str, Any]:
    claimed = None if item.printed is None else _number(item.printed.value)
    computed = _number(item.computed)
    return {
        "claim": item.claim.claim,
        "source": item.claim.source,
        "quantity": item.claim.quantity,
        "under": item.claim.recorded,
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


def placed(error: InputError, document: Document) -> InputError:
    """An error about a claim, at the key that it is about."""
    if not isinstance(error, Misclaimed):
        return error
    problem = document.problem(error.message, error.loc, value=error.value, hint=error.hint)
    return SpecError.from_problems([problem])
