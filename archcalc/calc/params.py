"""Parameter counts: a fold over the weights of a tape."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import NamedTuple

from archcalc.tape import Dim, Tape, Term, Weight, formula, numeric, product


class Counts(NamedTuple):
    """Totals of one tape [parameters], each a sum of rows.

    Buffers (`e_score_correction_bias`) are apart: they are not trained. Multi-token-prediction modules are apart:
    published
    totals leave them out. Active counts are per text token, in three conventions.
    """

    total: int
    buffers: int
    mtp: int
    backbone: int
    vision: int
    projector: int
    routed_experts: int
    active: int
    active_no_embedding: int
    active_no_embedding_no_head: int


def count(tape: Tape) -> Counts:
    """Fold the tape's weights into totals; each weight counts once, tied ones too."""
    weights = tape.weights()
    main = [w for w in weights if w.part != "mtp"]
    trained = [w for w in main if w.trainable]
    part = {name: _sum(w for w in trained if w.part == name) for name in ("backbone", "vision", "projector")}
    used = [w for w in trained if w.part == "backbone"]
    active = sum(w.active_elements for w in used)
    lookups, heads = _ends(tape)
    total = _sum(trained)
    if total != sum(part.values()):
        raise AssertionError("parts do not add up to the total")
    return Counts(
        total=total,
        buffers=_sum(w for w in main if not w.trainable),
        mtp=_sum(w for w in weights if w.part == "mtp" and w.trainable),
        backbone=part["backbone"],
        vision=part["vision"],
        projector=part["projector"],
        routed_experts=_sum(w for w in used if w.role == "routed_expert"),
        active=active,
        active_no_embedding=active - _sum(w for w in lookups if w not in heads),
        active_no_embedding_no_head=active - _sum({id(w): w for w in (*lookups, *heads)}.values()),
    )


def activation_ratio(tape: Tape) -> Fraction | None:
    """Routed experts a token uses over all routed experts, or None without experts."""
    for w in tape.weights():
        if w.active is not None:
            return Fraction(w.active.size, product(w.stack))
    return None


def merged_hidden_size(tape: Tape) -> int | None:
    """Features of one merged vision token, the width of the projector's first linear, or None without a projector."""
    for segment in tape.segments:
        for op in segment.ops:
            if segment.part == "projector" and op.weights and op.weights[0].into:
                return product(op.weights[0].into)
    return None


def weight_formula(w: Weight) -> tuple[str, str]:
    """How a weight's count comes about, in names and in numbers."""
    layers = (Dim("layers", len(w.indices)),) if len(w.indices) > 1 else ()
    number = (Term(1, (*layers, *w.stack, *w.out, *w.into)),)
    return formula(number), numeric(number)


def _sum(weights: Iterable[Weight]) -> int:
    return sum(w.elements for w in weights)


def _ends(tape: Tape) -> tuple[list[Weight], list[Weight]]:
    """Weights that the input looks up, and those used as output head: the same one where they are tied."""
    ops = list(tape.ops("backbone"))
    lookups = [w for op in ops for w in op.weights if op.site == "embedding" and w.role == "embedding"]
    heads = [w for op in ops if op.site == "head" for w in op.weights]
    return lookups, heads
