"""The `params` report: totals, then the tree of modules with counts, shares, shapes and dtypes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from archcalc.calc.params import Counts, activation_ratio, count, merged_hidden_size
from archcalc.documents.document import Amount, Column, Report, Table
from archcalc.documents.paths import PART_ORDER, folded, weight_where
from archcalc.errors import InputError, did_you_mean, in_its_case, show_value
from archcalc.files.model import Spec
from archcalc.tape import Tape, Weight, product
from archcalc.tape.indices import ranges
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
"""What `--by` can group by."""


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


def params(
    spec: Spec, *, depth: int | None = None, top: int | None = None, by: str | None = None, explain: str | None = None
) -> Report:
    """The `params` command: the counts of a spec, or with `explain` how those of one part come about.

    Raises:
        InputError: flags that don't go together, an unknown `by`, a part that is not there.
    """
    if explain is None:
        return params_report(spec, depth=depth, top=top, by=by)
    if (depth, top, by) != (None, None, None):
        raise InputError("--explain shows one part; it goes without --depth, --top and --by")
    from archcalc.documents.explain import explain_report

    return explain_report(spec, explain)


def params_report(spec: Spec, *, depth: int | None = None, top: int | None = None, by: str | None = None) -> Report:
    """Counts of a spec.

    The rows whose `leaf` is true add up to `params.total` and `params.mtp`.

    Args:
        depth: cut the tree below this many levels.
        top: only the largest leaves (of the tree as cut), the others in one row "[k others]".
        by: group by `component`, `role` or `dtype` instead of by module; multi-token prediction is a group of its own.

    Raises:
        InputError: an unknown `by`, or `by` together with `depth`.
    """
    by = None if by is None else in_its_case(by, GROUPS)
    if by is not None and by not in GROUPS:
        hint = did_you_mean(by, GROUPS) or f"one of {', '.join(GROUPS)}"
        raise InputError(f"can't group by {show_value(by)}", value=by, hint=hint)
    if by is not None and depth is not None:
        raise InputError("--depth cuts the tree of modules; --by shows none", hint="leave out one of the two")
    tape = spec.trace(Workload())
    found = params_quantities(tape)
    total = int(found["params.total"])
    main, apart = _parted(tape)
    if by is None:
        rows = [*_tree(main, total, depth), *_tree(apart, None, depth)]
    else:
        rows = [
            *_grouped(main, GROUPS[by], total),
            *_grouped(apart, lambda w: "multi-token prediction", None),
        ]
    if sum(row["parameters"] for row in rows if row["leaf"]) != total + int(found["params.mtp"]):
        raise AssertionError("rows do not add up to the total")
    if top is not None:
        rows = _largest(rows, top, total)
    columns = COLUMNS if by is None else (Column("path", by), *COLUMNS[1:3], Column("buffers", "buffers", "count"))
    return Report(
        command="params",
        title=spec.title,
        answer=(Amount(total, "scaled"), " parameters, ", Amount(found["params.active"], "scaled"), " active"),
        spec=spec,
        inputs={"spec": spec.name, "depth": depth, "top": top, "by": by},
        quantities=found,
        rows=Table("rows", f"parameters by {by or 'module'}", columns, rows),
        assumptions=spec.assumed_sizes,
        conventions=COUNTING,
        notes=_notes(tape, found),
    )


def _parted(tape: Tape) -> tuple[list[Weight], list[Weight]]:
    """The weights in the order of PART_ORDER: those in the total, and those of multi-token prediction."""
    weights = sorted(tape.weights(), key=lambda w: PART_ORDER.index(w.part))
    return [w for w in weights if w.part != "mtp"], [w for w in weights if w.part == "mtp"]


def _notes(tape: Tape, found: dict[str, int | float | bool]) -> list[str]:
    notes = [f"{n:,} buffer elements are listed but not counted." for n in (found["params.buffers"],) if n]
    if found["params.mtp"]:
        first = next(segment for segment in tape.segments if segment.part == "mtp")
        path = folded(first.path, first.indices)
        notes.append(f"{path} is multi-token prediction: apart from the total, so without a share.")
    return notes


def _row(
    where: Mapping[str, Any], weights: Iterable[Weight], total: int | None, depth: int, **more: Any
) -> dict[str, Any]:
    """One row; `total` is None for what stands apart from it."""
    weights = list(weights)
    trained = sum(w.elements for w in weights if w.trainable)
    return {
        **where,
        "parameters": trained,
        "buffers": sum(w.elements for w in weights if not w.trainable),
        "share": None if total is None else trained / total,
        "depth": depth,
        **more,
    }


# -- the tree ---------------------------------------------------------------------------------------------------------

Pieces = list[tuple[list[str], Weight]]
"""Weights, each with the levels of its path that are still to be branched on."""


def _tree(weights: list[Weight], total: int | None, cut: int | None) -> list[dict[str, Any]]:
    """Leaves in order, each below the groups that hold it; a group of one is written as one line."""
    rows: list[dict[str, Any]] = []
    _branch(rows, [(_pieces(w), w) for w in weights], "", 0, total, cut)
    return rows


def _pieces(w: Weight) -> list[str]:
    """The path cut into levels; an index stays with its list (`layers.1-60`)."""
    pieces: list[str] = []
    for template in w.path.split("."):
        name = folded(template, w.indices, product(w.stack))
        if template in ("{i}", "{e}") and pieces:
            pieces[-1] += f".{name}"
        else:
            pieces.append(name)
    return [*pieces, w.suffix]


def _branch(
    rows: list[dict[str, Any]], items: Pieces, prefix: str, depth: int, total: int | None, cut: int | None
) -> None:
    groups: dict[str, Pieces] = {}
    for pieces, w in items:
        groups.setdefault(pieces[0], []).append((pieces[1:], w))
    for name, members in groups.items():
        while len({tuple(pieces[:1]) for pieces, _ in members}) == 1 and members[0][0]:
            name = f"{name}.{members[0][0][0]}"
            members = [(pieces[1:], w) for pieces, w in members]
        path = f"{prefix}.{name}" if prefix else name
        if len(members) == 1 and not members[0][0]:
            rows.append(_leaf(name, members[0][1], total, depth))
            continue
        last = cut is not None and depth + 1 >= cut
        where = weight_where(members[0][1], path.count(".") + 1)
        rows.append(_row(where, (w for _, w in members), total, depth, label=_times(name, members), leaf=last))
        if not last:
            _branch(rows, members, path, depth + 1, total, cut)


def _times(name: str, members: Pieces) -> str:
    """A group's label, with how many copies a folded index stands for."""
    _, w = members[0]
    stacked = name.startswith("experts.") and w.stack
    copies = product(w.stack) if stacked else len(w.indices) if name.endswith(ranges(w.indices)) else 1
    return f"{name} x{copies}" if copies > 1 else name


def _leaf(label: str, w: Weight, total: int | None, depth: int) -> dict[str, Any]:
    return _row(
        weight_where(w),
        [w],
        total,
        depth,
        label=label if w.trainable else f"{label} (buffer of {w.elements:,})",
        leaf=True,
        shape=list(w.shape),
        copies=w.copies,
        dtype=w.dtype,
        role=w.role,
        part=w.part,
    )


# -- other orders -----------------------------------------------------------------------------------------------------


def _grouped(weights: list[Weight], key: Callable[[Weight], str], total: int | None) -> list[dict[str, Any]]:
    groups: dict[str, list[Weight]] = {}
    for w in weights:
        groups.setdefault(key(w), []).append(w)
    return [_row({"path": name}, members, total, 0, leaf=True) for name, members in groups.items()]


def _largest(rows: list[dict[str, Any]], top: int, total: int) -> list[dict[str, Any]]:
    leaves = sorted((row for row in rows if row["leaf"]), key=lambda row: -row["parameters"])
    shown = [{**row, "depth": 0, "label": row["path"]} for row in leaves[:top]]
    rest = leaves[top:]
    if rest:
        trained = [row for row in rest if row["share"] is not None]
        left = sum(row["parameters"] for row in rest)
        shown.append(
            {
                "path": f"[{len(rest)} others]" if len(rest) > 1 else "[1 other]",
                "parameters": left,
                "buffers": sum(row["buffers"] for row in rest),
                "share": sum(row["parameters"] for row in trained) / total,
                "depth": 0,
                "leaf": True,
            }
        )
    return shown
