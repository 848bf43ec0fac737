"""Readings of a claimed number: ways in which somebody could have come to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from fractions import Fraction
from typing import Any, NamedTuple

from pydantic import BaseModel

from archcalc.errors import InputError, did_you_mean
from archcalc.report.paths import covers
from archcalc.spec.model import Spec
from archcalc.tape import Tape, Weight, product
from archcalc.units import Printed
from archcalc.workload import Workload


class Reading(NamedTuple):
    """One way to reproduce a claimed number.

    Attributes:
        cause: the stable word for it (`unit-slip`, `decimal-slip`, `field-off-by-one`, `norm-after-merge`, ...).
        text: the reading in words.
        value: the number that it gives.
        convention: whether it is another way to count rather than a mistake.
        guess: whether it only happens to print the same.
    """

    cause: str
    text: str
    value: int | float | Fraction
    convention: bool = False
    guess: bool = True


UNIT_WORDS = {0: "no unit word", 3: "thousand", 6: "million", 9: "billion", 12: "trillion", 15: "quadrillion"}
FLIPPED = {"use_postshuffle_norm": "norm-after-merge", "tie_word_embeddings": "tied-embeddings"}


def parameters_at(tape: Tape, path: str) -> int:
    """Trained parameters at or below a module path. Raises InputError where there is no such path."""
    found = weights_at(tape, path)
    if not found:
        names = {w.path for w in tape.weights()}
        raise InputError(f"no part is at {path}", value=path, hint=did_you_mean(path, names))
    return sum(w.elements for w in found if w.trainable)


def weights_at(tape: Tape, path: str) -> list[Weight]:
    """Weights at or below a path; where the path names one layer or one expert, narrowed to it."""
    found = [w for w in tape.weights() if covers(f"{w.path}.{w.suffix}", w.indices, product(w.stack), path)]
    return [_narrowed(w, path.split(".")) for w in found]


def _narrowed(w: Weight, asked: list[str]) -> Weight:
    single = [(piece, ask) for piece, ask in zip(w.path.split("."), asked, strict=False) if ask.isdecimal()]
    names = dict(single)
    if "{i}" not in names and "{e}" not in names:
        return w
    one = copy(w)
    if "{i}" in names:
        one.indices = (int(names["{i}"]),)
    if "{e}" in names:
        one.stack = ()
        one.path = w.path.replace("{e}", names["{e}"])
    return one


def slip_readings(printed: Printed, computed: Any, others: list[tuple[str, Printed]]) -> Iterator[Reading]:
    """Powers of ten away from the computed value, or from another claim that is nearer to it."""
    distance = _distance(printed.value, computed)
    bases: list[tuple[Any, str]] = [(computed, "the computed value")]
    for claim, other in others:
        if _distance(other.value, computed) < distance:
            bases.append((other.value, f"the claim of {other.text} ({claim})"))
    for base, name in bases:
        for power in (-12, -9, -6, -3, -2, -1, 1, 2, 3, 6, 9, 12):
            if printed.matches(Fraction(base) * Fraction(10) ** power):
                yield _slip(printed, base, name, power)


def _slip(printed: Printed, base: Any, name: str, power: int) -> Reading:
    shift = "over" if power < 0 else "times"
    if power % 3 == 0:
        right, wrong = _unit(Fraction(base)), _unit(printed.value)
        text = f"{name} with the unit word wrong: {wrong} for {right}"
        return Reading("unit-slip", text, Fraction(base) * Fraction(10) ** power, guess=False)
    text = f"{name} {shift} {10 ** abs(power)}: the decimal point slipped"
    return Reading("decimal-slip", text, Fraction(base) * Fraction(10) ** power, guess=False)


def _unit(value: Fraction) -> str:
    power = max((p for p in UNIT_WORDS if abs(value) >= 10**p), default=0)
    return UNIT_WORDS[power]


def _distance(value: Any, computed: Any) -> float:
    """How far a number is from the computed one, as a ratio of at least 1."""
    if not value or not computed:
        return float("inf")
    ratio = float(Fraction(value) / Fraction(computed))
    return max(ratio, 1 / ratio)


# -- other ways to count ----------------------------------------------------------------------------------------------

Keep = Callable[[Weight], int]


def _embedding(w: Weight) -> bool:
    return w.role == "embedding"


CONVENTIONS: dict[str, tuple[str, Keep]] = {
    "buffers-included": ("with the buffers", lambda w: w.elements if w.part != "mtp" else 0),
    "mtp-included": ("with the multi-token-prediction module", lambda w: w.elements if w.trainable else 0),
    "embedding-excluded": (
        "without the input embedding",
        lambda w: w.elements if w.trainable and w.part != "mtp" and not _embedding(w) else 0,
    ),
    "embedding-and-head-excluded": (
        "without embedding and head",
        lambda w: w.elements if w.trainable and w.part != "mtp" and w.role not in ("embedding", "head") else 0,
    ),
}
"""Ways to count parameters: what a weight adds, by the stable word of the convention."""


def convention_readings(tape: Tape, quantity: str, printed: Printed) -> Iterator[Reading]:
    """The same quantity counted in other conventions that print as the claim does."""
    for cause, text, value in _conventions(tape, quantity):
        if printed.matches(value):
            yield Reading(cause, f"{text} it is {_text(value)}, which prints as {printed.text}", value, True, False)


def _conventions(tape: Tape, quantity: str) -> Iterator[tuple[str, str, int | Fraction]]:
    weights = tape.weights()
    if quantity == "params.active":
        used = [w for w in weights if w.trainable and w.part == "backbone"]
        no_embedding = sum(w.active_elements for w in used if not _embedding(w))
        neither = sum(w.active_elements for w in used if w.role not in ("embedding", "head"))
        yield "embedding-excluded", "without the input embedding", no_embedding
        yield "embedding-and-head-excluded", "without embedding and head", neither
    elif quantity in ("params.total", "params.backbone", "params.vision", "params.projector"):
        part = quantity.removeprefix("params.")
        own = [w for w in weights if part == "total" or w.part == part or (part == "backbone" and w.part == "mtp")]
        for cause, (text, keep) in CONVENTIONS.items():
            yield cause, text, sum(keep(w) for w in own)
        if part == "backbone":
            everything = sum(w.elements for w in weights if w.trainable and w.part != "mtp")
            yield "vision-included", "with vision tower and projector", everything
    elif quantity.startswith("params["):
        own = weights_at(tape, quantity[7:-1])
        yield "bias-excluded", "without biases", sum(w.elements for w in own if w.trainable and w.suffix != "bias")
    elif quantity == "moe.activation_ratio":
        yield from _with_shared(tape)


def _with_shared(tape: Tape) -> Iterator[tuple[str, str, Fraction]]:
    routed = [w for w in tape.weights() if w.active is not None]
    shared = [w for w in tape.weights() if w.role == "shared_expert"]
    if routed and shared:
        extra = Fraction(shared[0].matrix, routed[0].matrix)
        active = routed[0].active
        ratio = ((active.size if active else 0) + extra) / (product(routed[0].stack) + extra)
        yield "shared-experts-included", "with the shared experts on both sides", ratio


def _text(value: int | float | Fraction) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{float(value) * 100:.3f} %"


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
    """Copies of a section with one leaf changed. Fields are not validated again: a reading may be nonsense as a model."""
    if isinstance(value, bool):
        key = path.rsplit(".", 1)[-1]
        yield FLIPPED.get(key, "field-flipped"), not value, f"{path} {str(not value).lower()} instead of {str(value).lower()}"
    elif isinstance(value, int):
        for changed in (value + 1, value - 1):
            if changed >= 0:
                yield "field-off-by-one", changed, f"{path} {changed} instead of {value}"
    elif isinstance(value, BaseModel):
        for key in type(value).model_fields:
            for cause, changed, words in _changes(getattr(value, key), f"{path}.{key}"):
                yield cause, value.model_copy(update={key: changed}), words
    elif isinstance(value, dict):
        for key, inner in value.items():
            for cause, changed, words in _changes(inner, f"{path}.{key}"):
                yield cause, {**value, key: changed}, words
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            for cause, changed, words in _changes(inner, f"{path}[{i}]"):
                yield cause, [*value[:i], changed, *value[i + 1 :]], words
