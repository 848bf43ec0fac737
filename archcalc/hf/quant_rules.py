"""From a scheme for every weight to the few rules that say the same, as one would write them by hand.

A role whose weights agree gets a rule by role. What differs inside a role gets rules by path above it: the pattern that
covers most of it for its length and stores nothing else otherwise than it wants.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from archcalc.files.matching import KEYS, names, pattern, roles
from archcalc.tape import Weight

Store = dict[str, Any]
Rules = list[tuple[str, Store]]


class Cell(NamedTuple):
    """One weight in one layer, and how it is stored."""

    weight: Weight
    layer: int | None
    store: Store

    @property
    def matrix(self) -> bool:
        """Whether a quantized rule quantizes it; all else that such a rule takes is stored by the default."""
        return bool(self.weight.into) and self.weight.flat


def compress(cells: Sequence[Cell], default: Store) -> Rules:
    """Rules of which the first match stores each cell as it wants, the last one `default`."""
    return _Compression(cells, default).rules()


class _Compression:
    """Cells by number, schemes by number (the default is 0), and sets of cells."""

    def __init__(self, cells: Sequence[Cell], default: Store) -> None:
        self.cells = cells
        self.schemes = [default]
        for cell in cells:
            if cell.store not in self.schemes:
                self.schemes.append(cell.store)
        self.wants = [self.schemes.index(cell.store) for cell in cells]
        self.keys = [roles(cell.weight) for cell in cells]
        self.paths = [names(cell.weight, cell.layer or 0, 0) for cell in cells]
        self.hit: dict[str, frozenset[int]] = {"default": frozenset(range(len(cells)))}
        self.right = [self._right(n) for n in range(len(self.schemes))]

    def rules(self) -> Rules:
        by_role = self._by_role()
        plain = [rule for rule in by_role if self._plain(rule[1]) and self._hits(rule[0]) <= self.right[rule[1]]]
        others = [rule for rule in by_role if rule not in plain]
        found = [*plain, *self._by_path(plain, others), *others, ("default", 0)]
        for rule in found[:-1]:
            fewer = [each for each in found if each is not rule]
            if not self._wrong(fewer):
                found = fewer
        return [(match, self.schemes[n]) for match, n in found]

    def _plain(self, n: int) -> bool:
        return bool(self.schemes[n]["scheme"] == "plain")

    def _right(self, n: int) -> frozenset[int]:
        """The cells that get what they want from a rule with this scheme."""
        given = [n if cell.matrix or self._plain(n) else 0 for cell in self.cells]
        return frozenset(k for k, want in enumerate(self.wants) if given[k] == want)

    def _hits(self, match: str) -> frozenset[int]:
        """The cells that a rule is for."""
        if match not in self.hit:
            found = pattern(match).match
            self.hit[match] = frozenset(
                k
                for k, (path, full) in enumerate(self.paths)
                if (match in self.keys[k] if match in KEYS else found(path) or found(full))
            )
        return self.hit[match]

    def _by_role(self) -> list[tuple[str, int]]:
        """Of each role the scheme of most of its matrices, or of most of its vectors where it has none."""
        votes: dict[str, Counter[int]] = {}
        for k, cell in enumerate(self.cells):
            votes.setdefault(self.keys[k][-1], Counter())[self.wants[k]] += len(self.cells) if cell.matrix else 1
        most = {role: count.most_common(1)[0][0] for role, count in votes.items()}
        return [(role, n) for role, n in most.items() if n]

    def _by_path(self, above: list[tuple[str, int]], below: list[tuple[str, int]]) -> list[tuple[str, int]]:
        """Rules between others, for all that these store wrongly."""
        found: list[tuple[str, int]] = []
        covered = frozenset[int]().union(*(self._hits(match) for match, _ in above))
        while wrong := self._wrong([*above, *found, *below, ("default", 0)]):
            fitting = (
                (len(wrong & self._hits(match) - covered) / len(match), match, n)
                for match, n in self._candidates(wrong)
                if self._hits(match) - covered <= self.right[n]
            )
            _, match, n = max(fitting)
            found.append((match, n))
            covered |= self._hits(match)
        return found

    def _wrong(self, rules: list[tuple[str, int]]) -> frozenset[int]:
        """The cells that rules store otherwise than they want."""
        left, wrong = self._hits("default"), frozenset[int]()
        for match, n in rules:
            taken = left & self._hits(match)
            wrong |= taken - self.right[n]
            left -= taken
        return wrong

    def _candidates(self, wrong: frozenset[int]) -> Iterator[tuple[str, int]]:
        """Matches that take some of the cells, each with what those want."""
        alike: dict[tuple[str, str, str, int], list[int]] = {}
        for k in sorted(wrong):
            w = self.cells[k].weight
            alike.setdefault((w.path, w.suffix, w.part, self.wants[k]), []).append(self.cells[k].layer or 0)
        for (path, suffix, part, n), layers in alike.items():
            if part == "mtp":
                yield "mtp", n
            yield from ((match, n) for match in _matches(path, suffix, layers))


def _matches(path: str, suffix: str, layers: list[int]) -> Iterator[str]:
    """Patterns for a weight in these layers: in all, or in these alone; with what stands beside it, or alone."""
    above, indexed, tail = path.rpartition("{i}.")
    pieces = [*tail.replace("{e}", "*").split("."), suffix]
    last = len(pieces) - 1
    if pieces[-2].endswith("norm"):
        yield "*norm"
    yield from (f"*.{'.'.join(pieces[n:end])}" for n in range(last + 1) for end in (last, last + 1) if n < end)
    yield from (f"*.{'.'.join(pieces[:n])}.*" for n in range(1, last))
    yield f"{path.partition('.')[0]}.*"
    if not indexed:
        yield from (".".join(pieces[:end]) for end in (last, last + 1))
    elif len(layers) == 1:
        yield from (".".join((f"{above}{layers[0]}", *pieces[:n], "*")) for n in range(last))
        yield from (f"{above}{layers[0]}.{'.'.join(pieces[:end])}" for end in (last, last + 1))
    else:
        start = rf"re:{re.escape(above)}({'|'.join(map(str, sorted(layers)))})\."
        inner = [re.escape(piece) if piece != "*" else "[0-9]+" for piece in pieces]
        yield start
        yield from (start + r"\.".join(inner[:n]) + r"(\.|$)" for n in range(1, last + 2))
