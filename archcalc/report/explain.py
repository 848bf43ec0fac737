"""`params --explain PATH`: what a part is for, and how its count comes about."""

from __future__ import annotations

from typing import Any

from archcalc.calc.params import weight_formula
from archcalc.errors import InputError, did_you_mean
from archcalc.report.document import Column, Report, Table
from archcalc.report.paths import PART_ORDER, covers, folded, weight_path
from archcalc.report.readings import weights_at
from archcalc.spec.model import Spec
from archcalc.tape import Op, Segment, Tape, Weight
from archcalc.workload import Workload

COLUMNS = (
    Column("path", "part"),
    Column("parameters", "parameters", "count"),
    Column("formula", "formula"),
    Column("numeric", "in numbers"),
    Column("about", "what it is for"),
)


def explain_report(spec: Spec, path: str) -> Report:
    """One part of a spec explained. `path` is a module path, or the end of one where that is unambiguous.

    Raises:
        InputError: no such part, or several that end so.
    """
    tape = spec.trace(Workload())
    path = _resolve(tape, path)
    weights = weights_at(tape, path)
    rows = [_weight_row(w) for w in weights] or [_op_row(tape, path)]
    total = sum(row["parameters"] for row in rows)
    about = _about(tape, path, weights)
    source = spec.sources.get(_section(tape, path), "")
    notes = [about] if about else []
    parts = " + ".join(f"{row['parameters']:,}" for row in rows)
    notes.append(f"result: {parts} = {total:,} parameters" if len(rows) > 1 else f"result: {total:,} parameters")
    if source:
        notes.append(f"sizes from: {source}")
    return Report(
        command="params",
        title=f"{spec.title}: {path}",
        inputs={"spec": spec.name, "explain": path},
        quantities={f"params[{path}]": total},
        rows=Table("rows", "how the count comes about", COLUMNS, rows),
        notes=notes,
    )


def _ops(tape: Tape) -> list[tuple[Segment, Op]]:
    return [(segment, op) for segment in tape.segments for op in segment.ops if op.about or op.weights]


def _names(tape: Tape) -> list[str]:
    """Every part that can be named, shortest first, as templates."""
    names = {path for path in tape.abouts if path}
    for _, op in _ops(tape):
        pieces = op.path.split(".")
        names.update(".".join(pieces[:n]) for n in range(1, len(pieces) + 1))
        names.update(f"{w.path}.{w.suffix}" for w in op.weights)
    return sorted(names, key=lambda name: (name.count("."), name))


def _resolve(tape: Tape, path: str) -> str:
    """The full path that was meant: the path itself, or the one part that ends in it."""
    path = path.strip(".")
    names = _names(tape)
    if weights_at(tape, path) or any(covers(op.path, s.indices, 0, path) for s, op in _ops(tape)):
        return path
    ends = _ends(names, path.split("."))
    if not ends:
        lasts = {name.rsplit(".", 1)[-1] for name in names} | set(names)
        raise InputError(
            f"no part is named {path}",
            value=path,
            hint=did_you_mean(path, lasts) or "archcalc params SPEC lists all parts",
        )
    shortest = [name for name in ends if name.count(".") == ends[0].count(".")]
    if len(shortest) > 1:
        raise InputError(f"{path} could be any of {', '.join(shortest[:6])}", value=path, hint="give more of the path")
    return shortest[0]


def _ends(names: list[str], asked: list[str]) -> list[str]:
    """Full paths whose last pieces are the asked ones, an index standing for the template's."""
    found = []
    for name in names:
        pieces = name.split(".")
        tail = pieces[-len(asked) :]
        if len(tail) == len(asked) and all(p == a or (p in ("{i}", "{e}") and a.isdecimal()) for p, a in zip(tail, asked, strict=True)):
            found.append(".".join([*pieces[: -len(asked)], *asked]))
    return found


def _about(tape: Tape, path: str, weights: list[Weight]) -> str:
    for segment, op in _ops(tape):
        if op.about and _same(op.path, segment.indices, path):
            return op.about
    for name, about in tape.abouts.items():
        indices = next((s.indices for s in tape.segments if name.startswith(s.path)), ())
        if _same(name, indices, path) and (not weights or covers(weights[0].path, weights[0].indices, 0, path)):
            return " ".join(about.split())
    return ""


def _same(template: str, indices: tuple[int, ...], path: str) -> bool:
    return template.count(".") == path.count(".") and covers(template, indices, 1 << 20, path)


def _section(tape: Tape, path: str) -> str:
    for part in PART_ORDER:
        for segment in tape.segments:
            if segment.part == part and any(
                covers(name, segment.indices, 1 << 20, path) for op in segment.ops for name in _op_names(op)
            ):
                return "backbone" if part == "mtp" else part
    return ""


def _op_names(op: Op) -> list[str]:
    return [op.path, *(f"{w.path}.{w.suffix}" for w in op.weights)]


def _weight_row(w: Weight) -> dict[str, Any]:
    names, numbers = weight_formula(w)
    about = w.about if w.trainable else f"{w.about} This is the buffer: not trained, so not counted."
    return {
        "path": weight_path(w),
        "parameters": w.elements if w.trainable else 0,
        "buffers": 0 if w.trainable else w.elements,
        "formula": names,
        "numeric": f"{numbers} = {w.elements:,}",
        "about": about,
        "shape": list(w.shape),
        "copies": w.copies,
    }


def _op_row(tape: Tape, path: str) -> dict[str, Any]:
    """A part without weights (an activation, the attention core)."""
    for segment, op in _ops(tape):
        if covers(op.path, segment.indices, 0, path):
            name = folded(op.path, segment.indices)
            return {"path": name, "parameters": 0, "buffers": 0, "formula": "no weights", "numeric": "0", "about": op.about}
    raise AssertionError(path)


