"""Parts of a model or rows of a report, by path and index.

Letters in a path: `{i}` stands for the layers of a list, `{e}` for the experts of a stack.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from archcalc.documents.compare.change import Number
from archcalc.documents.paths import folded

Template = tuple[str, ...]
Key = tuple[Template, str, str]
"""Template, measure and kind: what the parts of two sides are joined by."""

NO_INDEX = frozenset((-1,))
"""The indices of a part whose path has none: a set of one, so that all parts are split and counted alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One weight, buffer, operation or row, standing for all its indices.

    Attributes:
        template: pieces of its path with `{i}` and `{e}`; what parts are joined by.
        shown: the pieces under which it is printed, where they differ from `template`.
        loose: of a part that is not split by layer: its template with `{i}`, where `template` has them written in.
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
    loose: Template = ()
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
    row: Mapping[str, Any],
    measure: str,
    *,
    path: str,
    kind: str = "",
    traits: Iterable[tuple[str, str]] = (),
    split: bool = False,
    additive: bool = True,
) -> Part:
    """One number of a row, at the place that the row names; its printed path is a plain name where it names none.

    With `split` the number is divided among the row's layers; without, they stay a name.
    """
    where: Mapping[str, Any] = row if "template" in row else {"template": path, "indices": (), "experts": 0}
    template: Template = tuple(where["template"].split("."))
    loose: Template = ()
    each, indices = row[measure], NO_INDEX
    layers = frozenset(i for first, last in where["indices"] if split for i in range(first, last + 1))
    if layers and each % len(layers) == 0:
        each, indices = each // len(layers), layers
    elif "{i}" in template:
        loose = template
        template = tuple(b if a == "{i}" else a for a, b in zip(loose, path.split("."), strict=False))
    return Part(
        template=template,
        loose=loose,
        indices=indices,
        experts=where["experts"],
        measure=measure,
        kind=kind,
        each=each,
        traits=tuple(traits),
        additive=additive,
    )
