"""What is compared of each side: quantities, and parts by path."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from archcalc.documents.ask import COMMANDS, again
from archcalc.documents.compare.causes import has_tower
from archcalc.documents.compare.inputs import shared
from archcalc.documents.compare.parts import Part, part
from archcalc.documents.compare.question import Question
from archcalc.documents.compare.saved import Saved, is_number, of
from archcalc.documents.compare.sides import Side
from archcalc.documents.document import Value
from archcalc.documents.params import params
from archcalc.documents.readings import parameters_at
from archcalc.documents.standing import standing
from archcalc.errors import InputError
from archcalc.files.model import Spec
from archcalc.workload import Workload

OLDER = (
    "A report of an earlier version does not say which layers its rows stand for: paths are compared as printed, and"
    " layers are not split."
)

ANYWHERE = ("params.", "moe.", "projector.")
"""Beginnings of quantities that no workload, plan or flag changes."""

ADDITIVE = {
    "flops": ("forward", "backward"),
    "kv": ("bytes_per_token",),
    "weights": ("bytes", "elements"),
}
"""Numbers of a report's rows that may be added up, by command; the others are shown row by row."""

COUNTED = ("parameters", "buffers")
"""What a weight is counted among: a place with none of one says nothing about it."""

MOST_ROWS = 20_000
MOST_LAYERS = 1_000_000
"""Layers that all rows of a report stand for."""
PLACED = frozenset({"params", "flops", "kv", "weights", "report"})
"""Commands whose rows stand for places of the model, and say so."""
_VIEW = frozenset({"share", "depth", "copies", "layers", "leaf", "ratio", "experts"})
_WORDS = frozenset({"path", "label", "kind", "formula", "template", "indices"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What one side says.

    Attributes:
        quantities: compared and shown.
        parts: compared and shown, by path.
        more: quantities that say nothing beside the others; a limit may name them.
        answer: the side as a report, where it is compared as one.
    """

    quantities: Mapping[str, Value]
    parts: list[Part]
    more: Mapping[str, Value] = field(default_factory=dict)
    answer: Saved | None = None


NONE = Facts(quantities={}, parts=[])


def facts(base: Side, head: Side, question: Question) -> tuple[Facts, Facts, list[str]]:
    """What the two sides say about the same questions, and notes on what could not be compared.

    Two specs answer the question. A spec beside a saved report answers what that report answers, under its inputs.

    Raises:
        InputError: nothing to compare, or inputs of a report that can't be used again.
    """
    if base.saved is None and head.saved is None:
        if base.spec is None and head.spec is None:
            raise InputError("both sides are nothing", value=base.label, hint="name a spec or a saved report")
        vision = has_tower(base, head)
        first, second = (_spec(side, question, vision=vision) for side in (base, head))
        return first, second, [question.convention(vision=vision)]
    recomputed = next((side.saved for side, other in ((base, head), (head, base)) if other.spec is not None), None)
    lent = question.lent(recomputed)
    ours, theirs = _answers(base, head.saved, lent), _answers(head, base.saved, lent)
    if ours is not None and theirs is not None and ours.command != theirs.command:
        return _common(ours, theirs)
    placed = not any(_older(saved) for saved in (ours, theirs) if saved is not None)
    first, second = _saved(ours, placed), _saved(theirs, placed)
    notes = [] if placed else [OLDER]
    if ours is not None and theirs is not None:
        compared, more = shared(first.answer or ours, second.answer or theirs)
        first, second, notes = _those(first, compared), _those(second, compared), [*notes, *more]
    return first, second, notes


def _those(side: Facts, compared: Callable[[str], bool]) -> Facts:
    return replace(side, quantities={name: n for name, n in side.quantities.items() if compared(name)})


def _spec(side: Side, question: Question, *, vision: bool) -> Facts:
    if side.spec is None:
        return NONE
    found = question.of(side.spec, side.label, vision=vision)
    return Facts(
        quantities={name: n for name, n in found.items() if name not in question.twice},
        parts=list(_weights(of(params(side.spec)))),
        more={name: n for name, n in found.items() if name in question.twice},
    )


def _answers(side: Side, other: Saved | None, lent: Mapping[str, Any]) -> Saved | None:
    """A side as a report: the saved one, or a spec's answer to what the other side's report answers."""
    if side.spec is None or other is None:
        return side.saved
    if other.command not in COMMANDS:
        return of(params(side.spec))
    files = {folder: {**lent.get(folder, {}), **other.files.get(folder, {})} for folder in {*lent, *other.files}}
    answer = of(again(other.command, side.spec, other.inputs, files))
    if other.command != "claims":
        return answer
    return replace(answer, quantities={**_implied(side.spec, other), **_claimed(answer)})


def _claimed(saved: Saved) -> dict[str, Value]:
    """What the findings of a claims report say that its quantities come to."""
    found: dict[str, Value] = {}
    for finding in saved.findings:
        name, computed = finding.get("quantity"), finding.get("computed")
        if isinstance(name, str) and isinstance(computed, int | float) and is_number(computed):
            found[name] = computed
    return found


def _implied(spec: Spec, saved: Saved) -> dict[str, Value]:
    """What the quantities of a claims report come to in a spec, whatever is claimed of it."""
    tape, known = spec.trace(Workload()), standing(spec)
    found = {name: known[name] for name in _claimed(saved) if name in known}
    for name in _claimed(saved):
        if name.startswith("params[") and name.endswith("]"):
            with suppress(InputError):  # the part is gone
                found[name] = parameters_at(tape, name[7:-1])
    return found


def _common(ours: Saved, theirs: Saved) -> tuple[Facts, Facts, list[str]]:
    """Two reports on different questions: only what no input changes is compared."""
    names = [name for name in theirs.quantities if name in ours.quantities and name.startswith(ANYWHERE)]
    if not names:
        raise InputError(
            f"a {ours.command} report and a {theirs.command} report have nothing in common to compare",
            value=theirs.title,
            hint="compare two reports of the same command",
        )
    note = f"A {ours.command} and a {theirs.command} report: compared is only what no workload or plan changes."
    first, second = ({name: side.quantities[name] for name in names} for side in (ours, theirs))
    return Facts(quantities=first, parts=[]), Facts(quantities=second, parts=[]), [note]


def _older(saved: Saved) -> bool:
    """Whether an earlier version saved a report whose rows say today which places of the model they stand for."""
    named = saved.command in PLACED and bool(saved.rows) and not saved.inputs.get("by")
    return named and not any("template" in row for row in saved.rows)


def _saved(saved: Saved | None, placed: bool) -> Facts:
    """What a report says; where its rows are not `placed`, or the other side's are not, by their printed paths."""
    if saved is None:
        return NONE
    rows = len(saved.rows) + sum(map(len, saved.tables.values()))
    if rows > MOST_ROWS:
        raise InputError(f"the report has {rows:,} rows, more than {MOST_ROWS:,}", value=saved.title)
    whole = saved.command == "params" and not any(saved.inputs.get(key) for key in ("depth", "top", "by"))
    if not placed:
        saved = replace(saved, rows=[{key: row[key] for key in row if key != "template"} for row in saved.rows])
    parts = _weights(saved) if whole else _rows(saved)
    if saved.command == "claims":
        saved = replace(saved, quantities={**_claimed(saved), **saved.quantities})
    return Facts(quantities=saved.quantities, parts=list(parts), answer=saved)


def _weights(saved: Saved) -> Iterator[Part]:
    """The leaves of a `params` report, layer by layer."""
    if sum(b - a + 1 for row in saved.rows if "template" in row for a, b in row["indices"]) > MOST_LAYERS:
        raise InputError(f"the rows of the report stand for more than {MOST_LAYERS:,} layers", value=saved.title)
    for row in saved.rows:
        if row.get("leaf"):
            traits = [(key, str(row[key])) for key in ("shape", "dtype", "role", "part") if key in row]
            for measure in COUNTED:
                value = row.get(measure)
                if isinstance(value, int) and is_number(value) and value:
                    yield part(row, measure, path=str(row.get("path")), traits=traits, split=True)


def _rows(saved: Saved) -> Iterator[Part]:
    """Every number of every row of another report: of its main table, or of all tables where it has none."""
    rows = [("", row) for row in saved.rows] or [(name, row) for name in saved.tables for row in saved.tables[name]]
    for n, (name, row) in enumerate(rows):
        words = {key: row[key] for key in sorted(row) if isinstance(row[key], str)}
        path = words.get("path") or next(iter(words.values()), f"row {n + 1}")
        traits = [(key, str(row[key])) for key in sorted(row) if isinstance(row[key], str | list) and key not in _WORDS]
        numbers = {key: value for key, value in row.items() if is_number(value) and key not in _VIEW}
        for key in sorted(key for key, value in numbers.items() if value or key not in COUNTED):
            kind, additive = name or words.get("kind", ""), key in ADDITIVE.get(saved.command, ())
            yield part(row, key, path=path, kind=kind, traits=traits, additive=additive)
            traits = []  # said once a row
