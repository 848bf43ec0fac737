"""The `diff` report: before, after, delta and percent of every quantity and path that changed; the fields behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from archcalc.documents.compare.causes import moved_by, spec_fields
from archcalc.documents.compare.change import Number, quantity_rows
from archcalc.documents.compare.facts import Facts, facts
from archcalc.documents.compare.fields import VIEW, field_changes, field_rows
from archcalc.documents.compare.inputs import trees
from archcalc.documents.compare.limits import check_names, judge, parse_limit
from archcalc.documents.compare.question import COMPARED, Question
from archcalc.documents.compare.sides import NOTHING, Side, read_side
from archcalc.documents.compare.tree import path_rows
from archcalc.documents.document import Column, Report, Table, Value
from archcalc.documents.readings import parameters_at
from archcalc.errors import Exceeded, InputError
from archcalc.workload import Images, Workload

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

OTHER_VERSION = (
    "The spec is the same on both sides, by its digest, and so is what was asked: another version of archcalc counted"
    " one of them otherwise."
)

__all__ = ["changed", "diff_report", "exceeded"]


def diff_report(
    base: str | Side,
    head: str | Side,
    *,
    limits: Sequence[str] = (),
    plan: str | None = None,
    set: Sequence[str] = (),
    gpu: str | None = None,
    gpus: int | Literal["auto"] | None = None,
    seq: int | None = None,
    image: Images = (),
    context: int | None = None,
) -> Report:
    """What changed from `base` to `head`: each a spec, a saved report, `git:REV:path` of either, `/dev/null`, or
    a side that is there already.

    Two specs are compared at the standard workload, and under what else is given: `plan` and `gpu` are files or bundled
    names, `set` overrides fields of the plan. To a saved report `plan` and `gpu` lend a file that it names and lacks.

    `rows` are paths, the tables `quantities` and `fields`; the findings are the limits with their verdicts. `extra`
    holds what did not change, and `changed`: whether anything but descriptions did.

    Raises:
        InputError: a side that can't be read, sides without anything in common, a limit that can't be held.
    """
    asked = [parse_limit(text) for text in limits]
    question = Question(plan=plan, set=set, gpu=gpu, gpus=gpus, seq=seq, image=image, context=context)
    before, after = (side if isinstance(side, Side) else read_side(side) for side in (base, head))
    inputs = {"base": before.label, "head": after.label, "limits": list(limits), **question.inputs}
    ours, theirs, notes = facts(before, after, question)
    old, new = ({**side.quantities, **side.more} for side in (ours, theirs))
    for limit in asked:
        _add_path(limit.name, before, old)
        _add_path(limit.name, after, new)
    check_names(asked, old, new)
    findings = [judge(limit, old[limit.name], new[limit.name]) for limit in asked]
    shown = {*ours.quantities, *theirs.quantities, *(limit.name for limit in asked)}
    quantities, equal = quantity_rows(*({name: n for name, n in side.items() if name in shown} for side in (old, new)))
    fields, said = _fields(before, after, question, {name: n for name, n in old.items() if name in shown}, ours, theirs)
    if before.spec is not None and after.spec is not None:
        findings = [{**finding, "moved_by": moved_by(finding, fields)} for finding in findings]
    paths = path_rows(ours.parts, theirs.parts)
    notes = [*notes, *said, *_versions(ours, theirs, quantities, paths, fields)]
    matters = bool(quantities or paths or any(row["matters"] for row in fields))
    return Report(
        command="diff",
        title=f"{_heading(before, after)}: {_held(findings)}{_summary(quantities, paths, fields)}",
        inputs={**inputs, "base_file": before.file, "head_file": after.file},
        quantities={},
        rows=Table("rows", "paths", _path_columns(paths), paths) if paths else None,
        tables=[
            Table("quantities", "quantities", QUANTITY_COLUMNS, quantities),
            Table("fields", "fields", FIELD_COLUMNS, fields),
        ],
        findings=findings,
        findings_table=Table("findings", "limits", LIMIT_COLUMNS, findings) if findings else None,
        notes=tuple(note for note in notes if quantities or paths or fields or not note.startswith(COMPARED)),
        extra={"changed": matters, "unchanged": equal, "base_title": before.title, "head_title": after.title},
    )


def changed(report: Report) -> bool:
    """Whether a diff found any change of a quantity, a path, or a field that does more than describe."""
    return bool(report.extra["changed"])


def exceeded(report: Report) -> Exceeded | None:
    """The failed check of a diff whose limits are exceeded, or None. Its lines hold exact numbers."""
    failed = [finding for finding in report.findings if finding["verdict"] == "exceeded"]
    if not failed:
        return None
    verdict = f"{len(failed)} of {_several(len(report.findings), 'limit', 'limits')} exceeded"
    return Exceeded(verdict, [limit_line(finding) for finding in failed])


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


def _fields(
    before: Side, after: Side, question: Question, old: Mapping[str, Value], ours: Facts, theirs: Facts
) -> tuple[list[dict[str, Any]], list[str]]:
    """Changed fields of two specs; of two reports on one question, what changed of their inputs and findings."""
    if ours.answer is None or theirs.answer is None:
        return spec_fields(before, after, question, old)
    return field_rows(field_changes(*trees(ours.answer, theirs.answer), VIEW), VIEW), []


def _versions(ours: Facts, theirs: Facts, *rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What to know where two reports differ, but neither their spec nor what they were asked."""
    one, other = ours.answer, theirs.answer
    if one is None or other is None or not one.sha256 or one.sha256 != other.sha256:
        return []
    *numbers, fields = rows
    found = [row for row in fields if row["matters"] and row["field"].startswith("findings")]
    asked = [row for row in fields if row["matters"] and row not in found]
    return [OTHER_VERSION] if (any(numbers) or found) and not asked else []


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


def _held(findings: Sequence[Mapping[str, Any]]) -> str:
    """How many limits are exceeded, where any are set."""
    if not findings:
        return ""
    failed, limits = sum(f["verdict"] == "exceeded" for f in findings), _several(len(findings), "limit", "limits")
    return f"{failed} of {limits} exceeded; " if failed else f"{limits} kept; "


def _summary(quantities: Sequence[Any], paths: Sequence[Mapping[str, Any]], fields: Sequence[Mapping[str, Any]]) -> str:
    said = [f"{r['quantity']} {_yes(r['before'])} → {_yes(r['after'])}" for r in quantities if _turned(r)]
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


def _turned(row: Mapping[str, Any]) -> bool:
    """Whether a verdict is another one: whether something fits."""
    return isinstance(row["before"], bool) and isinstance(row["after"], bool)


def _yes(verdict: bool) -> str:
    return "yes" if verdict else "no"


def _several(n: int, one: str, more: str) -> str:
    return f"{n} {one if n == 1 else more}"
