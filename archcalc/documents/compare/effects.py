"""What each changed field of a spec does by itself: it is applied to BASE alone, or with the fields that it needs.

A field that makes no valid spec alone (a layer more in a pattern, but not in `num_hidden_layers`) is applied with the
fewest others that make one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from archcalc.documents.compare.change import quantity_rows
from archcalc.documents.compare.fields import MISSING, FieldChange, field_name
from archcalc.documents.document import Value
from archcalc.documents.measured import PLACED
from archcalc.errors import InputError
from archcalc.files.model import Spec
from archcalc.workload import Workload

MOST_FIELDS = 16
"""Fields that are applied one by one."""

MOST_SPECS = 400
"""Specs that are made to find out which fields go together."""

MOST_VALUES = 100_000
"""Values that all these specs may hold: those of thousands of layers are few."""

MOST_OPERATIONS = 100_000
"""Operations of all the forward passes that are asked for fields one by one."""

Found = Mapping[str, Value]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What a field does.

    Attributes:
        rows: the quantities that it changes, as `quantity_rows` has them.
        others: the fields that are applied with it, because it makes no valid spec without them.
    """

    rows: Sequence[Mapping[str, Any]]
    others: tuple[str, ...] = ()


@dataclass(kw_only=True)
class _Bench:
    """A spec, others made of it by applying some of its changes, each once, and which changes go together."""

    data: Mapping[str, Any]
    changes: Sequence[FieldChange]
    most: int
    made: dict[frozenset[int], Spec | None] = field(default_factory=dict)
    groups: list[frozenset[int]] = field(default_factory=list)

    def spec(self, chosen: frozenset[int]) -> Spec | None:
        """The spec with some of the changes; None where it is not valid, or too many have been made."""
        if chosen not in self.made:
            if self.spent:
                return None
            try:
                data = applied(self.data, [self.changes[n] for n in sorted(chosen)])
                self.made[chosen] = Spec.model_validate(data)
            except (ValidationError, InputError, LookupError, TypeError):
                self.made[chosen] = None
        return self.made[chosen]

    @property
    def spent(self) -> bool:
        """Whether no more of them are made."""
        return len(self.made) >= self.most

    def group(self, n: int) -> frozenset[int] | None:
        """A change and the others that it needs; none of them can be left out. None where none were found."""
        alone, others = frozenset({n}), sorted(set(range(len(self.changes))) - {n}, key=lambda other: abs(other - n))
        few = (alone, *(alone | {other} for other in others))
        found = next((group for group in few if self.spec(group) is not None), None)
        if found is None and self.spec(alone.union(others)) is not None:
            found = self._fewest(alone, others[::-1])
        if found is not None and found not in self.groups:
            self.groups.append(found)
        return found

    def _fewest(self, needed: frozenset[int], others: list[int]) -> frozenset[int]:
        """A valid spec's changes without all that can be left out beside those `needed`: first what goes together, then
        halves, quarters, ... and single ones."""
        for group in self.groups:
            fewer = [other for other in others if other not in group]
            if not group & needed and self.spec(needed.union(fewer)) is not None:
                others = fewer
        size = len(others)
        while size and not self.spent:
            start = 0
            while start < len(others) and not self.spent:
                fewer = others[:start] + others[start + size :]
                if self.spec(needed.union(fewer)) is not None:
                    others = fewer
                else:
                    start += size
            size //= 2
        return needed.union(others)


def most_fields(base: Spec, *, placed: bool) -> int:
    """How many fields of a spec are applied one by one: fewer where it has layers of hundreds of kinds."""
    passes = PLACED if placed else 1
    return min(MOST_FIELDS, MOST_OPERATIONS // (base.trace(Workload()).length * passes) + 1)


def effects(
    base: Spec,
    changes: Sequence[FieldChange],
    before: Found,
    answer: Callable[[Spec], Found],
    most: int = MOST_FIELDS,
) -> list[Effect | None]:
    """The effect of each change of `base`, whose quantities are `before`; None behind the first `most`, and where the
    spec that it makes has no answer."""
    data = base.model_dump()
    bench = _Bench(data=data, changes=changes, most=min(MOST_SPECS, MOST_VALUES // _values(data) + 1))
    known: dict[frozenset[int], list[dict[str, Any]] | None] = {}
    found: list[Effect | None] = []
    for n in range(min(len(changes), most)):
        group = bench.group(n)
        if group is not None and group not in known:
            known[group] = _rows(bench.spec(group), before, answer)
        rows = known.get(group) if group is not None else None
        others = tuple(field_name(changes[m].loc) for m in sorted(group or ()) if m != n)
        found.append(None if rows is None else Effect(rows=rows, others=others))
    return found + [None] * (len(changes) - len(found))


def _values(data: Any) -> int:
    """Values of a spec's data."""
    inner = data.values() if isinstance(data, Mapping) else data if isinstance(data, list) else ()
    return 1 + sum(map(_values, inner))


def _rows(spec: Spec | None, before: Found, answer: Callable[[Spec], Found]) -> list[dict[str, Any]] | None:
    try:
        return None if spec is None else quantity_rows(before, answer(spec))[0]
    except InputError:
        return None


def applied(data: Mapping[str, Any], changes: Sequence[FieldChange]) -> dict[str, Any]:
    """A spec's data with some fields changed; what stands behind a list's end is appended."""
    changed = deepcopy(dict(data))
    gone = []
    for loc, _, new in changes:
        node: Any = changed
        for piece in loc[:-1]:
            node = node[piece]
        if new is MISSING:
            gone.append((node, loc[-1]))
        elif isinstance(node, list) and loc[-1] not in range(len(node)):
            node.append(new)
        else:
            node[loc[-1]] = new
    for node, key in reversed(gone):
        del node[key]
    return changed
