"""The fields of two specs that differ, what each does by itself, and which of them moved a quantity past its limit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from archcalc.documents.compare.effects import effects, most_fields
from archcalc.documents.compare.fields import field_changes, field_rows, matters, spec_tree
from archcalc.documents.compare.question import Question
from archcalc.documents.compare.sides import Side
from archcalc.documents.document import Value
from archcalc.documents.readings import parameters_at
from archcalc.errors import InputError
from archcalc.files.model import DESCRIPTIVE, Spec
from archcalc.workload import Workload

Row = Mapping[str, Any]


def spec_fields(
    base: Side, head: Side, question: Question, before: Mapping[str, Value]
) -> tuple[list[dict[str, Any]], list[str]]:
    """A row for each changed field of two specs, and notes. `before` are the quantities of BASE that are looked at.

    `alone` of a row lists the quantities that the field changes when it is applied to BASE, with the fields of `with`
    where it makes no valid spec without them; null where that was not tried.
    """
    if base.spec is None or head.spec is None:
        return [], []
    changes = field_changes(spec_tree(base.spec.model_dump()), spec_tree(head.spec.model_dump()), DESCRIPTIVE)
    rows = field_rows(changes, DESCRIPTIVE, base.document, head.document)
    vision = has_tower(base, head)

    def answer(spec: Spec) -> Mapping[str, Value]:
        found = question.of(spec, head.label, vision=vision)
        for name in before:
            if name.startswith("params["):
                with suppress(InputError):  # the part is gone
                    found[name] = parameters_at(spec.trace(Workload()), name[7:-1])
        return {name: n for name, n in found.items() if name in before}

    acting = [each for each in changes if matters(each, DESCRIPTIVE)]
    tried = most_fields(base.spec, placed=question.gpu is not None or question.plan is not None)
    for row, effect in zip(rows, effects(base.spec, acting, before, answer, tried), strict=False):
        row |= {"alone": None if effect is None else effect.rows, "with": [] if effect is None else effect.others}
    left = len(acting) - tried
    notes = [f"By itself: the first {tried} changed fields were applied to BASE, {left} others were not."]
    return rows, notes if left > 0 else []


def has_tower(*sides: Side) -> bool:
    """Whether a spec of the sides has a vision tower."""
    return any(side.spec is not None and side.spec.vision is not None for side in sides)


def moved_by(finding: Row, fields: Sequence[Row]) -> list[dict[str, Any]]:
    """The fields that move the quantity of a limit the way it moved, the largest first; of fields that go together the
    first."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in fields:
        for effect in row.get("alone") or ():
            if effect["quantity"] == finding["quantity"] and _same_way(effect, finding):
                moved = {key: effect[key] for key in ("delta", "percent")}
                group = tuple(sorted((row["field"], *row["with"])))
                found.setdefault(group, {"field": row["field"], "with": row["with"], "line": row["line"], **moved})
    return sorted(found.values(), key=lambda each: -abs(each["delta"] or 0))


def _same_way(effect: Row, finding: Row) -> bool:
    """Whether two changes of a quantity have the same sign; of yes and no, whether the end is the same."""
    if effect["delta"] is None:
        return bool(effect["after"] == finding["after"])
    return bool(effect["delta"] * finding["delta"] > 0)
