"""Parts of two sides joined by path: which changed, came, went, and which only moved or got another name."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

from archcalc.documents.compare.parts import Key, Part, Template

MOST_TWINS = 200
"""Parts that look all the same, past which it is not asked which of them moved where."""

MOST_TRIED = 400_000
"""The same of all parts together."""


class Pair(NamedTuple):
    """A part of both sides, or of one. `moved` says that its path is another; the rest may have changed too."""

    before: Part | None
    after: Part | None
    moved: bool = False


def equal(a: Part, b: Part) -> bool:
    """Whether nothing but the path may differ."""
    return _sameness(a) == _sameness(b)


def pairs(base: Sequence[Part], head: Sequence[Part]) -> list[Pair]:
    """Every part of both sides once: joined by path, then by what moved, then by where moved parts went."""
    joined, gone, new = _join(base, head)
    found = [Pair(a, b) for a, b in joined]
    moved, gone, new = _moves(gone, new)
    found += [Pair(a, b, moved=True) for a, b in moved]
    ways: dict[Template, dict[Template, None]] = {}
    for old, now in (_ways(a, b) for a, b in moved):
        ways.setdefault(old, {})[now] = None
    known = {b.key for b in new}
    joined, gone, new = _join([_led(a, ways, known) for a in gone], new)
    found += [Pair(a, b, moved=bool(a.shown)) for a, b in joined]
    stretched, gone, new = _stretched(gone, new)
    found += [Pair(a, b) for a, b in stretched]
    return [
        *found,
        *(Pair(replace(a, template=a.shown or a.template), None) for a in gone),
        *(Pair(None, b) for b in new),
    ]


Joined = tuple[list[tuple[Part, Part]], list[Part], list[Part]]
"""Pairs, and what is left of base and head."""


def _join(base: Sequence[Part], head: Sequence[Part]) -> Joined:
    """Parts of equal path, index by index."""
    slots: dict[Key, dict[int, list[int]]] = {}
    for n, b in enumerate(head):
        slot = slots.setdefault(b.key, {})
        for i in b.indices:
            slot.setdefault(i, []).append(n)
    left = [b.indices for b in head]
    joined, gone = [], []
    for a in base:
        rest, slot = a.indices, slots.get(a.key, {})
        for n in sorted({n for i in rest for n in slot.get(i, ())}):
            if common := rest & left[n]:
                joined.append((a.on(common), head[n].on(common)))
                rest, left[n] = rest - common, left[n] - common
        if rest:
            gone.append(a.on(rest))
    return joined, gone, [b.on(rest) for b, rest in zip(head, left, strict=True) if rest]


def _moves(gone: list[Part], new: list[Part]) -> Joined:
    """Parts that are the same in all but their path; the most similar paths are paired first."""
    twins: dict[object, list[int]] = {}
    for n, b in enumerate(new):
        twins.setdefault((_sameness(b), b.indices), []).append(n)
    most = min(MOST_TWINS, MOST_TRIED // max(1, len(gone)))
    scored = [
        (-score, m, n)
        for m, a in enumerate(gone)
        for n in twins.get((_sameness(a), a.indices), [])[:most]
        if (score := _likeness(a.template, new[n].template))
    ]
    ours: dict[int, int] = {}
    theirs: set[int] = set()
    for _, m, n in sorted(scored):
        if m not in ours and n not in theirs:
            ours[m] = n
            theirs.add(n)
    moved = [(gone[m], new[n]) for m, n in sorted(ours.items())]
    return (
        moved,
        [a for m, a in enumerate(gone) if m not in ours],
        [b for n, b in enumerate(new) if n not in theirs],
    )


def _sameness(p: Part) -> tuple[object, ...]:
    return p.measure, p.kind, p.each, p.experts, p.traits


def _likeness(a: Template, b: Template) -> int:
    """Pieces that two paths share at both ends; 0 unless module and weight, or all pieces but one, are equal."""
    tail = common_tail(a, b)
    head = next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    one_renamed = len(a) == len(b) and head + tail == len(a) - 1
    return head + tail if tail >= 2 or one_renamed else 0


def common_tail(a: Template, b: Template) -> int:
    """How many last pieces two paths share."""
    return next(
        (n for n, (x, y) in enumerate(zip(reversed(a), reversed(b), strict=False)) if x != y), min(len(a), len(b))
    )


def _ways(a: Part, b: Part) -> tuple[Template, Template]:
    """What a move replaced: the beginnings of the two paths before what they share."""
    tail = common_tail(a.template, b.template)
    return a.template[: len(a.template) - tail], b.template[: len(b.template) - tail]


def _led(a: Part, ways: Mapping[Template, Iterable[Template]], known: Container[Key]) -> Part:
    """A part under the path to which its neighbours moved, the nearest first, if the other side has one there."""
    for n in range(len(a.template), -1, -1):
        for now in islice(ways.get(a.template[:n], ()), MOST_TWINS):
            template = now + a.template[n:]
            if (template, a.measure, a.kind) in known:
                return replace(a, template=template, shown=a.template)
    return a


def _stretched(gone: list[Part], new: list[Part]) -> Joined:
    """Rows that name their layers by range and differ in the range alone: `layers.1-60` and `layers.1-61`."""
    slots: dict[Key, list[Part]] = {}
    for b in new:
        slots.setdefault((b.loose, b.measure, b.kind), []).append(b)
    joined, left = [], []
    for a in gone:
        if a.loose and (waiting := slots.get((a.loose, a.measure, a.kind))):
            joined.append((a, waiting.pop(0)))
        else:
            left.append(a)
    taken = {id(b) for _, b in joined}
    return joined, left, [b for b in new if id(b) not in taken]
