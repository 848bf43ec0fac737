"""Readings of a claimed number: ways in which somebody could have come to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from fractions import Fraction
from functools import partial
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel

from archcalc.documents.paths import covers, is_index, places, starred
from archcalc.errors import InputError, did_you_mean
from archcalc.files.model import Spec
from archcalc.tape import Tape, Weight, product
from archcalc.units import Printed
from archcalc.workload import Workload

Kind = Literal["convention", "cut", "slip", "change", "guess"]
"""Another way to count; digits cut off instead of rounded; a slip in writing; a mistake; a field off by one."""


Value = int | float | Fraction
"""An exact count, or a ratio."""


class Reading(NamedTuple):
    """One way to reproduce a claimed number.

    Attributes:
        cause: the stable word for it (`unit-slip`, `decimal-slip`, `field-off-by-one`, `norm-after-merge`, ...).
        text: the reading in words.
        value: the number that it gives.
        kind: what it makes of the claim.
    """

    cause: str
    text: str
    value: Value
    kind: Kind


UNIT_WORDS = {0: "no unit word", 3: "thousand", 6: "million", 9: "billion", 12: "trillion", 15: "quadrillion"}

FLIPPED = {
    "use_postshuffle_norm": ("norm-after-merge", "the norm on the other side of the patch merge"),
    "tie_word_embeddings": ("tied-embeddings", "one matrix for embedding and head, or two"),
}
"""Cause and words of a switch that stands the other way."""


def parameters_at(tape: Tape, path: str) -> int:
    """Trained parameters at or below a module path; 0 for an operation without any. Raises InputError for none such."""
    known = places(tape)
    if not any(covers(place.template, place.indices, place.experts, path) for place in known):
        hint = did_you_mean(path, {starred(place.template) for place in known})
        raise InputError(f"no part is at {path}", value=path, hint=hint)
    return sum(w.elements for w in weights_at(tape, path) if w.trainable)


def weights_at(tape: Tape, path: str) -> list[Weight]:
    """Weights at or below a path; where the path names one layer or one expert, narrowed to it."""
    found = [w for w in tape.weights() if covers(f"{w.path}.{w.suffix}", w.indices, product(w.stack), path)]
    return [_narrowed(w, path.split(".")) for w in found]


def _narrowed(w: Weight, asked: list[str]) -> Weight:
    single = [(piece, ask) for piece, ask in zip(w.path.split("."), asked, strict=False) if is_index(ask)]
    names = dict(single)
    one = w.replace(indices=(int(names["{i}"]),)) if "{i}" in names else w
    return one.replace(stack=(), path=w.path.replace("{e}", names["{e}"])) if "{e}" in names else one


def cut_readings(printed: Printed, computed: Value) -> Iterator[Reading]:
    """Digits cut off behind the printed ones, where rounding would have gone up."""
    if printed.value <= computed < printed.value + printed.ulp:
        yield Reading("truncated", f"cut off behind the printed digits it is {printed.text}", computed, "cut")


def unit_readings(printed: Printed, computed: Value) -> Iterator[Reading]:
    """A size whose unit is meant in powers of 1024 where it is printed in those of 1000, or the other way round."""
    for power in range(1, 6):
        decimal, binary = 1000**power, 1024**power
        for unit, meant, word in ((decimal, binary, "1024"), (binary, decimal, "1000")):
            other = printed._replace(value=printed.value * meant / unit, ulp=printed.ulp * meant / unit)
            if printed.scale == unit and other.matches(computed):
                text = f"with the unit as a power of {word} it prints as {printed.text}"
                yield Reading("binary-units" if meant == binary else "decimal-units", text, computed, "convention")


def slip_readings(printed: Printed, computed: Value, others: list[tuple[str, Printed]]) -> Iterator[Reading]:
    """Powers of ten away from the computed value, or from another claim that is nearer to it."""
    distance = _distance(printed.value, computed)
    bases: list[tuple[Value, str]] = [(computed, "the computed value")]
    for claim, other in others:
        if _distance(other.value, computed) < distance:
            bases.append((other.value, f"the claim of {other.text} ({claim})"))
    for base, name in bases:
        for power in (-12, -9, -6, -3, -2, -1, 1, 2, 3, 6, 9, 12):
            if printed.matches(Fraction(base) * Fraction(10) ** power):
                yield _slip(printed, base, name, power)


def _slip(printed: Printed, base: Value, name: str, power: int) -> Reading:
    shift = "over" if power < 0 else "times"
    if power % 3 == 0:
        right, wrong = _unit(Fraction(base)), _unit(printed.value)
        text = f"{name} with the unit word wrong: {wrong} for {right}"
        return Reading("unit-slip", text, Fraction(base) * Fraction(10) ** power, "slip")
    text = f"{name} {shift} {10 ** abs(power)}: the decimal point slipped"
    return Reading("decimal-slip", text, Fraction(base) * Fraction(10) ** power, "slip")


def _unit(value: Fraction) -> str:
    power = max((p for p in UNIT_WORDS if abs(value) >= 10**p), default=0)
    return UNIT_WORDS[power]


def _distance(value: Value, computed: Value) -> float:
    """How far a number is from the computed one, as a ratio of at least 1."""
    if not value or not computed:
        return float("inf")
    ratio = float(Fraction(value) / Fraction(computed))
    return max(ratio, 1 / ratio)


# -- one field of the spec changed ------------------------------------------------------------------------------------


def field_readings(spec: Spec) -> Iterator[tuple[str, Tape, str]]:
    """(cause, tape, words) of every spec that differs in one field: an integer off by one, or a switch flipped."""
    for section in ("backbone", "vision", "projector"):
        block = getattr(spec, section)
        if block is not None:
            for cause, changed, words in _changes(block, section):
                tape = Tape(Workload())
                try:
                    spec.model_copy(update={section: changed}).forward(tape)
                except (ArithmeticError, LookupError, ValueError):
                    continue
                yield cause, tape, words


def _changes(value: Any, path: str) -> Iterator[tuple[str, Any, str]]:
    """Copies of a section with one leaf changed, not validated again: a reading may be nonsense as a model."""
    if isinstance(value, bool):
        cause, words = FLIPPED.get(path.rsplit(".", 1)[-1], ("field-flipped", ""))
        change = f"{path} {str(not value).lower()} instead of {str(value).lower()}"
        yield cause, not value, f"{words} ({change})" if words else change
    elif isinstance(value, int):
        for changed in (value + 1, value - 1):
            if changed >= 0:
                yield "field-off-by-one", changed, f"{path} {changed} instead of {value}"
    else:
        for name, inner, rebuilt in _members(value):
            for cause, changed, words in _changes(inner, path + name):
                yield cause, rebuilt(changed), words


def _members(value: Any) -> Iterator[tuple[str, Any, Callable[[Any], Any]]]:
    """What a section, mapping or list holds: how the path goes on, the member, and the whole with another there."""
    if isinstance(value, BaseModel):
        for key in type(value).model_fields:
            yield f".{key}", getattr(value, key), partial(_with_field, value, key)
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield f".{key}", inner, partial(_with_item, value, key)
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield f"[{i}]", inner, partial(_with_item, value, i)


def _with_field(section: BaseModel, key: str, new: Any) -> BaseModel:
    return section.model_copy(update={key: new})


def _with_item(whole: Any, key: Any, new: Any) -> Any:
    changed = copy(whole)
    changed[key] = new
    return changed
