"""JSON: raw values, sorted keys, no dates. The form is described in docs/json.md."""

from __future__ import annotations

from fractions import Fraction
from json import dumps
from re import sub
from typing import Any

from archcalc.documents.document import FORMAT_VERSION, Report
from archcalc.render.cells import first_line


def document(report: Report) -> dict[str, Any]:
    """The report as plain data."""
    return {
        "format_version": FORMAT_VERSION,
        "tool": "archcalc",
        "command": report.command,
        "title": first_line(report, "gib"),
        **({} if report.spec is None else {"spec_sha256": report.spec.sha256}),
        "inputs": dict(report.inputs),
        "quantities": dict(report.quantities),
        "exact": {
            name: str(n)
            for name, n in report.quantities.items()
            if isinstance(n, Fraction) or (isinstance(n, int) and not isinstance(n, bool) and abs(n) > 2**53)
        },
        "rows": list(report.rows.rows) if report.rows else [],
        "tables": {table.name: list(table.rows) for table in report.tables},
        "findings": list(report.findings),
        "assumptions": list(report.assumptions),
        "conventions": list(report.conventions),
        "notes": list(report.notes),
        **report.extra,
    }


def render(report: Report, units: str) -> str:
    """The report as a JSON document; `units` does not matter: values are raw."""
    return dumped(document(report))


def dumped(data: Any) -> str:
    """Plain data as the text of a document: sorted keys, ASCII; a fraction as the nearest float. Lists of numbers stand
    on one line. Raises ValueError for a number that JSON has not: none gets here, as what is read is finite."""
    text = dumps(data, indent=1, sort_keys=True, ensure_ascii=True, default=_plain, allow_nan=False)
    return sub(r"\[\n *(-?\d[^\]\[{\"]*?)\n *\]", lambda found: f"[{' '.join(found[1].split())}]", text) + "\n"


def _plain(value: object) -> float:
    """A fraction as the nearest float: JSON has no other. Raises TypeError for what is none."""
    if isinstance(value, Fraction):
        return float(value)
    raise TypeError(f"{type(value).__name__} in a report")
