"""`params --explain PATH`: what a part is for, and how its count comes about."""

from __future__ import annotations

from typing import Any

from archcalc.calc.params import weight_formula
from archcalc.documents.document import Amount, Column, Report, Table
from archcalc.documents.paths import (
    Place,
    covers,
    fits,
    folded,
    is_index,
    places,
    starred,
    weight_where,
    where,
)
from archcalc.documents.readings import weights_at
from archcalc.errors import InputError, did_you_mean, show_value
from archcalc.files.model import Spec
from archcalc.tape import Op, Segment, Tape, Weight
from archcalc.workload import Workload

COLUMNS = (
    Column("path", "part"),
    Column("parameters", "parameters", "count"),
    Column("formula", "formula", "prose"),
    Column("numeric", "in numbers", "prose"),
    Column("about", "what it is for", "prose"),
)

MOST_SUMMANDS = 8
"""A longer sum is not written out: its summands are the rows."""


def explain_report(spec: Spec, path: str) -> Report:
    """One part of a spec explained. `path` is a module path or the end of one; indices may be left out.

    Raises:
        InputError: no such part, or several that end so.
    """
    tape = spec.trace(Workload())
    path, place, others = resolve(tape, path)
    weights = weights_at(tape, path)
    rows = [_weight_row(w) for w in weights] or [_op_row(tape, place, path)]
    for row, before in zip(reversed(rows), reversed(rows[:-1]), strict=False):
        row["about"] = "" if row["about"] == before["about"] else row["about"]  # a bias says what its weight says
    total = sum(row["parameters"] for row in rows)
    about = _about(tape, place, path)
    source = spec.sources.get("backbone" if place.part == "mtp" else place.part)
    notes = [about] if about and all(row["about"] != about for row in rows) else []
    notes.append(_result([row["parameters"] for row in rows if not row["buffers"]], total))
    buffers = sum(row["buffers"] for row in rows)
    notes += [f"buffers: {buffers:,} elements, not trained, so not counted"] if buffers else []
    notes += [f"sizes from: {source}"] if source else []
    notes += [f"other parts end so: {', '.join(others)}"] if others else []
    return Report(
        command="params",
        title=f"{spec.title}: {path}",
        answer=(Amount(total, "count"), " parameters" if total != 1 else " parameter"),
        spec=spec,
        inputs={"spec": spec.name, "explain": path},
        quantities={f"params[{path}]": total},
        rows=Table("rows", "how the count comes about", COLUMNS, rows),
        notes=notes,
    )


def resolve(tape: Tape, path: str) -> tuple[str, Place, list[str]]:
    """The full path that was meant, a place that has it, and longer paths that end in the same way.

    A path is complete, or the end of one: `pre_norm`, `layers.5.mlp.experts.7.up_proj`, `layers.*.mlp`. Of several
    that end so, the shortest is meant if it is the only one of its length.

    Raises:
        InputError: no such part, or several shortest ones.
    """
    asked = path.split(".")
    known = places(tape)
    found: dict[str, Place] = {}
    for place in known:
        start = _fits_at(place, asked)
        if start is not None:
            full = ".".join([*starred(place.template).split(".")[:start], *asked])
            found.setdefault(full, place)
    if not found:
        raise InputError(f"no part is named {show_value(path)}", value=path, hint=_hint(known, asked))
    names = sorted(found, key=lambda name: name.count("."))
    shortest = [name for name in names if name.count(".") == names[0].count(".")]
    if len(shortest) > 1:
        shown = ", ".join(shortest[:6]) + (", ..." if len(shortest) > 6 else "")
        raise InputError(f"{path} could be any of {shown}", value=path, hint="give more of the path")
    return names[0], found[names[0]], names[1:]


def _fits_at(place: Place, asked: list[str], loose: bool = False) -> int | None:
    """At which piece of a place's path the asked one begins, if it ends in it; `loose` lets any index pass."""
    pieces = place.template.split(".")
    start = len(pieces) - len(asked)
    if start < 0:
        return None
    for piece, ask in zip(pieces[start:], asked, strict=True):
        if not fits(piece, ask, place.indices, place.experts) and not (
            loose and piece in ("{i}", "{e}") and is_index(ask)
        ):
            return None
    return start


def _hint(known: list[Place], asked: list[str]) -> str:
    """What might have been meant: indices that exist, or a name that is spelled alike."""
    inside = [place for place in known if _fits_at(place, asked, loose=True) is not None]
    if inside:
        return "there is " + " and ".join(dict.fromkeys(folded(p.template, p.indices, p.experts) for p in inside[:4]))
    ends = {".".join(starred(p.template).split(".")[-len(asked) :]) for p in known}
    wanted = ".".join("*" if is_index(piece) else piece for piece in asked)
    return did_you_mean(".".join(asked), ends) or did_you_mean(wanted, ends) or "archcalc params SPEC lists all parts"


def _ops(tape: Tape, path: str, experts: int) -> list[tuple[Segment, Op]]:
    """The operations at exactly this path."""
    return [
        (segment, op)
        for segment in tape.segments
        for op in segment.ops
        if (op.about or op.weights) and _same(op.path, segment.indices, experts, path)
    ]


def _same(template: str, indices: tuple[int, ...], experts: int, path: str) -> bool:
    return template.count(".") == path.count(".") and covers(template, indices, experts, path)


def _about(tape: Tape, place: Place, path: str) -> str:
    """The sentence of the operation or the module at a path; nothing for one that stands for different kinds."""
    abouts = {op.about for _, op in _ops(tape, path, place.experts) if op.about}
    abouts |= {text for (name, indices), text in tape.abouts.items() if _same(name, indices, place.experts, path)}
    return " ".join(abouts.pop().split()) if len(abouts) == 1 else ""


def _result(counts: list[int], total: int) -> str:
    if len(counts) < 2:
        return f"result: {total:,} parameters"
    if len(counts) > MOST_SUMMANDS:
        return f"result: the sum of {len(counts)} rows, {total:,} parameters"
    return f"result: {' + '.join(f'{n:,}' for n in counts)} = {total:,} parameters"


def _weight_row(w: Weight) -> dict[str, Any]:
    names, numbers = weight_formula(w)
    return {
        **weight_where(w),
        "parameters": w.elements if w.trainable else 0,
        "buffers": 0 if w.trainable else w.elements,
        "formula": names,
        "numeric": f"{numbers} = {w.elements:,}" if "·" in numbers else numbers,
        "about": w.about if w.trainable else f"{w.about} This is the buffer: not trained, so not counted.".strip(),
        "shape": list(w.shape),
        "copies": w.copies,
    }


def _op_row(tape: Tape, place: Place, path: str) -> dict[str, Any]:
    """A part without weights of its own: an activation, the attention core, a tied head."""
    _, op = next(iter(_ops(tape, path, place.experts)))
    tied = ", ".join(weight_where(w)["path"] for w in op.weights)
    formula = f"tied: uses {tied}, which is counted there" if tied else "no weights"
    return {
        **where(place.template, place.indices, place.experts),
        "path": path,
        "parameters": 0,
        "buffers": 0,
        "formula": formula,
        "numeric": None,
        "about": op.about,
    }
