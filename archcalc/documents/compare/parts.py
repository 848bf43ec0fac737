"""Parts of a model or rows of a report, by path and index.

Letters in a path: `{i}` stands for the layers of a list, `{e}` for the experts of a stack.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from archcalc.documents.compare.change import Number
from archcalc.documents.paths import folded

Template = tuple[str, ...]
Key = tuple[Template, str, str]
"""Template, measure and kind: what the parts of two sides are joined by."""

NO_INDEX = frozenset((-1,))
"""The indices of a part whose path has none: a set of one, so that all parts are split and counted alike."""

MOST_INDICES = 4096
"""Layers of one list; a longer range in a path is taken as a plain name."""

RANGE = re.compile(r"[0-9]{1,9}(-[0-9]{1,9})?(,[0-9]{1,9}(-[0-9]{1,9})?)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One weight, buffer, operation or row, standing for all its indices.

    Attributes:
        template: pieces of its path with `{i}` and `{e}`; what parts are joined by.
        shown: the pieces under which it is printed, where they differ from `template`.
        indices: what `{i}` runs over.
        experts: how many `{e}` runs over.
        measure: what `each` counts: parameters, buffers, bytes, forward, ...
        kind: tells rows of equal path apart (latent and rope of a cache).
        each: the number of one index.
        traits: shape, dtype, role, ...: what must be equal for two parts to be the same.
        additive: whether numbers of several parts may be added up.
    """

    template: Template
    shown: Template = ()
    indices: frozenset[int] = NO_INDEX
    experts: int = 0
    measure: str = "parameters"
    kind: str = ""
    each: Number
    traits: tuple[tuple[str, str], ...] = ()
    additive: bool = True

    @property
    def key(self) -> Key:
        """What two sides are joined by."""
        return self.template, self.measure, self.kind

    @property
    def value(self) -> Number:
        """The number of all indices."""
        return self.each * len(self.indices)

    @property
    def path(self) -> str:
        """The folded path, as reports print it."""
        return self.at(self.shown or self.template)

    def at(self, template: Template) -> str:
        """A path or the beginning of one with this part's indices written in."""
        return folded(".".join(template), sorted(self.indices), self.experts)

    def on(self, indices: frozenset[int]) -> Part:
        """The same for some of its indices."""
        return replace(self, indices=indices)


def part(
    path: str,
    value: Number,
    *,
    measure: str = "parameters",
    kind: str = "",
    traits: Iterable[tuple[str, str]] = (),
    layers: bool = True,
    additive: bool = True,
) -> Part:
    """A part from a folded path (`model.layers.1-60.mlp.experts.0-383.up_proj.weight`) and the number of all copies.

    With `layers` its number is divided among the indices of the first list; without, the list stays a name.
    """
    pieces: list[str] = []
    indices, experts, each = NO_INDEX, 0, value
    for name in path.split("."):
        runs = _runs(name)
        count = sum(high - low + 1 for low, high in runs)
        if count and pieces and pieces[-1] == "experts":
            experts, name = count, "{e}"
        elif 0 < count <= MOST_INDICES and layers and indices is NO_INDEX and value % count == 0:
            indices, each, name = (
                frozenset(i for low, high in runs for i in range(low, high + 1)),
                value // count,
                "{i}",
            )
        pieces.append(name)
    return Part(
        template=tuple(pieces),
        indices=indices,
        experts=experts,
        measure=measure,
        kind=kind,
        each=each,
        traits=tuple(traits),
        additive=additive,
    )


def _runs(name: str) -> list[tuple[int, int]]:
    """First and last of each run of indices in a piece of a path: `1-3,5` is (1, 3), (5, 5); empty for a name."""
    if not RANGE.fullmatch(name):
        return []
    found: list[tuple[int, int]] = []
    for run in name.split(","):
        first, _, last = run.partition("-")
        low, high = int(first), int(last or first)
        if high < low or (found and low <= found[-1][1]):
            return []
        found.append((low, high))
    return found
