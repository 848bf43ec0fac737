"""Weight bytes: a fold of storage schemes over the weights of a tape."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

from archcalc.tape import Stored, Tape, Weight


class Scheme(Protocol):
    """What a storage scheme is to this file: from one matrix of a weight to the tensors that store it."""

    def __call__(self, w: Weight, /) -> tuple[Stored, ...]:
        """The tensors of one matrix of a weight whose layers are stored alike."""

    def split(self, weights: Iterable[Weight], /) -> list[Weight]:
        """The weights in their order, each divided by its layers where these are stored differently."""


class StoredRow(NamedTuple):
    """How one weight is stored, all its copies together [bytes]."""

    weight: Weight
    tensors: tuple[Stored, ...]
    nbytes: int


def stored_rows(tape: Tape, scheme: Scheme, more: Iterable[Weight] = ()) -> list[StoredRow]:
    """Every weight and stored buffer with its tensors, in forward order; then `more`, which no pass uses.

    A weight has one row, or one for each way that its layers are stored.
    """
    rows = []
    for w in scheme.split((*tape.weights(), *more)):
        tensors = scheme(w)
        rows.append(StoredRow(w, tensors, w.copies * sum(t.nbytes for t in tensors)))
    return rows
