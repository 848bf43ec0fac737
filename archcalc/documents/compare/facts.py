"""What is compared of each side: quantities, and parts by path."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from archcalc.documents.ask import AGAIN, again
from archcalc.documents.compare.change import Number
from archcalc.documents.compare.parts import Part, part
from archcalc.documents.compare.saved import Saved, is_number, of
from archcalc.documents.compare.sides import Side
from archcalc.documents.params import params
from archcalc.documents.standing import CONTEXT, IMAGE, SEEN, SEQ, standing
from archcalc.errors import InputError
from archcalc.files.model import Spec

TWICE = frozenset({"flops.backward", "flops.total", "flops.backbone", "kv.total_bytes", "kv.bytes_per_device"})
"""Standing quantities that say nothing beside the others at the workload of CONVENTION: 0, or equal to one of them."""

CONVENTION = (
    f"Compared at a fixed workload: FLOPs of a prefill of {SEQ:,} text tokens, batch 1, causal, and of a vision tower"
    f" that is shown an image of {IMAGE[0]:,} x {IMAGE[1]:,} pixels; KV cache of a sequence in bf16, its growth and"
    f" what is fixed at {CONTEXT:,} tokens; weights as released."
)

OLDER = (
    "A report of an earlier version does not say which layers its rows stand for: paths are compared as printed, and"
    " layers are not split."
)

UNSAID = (
    "A report of an earlier version does not say which plans and GPUs it is about: what only one side says is not"
    " compared."
)

ANYWHERE = ("params.", "moe.", "projector.")
"""Beginnings of quantities that no workload, plan or flag changes."""

ADDITIVE = {
    "flops": ("forward", "backward"),
    "kv": ("bytes_per_token",),
    "weights": ("bytes", "elements"),
}
"""Numbers of a report's rows that may be added up, by command; the others are shown row by row."""

MOST_ROWS = 20_000
MOST_LAYERS = 1_000_000
"""Layers that all rows of a report stand for."""
PLACED = frozenset({"params", "flops", "kv", "weights", "report"})
"""Commands whose rows stand for places of the model, and say so."""
_VIEW = frozenset({"share", "depth", "copies", "layers", "leaf", "ratio", "experts"})
_WORDS = frozenset({"path", "label", "kind", "formula", "template", "indices"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What one side says."""

    quantities: Mapping[str, Number | bool]
    parts: list[Part]


NONE = Facts(quantities={}, parts=[])


def facts(base: Side, head: Side) -> tuple[Facts, Facts, list[str]]:
    """What the two sides say about the same questions, and notes on what could not be compared.

    Two specs answer at the workload of CONVENTION. A spec beside a saved report answers what that report answers,
    under its inputs.

    Raises:
        InputError: nothing to compare, or inputs of a report that can't be used again.
    """
    if base.saved is None and head.saved is None:
        if base.spec is None and head.spec is None:
            raise InputError("both sides are nothing", value=base.label, hint="name a spec or a saved report")
        return _spec(base.spec, head.spec), _spec(head.spec, base.spec), [CONVENTION]
    ours, theirs = _answers(base, head.saved), _answers(head, base.saved)
    if ours is None or theirs is None or ours.command == theirs.command:
        sides = [saved for saved in (ours, theirs) if saved is not None]
        placed = not any(map(_older, sides))
        first, second, notes = _saved(ours, placed), _saved(theirs, placed), [] if placed else [OLDER]
        if {saved.command for saved in sides} == {"report"} and len({"plan" in saved.inputs for saved in sides}) == 2:
            notes.append(UNSAID)
            first, second = _shared(first, second), _shared(second, first)
        return first, second, notes
    return _common(ours, theirs)


def _shared(one: Facts, other: Facts) -> Facts:
    """One of two sides without the quantities that the other has not."""
    return replace(one, quantities={name: n for name, n in one.quantities.items() if name in other.quantities})


def _spec(spec: Spec | None, other: Spec | None) -> Facts:
    """What a spec says beside another one: of a vision tower where one of them has one."""
    if spec is None:
        return NONE
    seen = any(each is not None and each.vision is not None for each in (spec, other))
    left_out = TWICE if seen else TWICE.union(SEEN)
    found = {name: n for name, n in standing(spec).items() if name not in left_out}
    return Facts(quantities=found, parts=list(_weights(of(params(spec)))))


def _answers(side: Side, other: Saved | None) -> Saved | None:
    """A side as a report: the saved one, or a spec's answer to what the other side's report answers."""
    if side.spec is None or other is None:
        return side.saved
    return of(again(other.command, side.spec, other.inputs) if other.command in AGAIN else params(side.spec))


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
    return Facts(quantities=saved.quantities, parts=list(parts))


def _weights(saved: Saved) -> Iterator[Part]:
    """The leaves of a `params` report, layer by layer."""
    if sum(b - a + 1 for row in saved.rows if "template" in row for a, b in row["indices"]) > MOST_LAYERS:
        raise InputError(f"the rows of the report stand for more than {MOST_LAYERS:,} layers", value=saved.title)
    for row in saved.rows:
        if row.get("leaf"):
            traits = [(key, str(row[key])) for key in ("shape", "dtype", "role", "part") if key in row]
            for measure in ("parameters", "buffers"):
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
        for key in sorted(key for key, value in row.items() if is_number(value) and key not in _VIEW):
            kind, additive = name or words.get("kind", ""), key in ADDITIVE.get(saved.command, ())
            yield part(row, key, path=path, kind=kind, traits=traits, additive=additive)
            traits = []  # said once a row
