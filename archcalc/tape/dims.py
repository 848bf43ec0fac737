"""Exact named sizes, and sums of products of them that can print their own formula.

Legend: a `Dim` is one named size; `Dims` is a product of them; a `Number` is a sum of `Term`s,
each a coefficient times a product of dims.
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple


class Dim:
    """One named size.

    Args:
        name: the spec key or symbol that a formula prints.
        size: exact size [elements].
        axis: logical axis that a plan may shard (`heads`, `kv_heads`, `ffn`, `experts`, `vocab`, ...), or None.
    """

    __slots__ = ("axis", "name", "size")

    def __init__(self, name: str, size: int, axis: str | None = None) -> None:
        self.name = name
        self.size = size
        self.axis = axis

    def on(self, axis: str) -> Dim:
        """The same size on a logical axis."""
        return Dim(self.name, self.size, axis)

    def __mul__(self, other: Dim) -> Dims:
        return (self, other)

    def __rmul__(self, factor: int) -> Dim:
        return Dim(f"{factor}·{self.name}", factor * self.size, self.axis)

    def __add__(self, other: Dim) -> Dim:
        return Dim(f"({self.name}+{other.name})", self.size + other.size)

    def __repr__(self) -> str:
        return f"{self.name}={self.size}" + (f"@{self.axis}" if self.axis else "")


Dims = tuple[Dim, ...]


class Term(NamedTuple):
    """A coefficient times a product of dims."""

    coefficient: int
    dims: Dims

    @property
    def value(self) -> int:
        """The exact product [elements, or FLOPs when the coefficient counts them]."""
        return self.coefficient * prod(d.size for d in self.dims)


Number = tuple[Term, ...]


def product(dims: Dims) -> int:
    """Product of sizes; 1 for no dims [elements]."""
    return prod([d.size for d in dims])  # asked for millions of times: a list takes half of what a generator does


def value(number: Number) -> int:
    """Sum of the terms, an exact int."""
    return sum(term.value for term in number)


def formula(number: Number) -> str:
    """The number in names, such as `2·seq·hidden_size + 384`."""
    return _join(number, [d.name for term in number for d in term.dims])


def numeric(number: Number) -> str:
    """The same formula with sizes in place of names."""
    return _join(number, [str(d.size) for term in number for d in term.dims])


def _join(number: Number, labels: list[str]) -> str:
    queue = iter(labels)
    texts = []
    for coefficient, dims in number:
        factors = [next(queue) for _ in dims]
        if coefficient != 1 or not factors:
            factors.insert(0, str(coefficient))
        texts.append("·".join(factors))
    return " + ".join(texts) or "0"
