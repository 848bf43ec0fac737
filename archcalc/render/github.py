"""GitHub Actions: a job summary in Markdown, and annotations on the spec's own lines.

The summary is appended to the file that GITHUB_STEP_SUMMARY names; without it, it is printed. Annotations are workflow
commands on stdout (docs.github.com, "Workflow commands for GitHub Actions"): `::error file=F,line=N,title=T::message`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from archcalc.documents.document import Report
from archcalc.errors import InputError, harmless
from archcalc.render.cells import quantity_lines
from archcalc.render.changes import headline, moved_text, percent_text, readable
from archcalc.render.folded import render as folded
from archcalc.render.inert import inert

Level = Literal["error", "warning", "notice"]

MOST = 10
"""Annotations of a level that GitHub shows for one step."""

MOST_MOVERS = 3
"""Lines that a limit is noted on."""

_BAD: dict[str, Level] = {"refuted": "warning", "differs": "error", "exceeded": "error", "not held": "error"}
"""Verdicts of findings that are worth an annotation."""


class Annotation(NamedTuple):
    """One remark on a line of a file; without a file, on the job."""

    level: Level
    title: str
    message: str
    file: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        places = [("file", self.file), ("line", self.line if self.file else None), ("title", self.title)]
        properties = ",".join(f"{key}={_property(str(value))}" for key, value in places if value is not None)
        return f"::{self.level} {properties}::{_data(self.message)}"


def render(report: Report, units: str) -> str:
    """The annotations, one a line; the Markdown goes to the job summary, or comes first where there is none.

    Raises:
        InputError: a job summary that can't be written.
    """
    shown = readable(report, units) if report.command == "diff" else report
    text = inert(folded(shown, units))
    lines = "".join(f"{annotation}\n" for annotation in _shortened(list(remarks(report, units))))
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if not path:
        return f"{text}\n{lines}" if lines else text
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(text + "\n")
    except OSError as error:
        raise InputError(
            f"can't write the job summary: {error.strerror}",
            source=path,
            hint="GITHUB_STEP_SUMMARY names the file",
        ) from None
    return lines


def remarks(report: Report, units: str) -> Iterator[Annotation]:
    """What deserves a remark: exceeded limits and changed fields of a diff, refuted claims, differences, misfits."""
    if report.command == "diff":
        yield from _of_diff(report, units)
        return
    for finding in report.findings:
        level = _BAD.get(str(finding.get("verdict")), "error" if finding.get("difference") else None)
        if level is not None:
            yield Annotation(
                level,
                _first(finding, "claim", "path", "quantity"),
                _first(finding, "explanation", "difference", "verdict"),
                finding.get("file"),
                finding.get("line"),
            )
    for name, value in report.quantities.items():
        if name.endswith(".fits") and value is False:
            yield Annotation("warning", report.title, f"{name} is no")
    lines = quantity_lines(report, units)[:3]
    if lines:
        yield Annotation("notice", report.title, ", ".join(f"{label} {text}" for label, text, _ in lines))


def _of_diff(report: Report, units: str) -> Iterator[Annotation]:
    """Limits on the lines of the fields that moved their quantity, then each changed field on its own line."""
    file = _from_top(report.inputs["head_file"])
    shown = readable(report, units)
    tables = {
        table.name: table.rows for table in (*shown.tables, *([shown.findings_table] if shown.findings_table else []))
    }
    fields = [row for row in tables.get("fields", ()) if row["matters"]]
    changes = {row["field"]: f"{row['field']} {row['before']} → {row['after']}" for row in fields}
    first = next((row["line"] for row in fields if row["line"]), 1)
    for row in tables.get("findings", ()):
        if row["verdict"] == "exceeded":
            yield from _exceeded(row, changes, file, first)
    joint = ", ".join(map(moved_text, headline(tables.get("quantities", ()))))
    for row in fields:
        yield Annotation("notice", changes[row["field"]], _effect(row, joint), file, row["line"])
    if not fields and report.extra["changed"]:
        yield Annotation("notice", report.title, joint or "paths changed", file, 1 if file else None)


def _exceeded(row: Mapping[str, Any], changes: Mapping[str, str], file: str | None, first: int) -> Iterator[Annotation]:
    """A limit on the line of each field that moves its quantity that way; on the first changed one where none does by
    itself."""
    title = f"limit {row['limit']} exceeded"
    message = f"{row['quantity']}: {row['before']} → {row['after']} ({row['delta']}, {row['percent']})"
    movers = row.get("moved_by", ())
    for n, moved in enumerate(movers[:MOST_MOVERS]):
        together = [changes[name] for name in (moved["field"], *moved["with"]) if name in changes]
        text = f"{message}\nchanged: {'; '.join(together)}"
        if len(movers) > 1:
            share = percent_text(0, 1, moved["percent"])
            text += f"\nby itself {share}, {n + 1} of {len(movers)} changes that move it this way"
        yield Annotation("error", title, text, file, moved["line"] or first)
    if not movers:
        listed = list(changes.values())
        text = f"changed: {'; '.join(listed[:5])}{'; ...' if len(listed) > 5 else ''}"
        told = f"\nno field moves it by itself; {text}" if listed else ""
        yield Annotation("error", title, f"{message}{told}", file, first)


def _effect(row: Mapping[str, Any], joint: str) -> str:
    """What a field of a spec does by itself; where that was not tried, what all changes do together. Of one of a
    report, by how much it changed."""
    if "alone" not in row:
        return " ".join(filter(None, (row["delta"], row["percent"]))) or "changed"
    if row.get("alone") is None:
        return f"not tried by itself; all changes together: {joint or 'no quantity that is compared'}"
    return row["by_itself"] if row["alone"] else "changes no quantity that is compared"


def _from_top(file: str | None) -> str | None:
    """A file as GitHub names it: from the top of the workspace, if it is inside."""
    top = os.environ.get("GITHUB_WORKSPACE")
    if file is None or not top or not os.path.isabs(file):
        return file
    inside = os.path.relpath(file, top)
    return file if inside.startswith("..") else inside


def _first(finding: Mapping[str, Any], *keys: str) -> str:
    return next((str(finding[key]) for key in keys if finding.get(key) not in (None, "")), "")


def _shortened(found: list[Annotation]) -> Iterator[Annotation]:
    """At most MOST of each level; the last of a level that has more counts the rest."""
    for level in ("error", "warning", "notice"):
        same = [a for a in found if a.level == level]
        if len(same) > MOST:
            rest = len(same) - MOST + 1
            yield from same[: MOST - 1]
            yield same[MOST - 1]._replace(title=f"[{rest} more]", message="the job summary lists all of them")
        else:
            yield from same


def _data(text: str) -> str:
    """The message of a workflow command: line breaks stay, everything else unprintable is shown as an escape."""
    lines = [harmless(line) for line in re.split(r"\r\n|\r|\n", text)]
    return "\n".join(lines).replace("%", "%25").replace("\n", "%0A")


def _property(text: str) -> str:
    return harmless(text).replace("%", "%25").replace(":", "%3A").replace(",", "%2C")
