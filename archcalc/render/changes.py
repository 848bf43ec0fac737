"""A diff as people read it: every number in its own row's unit, deltas with their sign, and the raw form for CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from archcalc.documents.compare.change import unit_of
from archcalc.documents.document import Column, Report, Table, Unit
from archcalc.errors import show_value
from archcalc.render.cells import cell

FLAT_COLUMNS = tuple(
    Column(key, key)
    for key in (
        "kind",
        "name",
        "change",
        "measure",
        "before",
        "after",
        "delta",
        "percent",
        "was",
        "line",
        "note",
    )
)


BY_ITSELF = Column("by_itself", "by itself")

FIRST = (
    "params.total",
    "params.active",
    "flops.per_token",
    "flops.vision",
    "kv.bytes_per_token",
    "weights.bytes",
    "serve.fits",
    "serve.margin_bytes",
    "train.fits",
    "train.peak_bytes",
)
"""Quantities that a reviewer asks for first."""


MOST_NAMED = 3
"""Fields from which on those that go together are counted."""


def readable(report: Report, units: str) -> Report:
    """A diff whose tables hold text instead of raw values: for tables, Markdown and GitHub.

    Quantities come first, then fields, then paths; fields that only describe come last, as a table of their own.
    """
    named = {table.name: table for table in report.tables}
    quantities, fields = named["quantities"], named["fields"]
    tried = any(row.get("alone") is not None for row in fields.rows)
    columns = (*fields.columns, BY_ITSELF) if tried else fields.columns
    described = fields._replace(name="descriptions", title="descriptions, which change no number")
    tables = [
        quantities._replace(rows=[_texts(row, row["unit"], units) for row in quantities.rows]),
        fields._replace(rows=[_field(row, units) for row in fields.rows if row["matters"]], columns=columns),
        described._replace(rows=[_field(row, units) for row in fields.rows if not row["matters"]]),
    ]
    if report.rows is not None:
        rows = [_texts(row, unit_of(row["measure"]), units) for row in report.rows.rows]
        tables.insert(2, report.rows._replace(rows=rows))
    limits = report.findings_table
    if limits is not None:
        limits = limits._replace(rows=[_texts(row, row["unit"], units) for row in limits.rows])
    kept = [table for table in tables if table.rows]
    return replace(report, rows=None, tables=kept, findings_table=limits if report.extra["changed"] else None)


def flat(report: Report) -> Report:
    """A diff as one table of raw values, a row for each quantity, path, field and limit: for CSV."""
    rows: list[dict[str, Any]] = []
    for kind, key, table in (
        *(("quantity", "quantity", table) for table in report.tables if table.name == "quantities"),
        ("path", "path", report.rows),
        *(("field", "field", table) for table in report.tables if table.name == "fields"),
        ("limit", "limit", report.findings_table),
    ):
        for row in table.rows if table is not None else ():
            known = {**row, "kind": kind, "name": row[key], "change": row.get("change", row.get("verdict"))}
            rows.append({column.key: known.get(column.key) for column in FLAT_COLUMNS})
    return replace(report, rows=Table("rows", "changes", FLAT_COLUMNS, rows))


def percent_text(before: Any, after: Any, percent: float | None) -> str:
    """A percentage with its sign; in words where there is none."""
    if before is None:
        return "new"
    if after is None:
        return "gone"
    if isinstance(before, bool):
        return ""
    if before == after:
        return "0 %"
    if percent is None:
        return "from 0"
    return f"{percent:+,.2f} %" if abs(percent) >= 0.01 else f"{percent:+.1g} %"


def _texts(row: Mapping[str, Any], unit: Unit, units: str) -> dict[str, Any]:
    """A row with its four numbers as text."""
    before, after, delta = row["before"], row["after"], row["delta"]
    return {
        **row,
        "before": cell(before, unit, units) or "none",
        "after": cell(after, unit, units) or "none",
        "delta": _signed(delta, unit, units),
        "percent": "" if delta is None else percent_text(before, after, row["percent"]),
    }


def _signed(delta: int | float | None, unit: Unit, units: str) -> str:
    if delta is None:
        return ""
    if delta == 0:
        return "0"
    if unit == "share":  # a difference of shares: in percentage points
        return f"{float(delta) * 100:+.2f} points"
    text = cell(abs(delta), unit, units)
    return f"+{text}" if delta > 0 else f"-{text}"


def _field(row: Mapping[str, Any], units: str) -> dict[str, Any]:
    delta = row["delta"]
    return {
        **row,
        "before": _value(row["before"], absent=row["change"] == "added"),
        "after": _value(row["after"], absent=row["change"] == "removed"),
        "delta": "" if delta is None else f"{delta:+,}" if isinstance(delta, int) else f"{delta:+,.6g}",
        "percent": "" if delta is None else percent_text(row["before"], row["after"], row["percent"]),
        "by_itself": effect_text(row, units),
    }


def effect_text(row: Mapping[str, Any], units: str) -> str:
    """What a changed field does by itself, in the quantities that people ask for first."""
    told = row.get("alone")
    if told is None:
        return ""
    found = ", ".join(moved_text(_texts(each, each["unit"], units)) for each in headline(told)) or "no quantity"
    others = row["with"]
    together = ", ".join(others) if len(others) < MOST_NAMED else f"{len(others)} other fields"
    return f"with {together}: {found}" if others else found


def headline(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The quantities that a reviewer asks for first, else the first ones."""
    return [row for row in rows if row["quantity"] in FIRST] or list(rows[:3])


def moved_text(row: Mapping[str, Any]) -> str:
    """A changed quantity in words: by how much, in percent, or what it is where it is new or gone, yes or no."""
    known = {"new": row["after"], "gone": row["before"], "": row["after"]}.get(row["percent"])
    return f"{row['quantity']} {known or ''} {row['percent']}".replace("  ", " ").strip()


def _value(value: Any, *, absent: bool) -> str:
    if absent:
        return "none"
    if isinstance(value, list):
        return "[" + ", ".join(show_value(item) for item in value[:8]) + (", ...]" if len(value) > 8 else "]")
    if isinstance(value, str) and value.startswith("a section of "):
        return value
    return show_value(value)


def form_of(report: Report, name: str, units: str) -> Report:
    """The form of a diff that suits a format: raw where programs read it."""
    return flat(report) if name == "csv" else readable(report, units) if name in ("table", "markdown") else report
