"""CSV: the main table (or the findings) with raw values."""

from __future__ import annotations

from csv import writer
from io import StringIO
from typing import Any

from archcalc.documents.document import Report
from archcalc.errors import harmless

UNSEEN = ("label", "template", "experts", "below_zero")
"""What says of a row only what its path says."""


def render(report: Report, units: str) -> str:
    """Header and rows of the main table, of the findings where there is none, or else of the quantities.

    The columns that people see come first, then whatever else the rows hold, lists and mappings left out.
    """
    table = report.rows or report.findings_table
    out = StringIO()
    lines = writer(out, lineterminator="\n")
    if table is None:
        lines.writerow(["quantity", "value"])
        lines.writerows([_plain(name), _plain(value)] for name, value in report.quantities.items())
        return out.getvalue()
    shown = [column.key for column in table.columns]
    more = (key for row in table.rows for key, value in row.items() if not isinstance(value, list | dict))
    keys = list(dict.fromkeys([*shown, *(key for key in more if key not in UNSEEN)]))
    lines.writerow(keys)
    lines.writerows([_plain(row.get(key)) for key in keys] for row in table.rows)
    return out.getvalue()


def _plain(value: Any) -> Any:
    """Yes and no as in JSON; text that no spreadsheet takes for a formula and no terminal for a control sequence."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return value
    text = harmless(value)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text
