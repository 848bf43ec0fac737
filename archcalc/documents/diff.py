"""The `diff` report: before, after, delta and percent of every quantity and path that changed; the fields behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from archcalc.documents.compare.change import Number, quantity_rows
from archcalc.documents.compare.facts import facts
from archcalc.documents.compare.fields import DESCRIPTIVE, VIEW, Tree, field_rows, findings_tree, spec_tree
from archcalc.documents.compare.limits import LimitsExceeded, check_names, judge, parse_limit
from archcalc.documents.compare.sides import NOTHING, Side, read_side
from archcalc.documents.compare.tree import path_rows
from archcalc.documents.document import Column, Report, Table
from archcalc.documents.readings import parameters_at
from archcalc.errors import InputError
from archcalc.workload import Workload

FOUR = (
    Column("before", "before", "number", keep=True),
    Column("after", "after", "number", keep=True),
    Column("delta", "delta", "number", keep=True),
    Column("percent", "percent", "number", keep=True),
)
QUANTITY_COLUMNS = (Column("quantity", "quantity"), *FOUR)
PATH_COLUMNS = (Column("path", "path"), Column("change", "change"), *FOUR, Column("note", "note"))
FIELD_COLUMNS = (Column("field", "field"), Column("line", "line", "int"), *FOUR)
LIMIT_COLUMNS = (Column("limit", "limit"), *FOUR, Column("verdict", "verdict"))

__all__ = ["LimitsExceeded", "changed", "diff_report", "exceeded"]


def diff_report(base: str | Side, head: str | Side, *, limits: Sequence[str] = ()) -> Report:
    """What changed from `base` to `head`: each a spec, a saved report, `git:REV:path` of either, `/dev/null`, or
    a side that is there already.

    `rows` are paths, the tables `quantities` and `fields`; the findings are the limits with their verdicts. `extra`
    holds what did not change, and `changed`: whether anything but descriptions did.

    Raises:
        InputError: a side that can't be read, sides without anything in common, a limit that can't be held.
    """
    asked = [parse_limit(text) for text in limits]
    before, after = (side if isinstance(side, Side) else read_side(side) for side in (base, head))
    ours, theirs, notes = facts(before, after)
    old, new = dict(ours.quantities), dict(theirs.quantities)
    for limit in asked:
        _add_path(limit.name, before, old)
        _add_path(limit.name, after, new)
    check_names(asked, old, new)
    findings = [judge(limit, old[limit.name], new[limit.name]) for limit in asked]
    quantities, equal = quantity_rows(old, new)
    fields = _fields(before, after)
    paths = path_rows(ours.parts, theirs.parts)
    matters = bool(quantities or paths or any(row["matters"] for row in fields))
    return Report(
        command="diff",
        title=f"{_heading(before, after)}: {_summary(quantities, paths, fields)}",
        inputs={
            "base": before.label,
            "head": after.label,
            "base_file": before.file,
            "head_file": after.file,
            "limits": list(limits),
        },
        quantities={},
        rows=Table("rows", "paths", _path_columns(paths), paths) if paths else None,
        tables=[
            Table("quantities", "quantities", QUANTITY_COLUMNS, quantities),
            Table("fields", "fields", FIELD_COLUMNS, fields),
        ],
        findings=findings,
        findings_table=Table("findings", "limits", LIMIT_COLUMNS, findings) if findings else None,
        notes=notes if quantities or paths or fields else (),
        extra={"changed": matters, "unchanged": equal, "base_title": before.title, "head_title": after.title},
    )


def changed(report: Report) -> bool:
    """Whether a diff found any change of a quantity, a path, or a field that does more than describe."""
    return bool(report.extra["changed"])


def exceeded(report: Report) -> LimitsExceeded | None:
    """The failed check of a diff whose limits are exceeded, or None. Its lines hold exact numbers."""
    failed = [finding for finding in report.findings if finding["verdict"] == "exceeded"]
    if not failed:
        return None
    return LimitsExceeded([limit_line(finding) for finding in failed], len(report.findings))


def limit_line(finding: Mapping[str, Any]) -> str:
    """A judged limit as a sentence, with all digits."""
    percent = finding["percent"]
    share = "from 0" if percent is None else f"{percent:+.4g} %"
    before, after, delta = (_digits(finding[key]) for key in ("before", "after", "delta"))
    sign = "+" if finding["delta"] > 0 else ""
    return f"{finding['limit']}: {before} → {after} ({sign}{delta}, {share})"


def _digits(value: Number) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"


def _add_path(name: str, side: Side, found: dict[str, Number | bool]) -> None:
    """A `params[PATH]` quantity of a spec, for a limit on it. Raises InputError where no part is at the path."""
    if side.spec is not None and name.startswith("params[") and name.endswith("]"):
        try:
            found[name] = parameters_at(side.spec.trace(Workload()), name[7:-1])
        except InputError as error:
            raise InputError(f"{side.label}: {error.message}", source="--fail-on", hint=error.hint) from None


def _fields(before: Side, after: Side) -> list[dict[str, Any]]:
    """Changed fields of two specs, or changed inputs and findings of two reports."""
    if before.spec is not None and after.spec is not None:
        old, new = spec_tree(before.spec.model_dump()), spec_tree(after.spec.model_dump())
        return field_rows(old, new, descriptive=DESCRIPTIVE, base=before.document, head=after.document)
    if before.saved is not None and after.saved is not None:
        return field_rows(_report_tree(before), _report_tree(after), descriptive=VIEW, base=None, head=None)
    return []


def _report_tree(side: Side) -> Tree:
    if side.saved is None:
        return {}
    return {**side.saved.inputs, "findings": findings_tree(side.saved.findings)}


def _path_columns(paths: Sequence[Mapping[str, Any]]) -> tuple[Column, ...]:
    """What is counted is a column only where it is not parameters alone."""
    if {row["measure"] for row in paths} <= {"parameters"}:
        return PATH_COLUMNS
    return (PATH_COLUMNS[0], Column("measure", "counted"), *PATH_COLUMNS[1:])


def _heading(before: Side, after: Side) -> str:
    if before.label == NOTHING:
        return f"{after.name} (new)"
    if after.label == NOTHING:
        return f"{before.name} (removed)"
    return f"{before.name} → {after.name}"


def _summary(quantities: Sequence[Any], paths: Sequence[Mapping[str, Any]], fields: Sequence[Mapping[str, Any]]) -> str:
    said = []
    if quantities:
        said.append(_several(len(quantities), "quantity changed", "quantities changed"))
    for kind in ("changed", "added", "removed", "moved", "renamed"):
        if n := sum(row["change"] == kind for row in paths):
            said.append(f"{_several(n, 'path', 'paths')} {kind}")
    if n := sum(row["matters"] for row in fields):
        said.append(_several(n, "field changed", "fields changed"))
    if not said:
        return "only descriptions changed" if fields else "nothing changed"
    return ", ".join(said)


def _several(n: int, one: str, more: str) -> str:
    return f"{n} {one if n == 1 else more}"
