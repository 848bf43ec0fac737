"""Which spec that disappeared became which: by its name, by its file's name, by what it says. Nothing is guessed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from action.known import Known, likeness

ALIKE = 0.75
"""Likeness from which two specs of different names may be the same one. Doubling the layers of a small spec
leaves 0.95; of the bundled ones, only models of one family are above (0.85 at most)."""


class Matches(NamedTuple):
    """What became of the specs that are gone, by their paths.

    Attributes:
        pairs: the new path of each that is one for sure.
        unclear: why it can't be said of another.
    """

    pairs: Mapping[str, str]
    unclear: Mapping[str, str]


def match(
    gone: Sequence[Known], near: Sequence[Known], far: Sequence[Known], elsewhere: Callable[[], Sequence[Known]]
) -> Matches:
    """What each spec that is gone became.

    Args:
        gone: the specs that are no longer at their paths.
        near: those that came, or took another name, where specs are looked for; they go before
        far: those that came anywhere else, and
        elsewhere: all others, which may have the name alone. It is asked only if a name is found nowhere else.
    """
    found = {spec.path: _named(spec, gone, near) or _named(spec, gone, far) for spec in gone}
    if not all(found.values()):
        around = elsewhere()
        for spec in gone:
            found[spec.path] = found[spec.path] or [one for one in around if spec.name and one.name == spec.name]
    claimed = {one.path for candidates in found.values() for one in candidates}
    for spec in gone:
        if not found[spec.path]:
            found[spec.path] = _alike(spec, near, claimed) or _alike(spec, far, claimed)
    takers = Counter(one.path for candidates in found.values() for one in candidates)
    pairs: dict[str, str] = {}
    unclear: dict[str, str] = {}
    for spec in gone:
        candidates = found[spec.path]
        rivals = [other for other in gone if other is not spec and _rivals(spec, other, candidates, found)]
        if len(candidates) == 1 and takers[candidates[0].path] == 1 and not rivals:
            pairs[spec.path] = candidates[0].path
        elif candidates:
            also = f"; {_paths(rivals)} may have become that too" if rivals else ""
            unclear[spec.path] = f"it may have become {_paths(candidates)}{also}"
    return Matches(pairs, unclear)


def _named(spec: Known, gone: Sequence[Known], came: Sequence[Known]) -> list[Known]:
    """Those of the same name; and those of the same file name, if no other that is gone has their name."""
    others = {other.name for other in gone if other is not spec} - {spec.name}
    return [
        one
        for one in came
        if (spec.name and one.name == spec.name) or (one.stem == spec.stem and not (one.name and one.name in others))
    ]


def _alike(spec: Known, came: Sequence[Known], claimed: set[str]) -> list[Known]:
    return [one for one in came if one.path not in claimed and likeness(spec, one) >= ALIKE]


def _rivals(spec: Known, other: Known, candidates: Sequence[Known], found: Mapping[str, Sequence[Known]]) -> bool:
    """Whether another that is gone has a candidate of this one's too, or is more like it."""
    return any(one in found[other.path] or likeness(other, one) > likeness(spec, one) for one in candidates)


def _paths(specs: Sequence[Known]) -> str:
    return " or ".join(spec.path for spec in specs)
