"""Conventions: other ways to count a quantity, alone and two at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from fractions import Fraction
from itertools import combinations
from math import prod
from typing import NamedTuple

from archcalc.calc.kv_cache import LAYOUTS
from archcalc.calc.weights import StoredRow
from archcalc.documents.document import Value
from archcalc.documents.kv import kv_quantities
from archcalc.documents.readings import Reading, weights_at
from archcalc.documents.said import number_text
from archcalc.documents.standing import CONTEXT
from archcalc.documents.weights import released_rows, weights
from archcalc.errors import InputError
from archcalc.files.model import Claim, Spec
from archcalc.tape import Tape, Weight, product
from archcalc.units import Printed
from archcalc.workload import Workload

Keep = Callable[[Weight], bool]


class Way(NamedTuple):
    """Another way to count.

    Attributes:
        cause: the stable word for it.
        text: the same in words, as they go before "it is".
        value: the number that it gives.
        about: what it counts otherwise: two ways go together where these differ.
    """

    cause: str
    text: str
    value: Value
    about: frozenset[str]


TRAINED: dict[str, tuple[str, Keep, str]] = {
    "buffers-included": ("with the buffers", lambda w: w.part != "mtp", "buffers"),
    "mtp-included": ("with the multi-token-prediction module", lambda w: w.trainable, "mtp"),
    "embedding-excluded": (
        "without the input embedding",
        lambda w: w.trainable and w.part != "mtp" and w.role != "embedding",
        "ends",
    ),
    "embedding-and-head-excluded": (
        "without embedding and head",
        lambda w: w.trainable and w.part != "mtp" and w.role not in ("embedding", "head"),
        "ends",
    ),
}
"""Which weights a total counts, by the stable word of the convention, and what of it differs."""

ACTIVE = {
    "params.active": ("embedding-and-head-included", "with embedding and head"),
    "params.active_no_embedding": ("embedding-excluded", "without the input embedding"),
    "params.active_no_embedding_no_head": ("embedding-and-head-excluded", "without embedding and head"),
}
"""The three conventions for active parameters: cause and words by quantity."""


def convention_readings(
    spec: Spec, claim: Claim, printed: Printed, computed: Value, found: Mapping[str, Value]
) -> Iterator[Reading]:
    """Other ways to count that print as the claim does; two together only where none does alone.

    `found` holds the `params.*` quantities as defined.
    """
    known = [way for way in _ways(spec, claim, found) if way.value != computed]
    told = [way for way in known if printed.matches(way.value)]
    for way in told or _pairs(known, computed):
        if printed.matches(way.value):
            text = f"{way.text} it is {number_text(way.value, claim.quantity)}, which prints as {printed.text}"
            yield Reading(way.cause, text, way.value, "convention")


def _pairs(known: list[Way], computed: Value) -> Iterator[Way]:
    """Two ways at once, each of which counts something else otherwise: what they add goes together."""
    for one, other in combinations(known, 2):
        if not one.about & other.about:
            value = Fraction(one.value) + Fraction(other.value) - Fraction(computed)
            whole = value.numerator if value.denominator == 1 else value
            yield Way(f"{one.cause}+{other.cause}", f"{one.text} and {other.text}", whole, one.about | other.about)


def _ways(spec: Spec, claim: Claim, found: Mapping[str, Value]) -> Iterator[Way]:
    tape, quantity = spec.trace(Workload()), claim.quantity
    if quantity in ACTIVE:
        for other, (cause, text) in ACTIVE.items():
            if other != quantity:
                yield Way(cause, text, found[other], frozenset({"ends"}))
    elif quantity in ("params.total", "params.backbone"):
        yield from _totals(spec, quantity, found)
    elif quantity == "params.mtp":
        mtp = [w for w in tape.weights() if w.trainable and w.part == "mtp"]
        alone = sum(w.elements for w in mtp if w.role != "mtp")
        yield Way("layer-only", "for its decoder layer alone", alone, frozenset({"mtp"}))
        both = int(found["params.mtp"]) + _ends(tape.weights())
        yield Way(
            "embedding-and-head-included", "with its copies of embedding and head", both, frozenset({"mtp", "ends"})
        )
    elif quantity.startswith("params["):
        inside = weights_at(tape, quantity[7:-1])
        unbiased = sum(w.elements for w in inside if w.trainable and w.suffix != "bias")
        yield Way("bias-excluded", "without biases", unbiased, frozenset({"bias"}))
    elif quantity == "moe.activation_ratio":
        yield from _with_shared(tape)
    elif quantity in ("weights.elements", "weights.bytes"):
        yield from _stored(spec, quantity)
    elif quantity.startswith("kv."):
        for dtype in LAYOUTS:
            with suppress(InputError):  # a layout of another kind of attention
                cached = kv_quantities(tape, dtype, claim.context or CONTEXT)
                if quantity in cached:
                    yield Way(f"cache-in-{dtype}", f"with a cache in {dtype}", cached[quantity], frozenset({"dtype"}))


def _totals(spec: Spec, quantity: str, found: Mapping[str, Value]) -> Iterator[Way]:
    """Of all parameters, or of the backbone's."""
    every = spec.trace(Workload()).weights()
    own = [w for w in every if quantity == "params.total" or w.part in ("backbone", "mtp")]
    for cause, (text, keep, about) in TRAINED.items():
        yield Way(cause, text, sum(w.elements for w in own if keep(w)), frozenset({about}))
    if predicts := int(found["params.mtp"]):
        text = "with the multi-token-prediction module and its copies of embedding and head"
        value = int(found[quantity]) + predicts + _ends(every)
        yield Way("mtp-and-copies-included", text, value, frozenset({"mtp"}))
    if quantity == "params.backbone":
        text = "with vision tower and projector"
        yield Way("vision-included", text, found["params.total"], frozenset({"vision"}))
        return
    text = "without vision tower and projector"
    yield Way("vision-excluded", text, found["params.backbone"], frozenset({"vision"}))
    rows = released_rows(spec)
    stored = sum(row.weight.elements for row in rows)
    yield Way("stored-elements", "counting all elements that the release stores", stored, frozenset({"mtp", "buffers"}))
    yield _with_scales(int(found[quantity]), rows)


def _stored(spec: Spec, quantity: str) -> Iterator[Way]:
    """Of what the release stores."""
    rows = released_rows(spec)

    def number(row: StoredRow) -> int:
        return row.weight.elements if quantity == "weights.elements" else row.nbytes

    whole = sum(map(number, rows))
    seen = ("vision", "projector")
    without: dict[str, tuple[str, Keep, str]] = {
        "mtp-excluded": ("without the multi-token-prediction module", lambda w: w.part == "mtp", "mtp"),
        "buffers-excluded": ("without the buffers", lambda w: not w.trainable and w.part != "mtp", "buffers"),
        "vision-excluded": ("without vision tower and projector", lambda w: w.part in seen, "vision"),
    }
    for cause, (text, left_out, about) in without.items():
        yield Way(cause, text, whole - sum(number(row) for row in rows if left_out(row.weight)), frozenset({about}))
    if quantity == "weights.elements":
        yield _with_scales(whole, rows)
    else:
        for name in ("bf16", "fp8"):
            value = weights(spec, as_=name).quantities[quantity]
            yield Way(f"stored-as-{name}", f"with weights as {name}", value, frozenset({"dtype"}))


def _with_scales(whole: int, rows: Iterable[StoredRow]) -> Way:
    """What stands beside quantized values, an element for each number: not packed words, and not tables."""
    beside = sum(
        row.weight.copies * prod(tensor.shape)
        for row in rows
        for tensor in row.tensors[1:]
        if not tensor.about and tensor.dtype != "int32"
    )
    return Way("scales-included", "with the scales of quantized weights", whole + beside, frozenset({"scales"}))


def _ends(weights: Iterable[Weight]) -> int:
    """Elements of the backbone's embedding and head, which some releases store again beside a prediction module."""
    return sum(w.elements for w in weights if w.part == "backbone" and w.role in ("embedding", "head"))


def _with_shared(tape: Tape) -> Iterator[Way]:
    routed = [w for w in tape.weights() if w.active is not None]
    shared = [w for w in tape.weights() if w.role == "shared_expert"]
    if routed and shared:
        extra = Fraction(shared[0].matrix, routed[0].matrix)
        active = routed[0].active
        ratio = ((active.size if active else 0) + extra) / (product(routed[0].stack) + extra)
        text = "with the shared experts on both sides"
        yield Way("shared-experts-included", text, ratio, frozenset({"shared"}))
