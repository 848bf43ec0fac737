"""Weight bytes: a fold of storage schemes over the weights of a tape."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from archcalc.tape import Stored, Tape, Weight

Scheme = Callable[[Weight], tuple[Stored, ...]]
"""What a storage scheme is to this file: from one matrix of a weight to the tensors that store it."""


class StoredRow(NamedTuple):
    """How one weight is stored, all its copies together [bytes]."""

    weight: Weight
    tensors: tuple[Stored, ...]
    nbytes: int


def stored_rows(tape: Tape, scheme: Scheme, more: Iterable[Weight] = ()) -> list[StoredRow]:
    """Every weight and stored buffer with its tensors, in forward order; then `more`, which no pass uses."""
    rows = []
    for w in (*tape.weights(), *more):
        tensors = scheme(w)
        rows.append(StoredRow(w, tensors, w.copies * sum(t.nbytes for t in tensors)))
    return rows
