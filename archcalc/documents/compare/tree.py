"""Rows of a diff by path: a module that came or went as a whole is one row, and so is one that moved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from typing import Any

from archcalc.documents.compare.change import Number, change
from archcalc.documents.compare.join import Pair, common_tail, equal, pairs
from archcalc.documents.compare.parts import Key, Part, Template


class Shared:
    """Which indices of the parts below a beginning of a path are on both sides.

    Asked of each beginning of each part that one side lacks, so it is gathered once: a spec has thousands of parts.
    """

    def __init__(self, parts: Sequence[Part], alone: Mapping[Key, Set[int]]) -> None:
        self._indices: dict[Template, set[int]] = {}
        for p in parts:
            left = p.indices - alone.get(p.key, frozenset())
            for n in range(1, len(p.template) + 1) if left else ():
                self._indices.setdefault(p.template[:n], set()).update(left)

    def wholly_alone(self, top: Template, part: Part) -> bool:
        """Whether all of this side below `top` (in a list: of the part's indices) is missing on the other side."""
        left = self._indices.get(top, set())
        return left.isdisjoint(part.indices) if "{i}" in top else not left


def path_rows(base: Sequence[Part], head: Sequence[Part]) -> list[dict[str, Any]]:
    """A row for each path whose number or shape changed, came, went or moved; the largest change first, moves last.

    `members` lists the parts that a row stands for.
    """
    found = pairs(base, head)
    _check_sums(base, head, found)
    rows = [_changed(a, b) for a, b, _ in found if a and b and not equal(a, b)]
    rows += _one_sided("removed", base, [pair.before for pair in found if pair.before and not pair.after])
    rows += _one_sided("added", head, [pair.after for pair in found if pair.after and not pair.before])
    rows.sort(key=lambda row: (-abs(row["delta"]), row["path"]))
    return [*rows, *_moved([(a, b) for a, b, moved in found if a and b and moved and equal(a, b)])]


def _check_sums(base: Sequence[Part], head: Sequence[Part], found: Sequence[Pair]) -> None:
    """Every part stands in exactly one pair, so both sides add up; floats may differ in their last digit."""
    sides = ((base, [pair.before for pair in found]), (head, [pair.after for pair in found]))
    for parts, paired in sides:
        whole = sum(p.value for p in parts if isinstance(p.each, int))
        if whole != sum(p.value for p in paired if p is not None and isinstance(p.each, int)):
            raise AssertionError("the rows of a diff do not add up to its sides")


def _row(kind: str, path: str, part: Part, before: Number | None, after: Number | None, **more: Any) -> dict[str, Any]:
    row = {"path": path, "change": kind, "measure": part.measure, **change(before, after)._asdict()}
    return row | {"was": None, "note": "", "kind": part.kind} | more


def _changed(a: Part, b: Part) -> dict[str, Any]:
    note = "; ".join(_differences(a, b))
    was = a.path if a.shown else None
    if was:
        note = f"moved from {was}" + (f"; {note}" if note else "")
    return _row("changed", b.path, b, a.value, b.value, was=was, note=note, members=[_member(b)])


def _differences(a: Part, b: Part) -> list[str]:
    found = [f"{a.experts} → {b.experts} experts"] if a.experts != b.experts else []
    theirs = dict(b.traits)
    for name, value in a.traits:
        other = theirs.get(name, "")
        if other != value:
            found.append(f"{name} {value} → {other}")
    return found


def _member(p: Part) -> dict[str, Any]:
    return {"path": p.path, p.measure: p.value}


def _one_sided(kind: str, parts: Sequence[Part], alone: Sequence[Part]) -> list[dict[str, Any]]:
    """Rows of what only one side has, each at the highest module that the other side lacks altogether."""
    indices: dict[Key, set[int]] = {}
    for p in alone:
        indices.setdefault(p.key, set()).update(p.indices)
    shared = Shared(parts, indices)
    groups: dict[tuple[str, str, str], list[Part]] = {}
    known: dict[tuple[Template, frozenset[int]], bool] = {}
    for p in alone:
        top = p.template
        for n in range(1, len(p.template)) if p.additive else ():
            key = (p.template[:n], p.indices if "{i}" in p.template[:n] else frozenset())
            if key not in known:
                known[key] = shared.wholly_alone(key[0], p)
            if known[key]:
                top = p.template[:n]
                break
        kind_of_rows = p.kind if top == p.template else ""
        groups.setdefault((p.at(_whole(top, p)), p.measure, kind_of_rows), []).append(p)
    rows = []
    for (path, _, _), members in groups.items():
        number = sum(p.value for p in members)
        before, after = (number, None) if kind == "removed" else (None, number)
        first = members[0]
        note = _counted(members) if len(members) > 1 else _described(first)
        rows.append(_row(kind, path, first, before, after, note=note, members=[_member(p) for p in members]))
    return rows


def _whole(top: Template, part: Part) -> Template:
    """A beginning of a path that does not end in the list's name where the list's index follows."""
    if len(top) < len(part.template) and part.template[len(top)] == "{e}":
        return (*top, "{e}")
    return top


def _described(p: Part) -> str:
    return ", ".join(f"{name} {value}" for name, value in p.traits if name in ("shape", "dtype", "stored"))


def _moved(moved: Sequence[tuple[Part, Part]]) -> list[dict[str, Any]]:
    """One row for each module that moved: what old and new path end in alike is cut off.

    A module's buffers, or a row's other numbers, move with the first: they are counted in the note.
    """
    groups: dict[tuple[str, str], list[tuple[Part, Part]]] = {}
    for a, b in moved:
        tail = common_tail(a.template, b.template)
        cut = tail - 1 if tail in (len(a.template), len(b.template)) else tail
        old, now = a.template[: len(a.template) - cut], b.template[: len(b.template) - cut]
        groups.setdefault((a.at(old), b.at(now)), []).append((a, b))
    rows = []
    for (was, path), members in groups.items():
        first = next((b for _, b in members if b.additive), members[0][1])
        same = [b.value for _, b in members if b.measure == first.measure]
        number = sum(same) if first.additive else first.value
        kind = "renamed" if was.split(".")[:-1] == path.split(".")[:-1] else "moved"
        listed = [{**_member(b), "was": a.path} for a, b in members]
        note = f"from {was}" + (f": {_counted([b for _, b in members])}" if len(members) > 1 else "")
        rows.append(_row(kind, path, first, number, number, was=was, note=note, members=listed))
    return rows


def _counted(parts: Sequence[Part]) -> str:
    """How many parts of each measure, in words."""
    words = {"parameters": ("weight", "weights"), "buffers": ("buffer", "buffers")}
    counts = Counter(p.measure for p in parts)
    said = []
    for measure, n in counts.items():
        one, more = words.get(measure, (f"row of {measure}", f"rows of {measure}"))
        said.append(f"{n} {one if n == 1 else more}")
    return ", ".join(said)
