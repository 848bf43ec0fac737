"""The `params` report: totals, then the tree of modules with counts, shares, shapes and dtypes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from archcalc.calc.params import Counts, activation_ratio, count, merged_hidden_size
from archcalc.report.document import Column, Report, Table
from archcalc.report.paths import PART_ORDER, folded, ranges
from archcalc.spec.model import Spec
from archcalc.tape import Tape, Weight, product
from archcalc.workload import Workload

COUNTING = (
    "A parameter is trained; buffers (router correction biases) are listed and counted apart.",
    "Multi-token-prediction modules are counted apart; embedding and head that they share are counted once.",
    "Active: what one text token uses; routed experts count num_experts_per_tok of n_routed_experts.",
    "Tied weights count once.",
)

COLUMNS = (
    Column("path", "module"),
    Column("parameters", "parameters", "count"),
    Column("share", "share", "share"),
    Column("shape", "shape"),
    Column("copies", "x", "int"),
    Column("dtype", "dtype"),
)

GROUPS: dict[str, Callable[[Weight], str]] = {
    "component": lambda w: w.part,
    "role": lambda w: w.role,
    "dtype": lambda w: w.dtype,
}


def params_quantities(tape: Tape) -> dict[str, int | float | bool]:
    """All `params.*` quantities and the two sizes that claims ask for."""
    counts: Counts = count(tape)
    found: dict[str, int | float | bool] = {f"params.{name}": n for name, n in counts._asdict().items()}
    ratio, merged = activation_ratio(tape), merged_hidden_size(tape)
    if ratio is not None:
        found["moe.activation_ratio"] = float(ratio)
    if merged is not None:
        found["projector.merged_hidden_size"] = merged
    return found


def params_report(spec: Spec, *, depth: int | None = None, top: int | None = None, by: str | None = None) -> Report:
    """Counts of a spec.

    Args:
        depth: cut the tree below this many levels.
        top: only the largest rows, the others in one row "[k others]".
        by: group by `component`, `role` or `dtype` instead of by module.
    """
    tape = spec.trace(Workload())
    found = params_quantities(tape)
    weights = _ordered(tape)
    total = found["params.total"]
    rows = _grouped(weights, GROUPS[by], int(total)) if by else _tree(weights, int(total))
    if depth is not None:
        rows = [row for row in rows if row["depth"] < depth]
    if top is not None:
        rows = _largest(rows, top, int(total))
    columns = COLUMNS if not by else (Column("path", by), *COLUMNS[1:3])
    notes = [f"{n:,} buffer elements are listed but not counted." for n in (found["params.buffers"],) if n]
    return Report(
        command="params",
        title=f"{spec.title}: parameters",
        inputs={"spec": spec.name, "depth": depth, "top": top, "by": by},
        quantities=found,
        rows=Table("rows", "parameters by module" if not by else f"parameters by {by}", columns, rows),
        conventions=COUNTING,
        notes=notes,
    )


def _ordered(tape: Tape) -> list[Weight]:
    return sorted(tape.weights(), key=lambda w: PART_ORDER.index(w.part))


def _row(path: str, weights: Iterable[Weight], total: int, depth: int, **more: Any) -> dict[str, Any]:
    weights = list(weights)
    trained = sum(w.elements for w in weights if w.trainable)
    return {
        "path": path,
        "parameters": trained,
        "buffers": sum(w.elements for w in weights if not w.trainable),
        "share": trained / total,
        "depth": depth,
        **more,
    }


def _tree(weights: list[Weight], total: int) -> list[dict[str, Any]]:
    """Leaves in order, each below the groups that hold it; a group of one is written as one line."""
    rows: list[dict[str, Any]] = []
    _branch(rows, [(_pieces(w), w) for w in weights], "", 0, total)
    return rows


def _pieces(w: Weight) -> list[str]:
    """The path cut into levels; an index stays with its list (`layers.1-60`)."""
    pieces: list[str] = []
    for template, name in zip(w.path.split("."), _folded_pieces(w), strict=True):
        if template in ("{i}", "{e}") and pieces:
            pieces[-1] += f".{name}"
        else:
            pieces.append(name)
    return [*pieces, w.suffix]


def _folded_pieces(w: Weight) -> list[str]:
    return [folded(piece, w.indices, product(w.stack)) for piece in w.path.split(".")]


def _branch(rows: list[dict[str, Any]], items: list[tuple[list[str], Weight]], prefix: str, depth: int, total: int) -> None:
    groups: dict[str, list[tuple[list[str], Weight]]] = {}
    for pieces, w in items:
        groups.setdefault(pieces[0], []).append((pieces[1:], w))
    for name, members in groups.items():
        while len({tuple(pieces[:1]) for pieces, _ in members}) == 1 and members[0][0]:
            name = f"{name}.{members[0][0][0]}"
            members = [(pieces[1:], w) for pieces, w in members]
        path = f"{prefix}.{name}" if prefix else name
        if len(members) == 1 and not members[0][0]:
            rows.append(_leaf(path, name, members[0][1], total, depth))
        else:
            rows.append(_row(path, (w for _, w in members), total, depth, label=_times(name, members), leaf=False))
            _branch(rows, members, path, depth + 1, total)


def _times(name: str, members: list[tuple[list[str], Weight]]) -> str:
    """A group's label, with how many copies a folded index stands for."""
    pieces, w = members[0]
    stacked = name.startswith("experts.") and w.stack
    copies = product(w.stack) if stacked else len(w.indices) if name.endswith(ranges(w.indices)) else 1
    return f"{name} x{copies}" if copies > 1 else name


def _leaf(path: str, label: str, w: Weight, total: int, depth: int) -> dict[str, Any]:
    return _row(
        path,
        [w],
        total,
        depth,
        label=label if w.trainable else f"{label} (buffer of {w.elements:,})",
        leaf=True,
        shape=str(list(w.shape)),
        copies=w.copies,
        dtype=w.dtype,
        role=w.role,
        part=w.part,
    )


def _grouped(weights: list[Weight], key: Callable[[Weight], str], total: int) -> list[dict[str, Any]]:
    groups: dict[str, list[Weight]] = {}
    for w in weights:
        groups.setdefault(key(w), []).append(w)
    return [_row(name, members, total, 0, leaf=True) for name, members in groups.items()]


def _largest(rows: list[dict[str, Any]], top: int, total: int) -> list[dict[str, Any]]:
    leaves = sorted((row for row in rows if row["leaf"]), key=lambda row: -row["parameters"])
    shown = [{**row, "depth": 0, "label": row["path"]} for row in leaves[:top]]
    rest = leaves[top:]
    if rest:
        left = sum(row["parameters"] for row in rest)
        buffers = sum(row["buffers"] for row in rest)
        name = f"[{len(rest)} others]"
        shown.append(
            {"path": name, "parameters": left, "buffers": buffers, "share": left / total, "depth": 0, "leaf": True}
        )
    return shown
