"""What every function returns."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from archcalc.errors import InputError, did_you_mean, show_value

if TYPE_CHECKING:
    from fractions import Fraction

    from archcalc.documents.document import Report as Document

    Value = int | float | bool | Fraction

Library = Literal["pandas", "polars"]


class NoSuchName(InputError, KeyError):
    """A report holds no quantity or table of this name."""


class Report:
    """What one command found out: exact numbers by name, and rows.

    `report["kv.total_bytes"]` is one of its quantities, `str(report)` what the command prints, and a notebook shows it
    as tables.

    Attributes:
        title: the answer in one line.
        command: the command's name.
        inputs: what it was computed from, defaults written out.
        quantities: the names of docs/glossary.md to exact values: counts, bytes and FLOPs are whole numbers of all
            digits; a Fraction stands where no whole number does.
        rows: the main table, each row a mapping; docs/json.md has the keys.
        tables: further tables by name.
        findings: comparisons, each with a verdict: of claims, limits, cross-checks.
        assumptions: what no source gives and the numbers rest on.
        conventions: how it was counted.
        notes: what else to know; warnings first.
        extra: what one command alone says, such as the `verdict` of `serve`.
    """

    __slots__ = ("document",)

    def __init__(self, document: Document) -> None:
        self.document = document

    @property
    def title(self) -> str:
        from archcalc.render.cells import first_line

        return first_line(self.document, "gib")

    @property
    def command(self) -> str:
        return self.document.command

    @property
    def inputs(self) -> dict[str, Any]:
        return dict(self.document.inputs)

    @property
    def quantities(self) -> dict[str, Value]:
        return dict(self.document.quantities)

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [dict(row) for row in self.document.rows.rows] if self.document.rows else []

    @property
    def tables(self) -> dict[str, list[dict[str, Any]]]:
        return {table.name: [dict(row) for row in table.rows] for table in self.document.tables}

    @property
    def findings(self) -> list[dict[str, Any]]:
        return [dict(finding) for finding in self.document.findings]

    @property
    def assumptions(self) -> list[str]:
        return list(self.document.assumptions)

    @property
    def conventions(self) -> list[str]:
        return list(self.document.conventions)

    @property
    def notes(self) -> list[str]:
        return list(self.document.notes)

    @property
    def extra(self) -> dict[str, Any]:
        return dict(self.document.extra)

    def __getitem__(self, name: str) -> Value:
        """The quantity of this name. Raises InputError, which is a KeyError here, where there is none."""
        if name not in self.document.quantities:
            raise _no_such(name, "quantity", self.document.quantities)
        return self.document.quantities[name]

    def __contains__(self, name: object) -> bool:
        return name in self.document.quantities

    def __iter__(self) -> Iterator[str]:
        return iter(self.document.quantities)

    def __repr__(self) -> str:
        return f"<archcalc.{type(self).__name__} {self.command}: {self.title}>"

    def __str__(self) -> str:
        return self._text("table", "gib")

    def _repr_html_(self) -> str:
        from archcalc.render.html import render

        return render(self.document, "gib")

    def to_json(self) -> str:
        """The text that `--format json` prints: docs/json.md."""
        return self._text("json", "gib")

    def to_dataframe(self, table: str = "rows", *, library: Library | None = None) -> Any:
        """A table as a data frame of pandas, or of polars where pandas is not installed.

        Args:
            table: `rows`, `findings`, `quantities`, or the name of one of `tables`.
            library: `pandas` or `polars`, to say which.

        Returns:
            A data frame with a row for each row, and a column for each key. Whole numbers stay whole, whatever their
            size.

        Raises:
            InputError: no such table; or neither library is installed: it is an ImportError then too.
        """
        from archcalc.api.frames import frame

        return frame(self._table(table), library)

    def save(self, path: str | os.PathLike[str], *, units: str = "gib", assumptions: bool = False) -> None:
        """Write a file: Markdown (.md), JSON (.json), CSV of the main table (.csv) or text (.txt).

        Args:
            path: where; its ending names the format. A file is written whole, or not at all.
            units: bytes as `gib`, `gb` or `bytes`; for Markdown and text.
            assumptions: all of them in Markdown and text, instead of a count.

        Raises:
            InputError: another ending, unknown units, or a file that can't be written.
        """
        from archcalc.render.save import from_ending, write

        write(Path(path), self._text(from_ending(Path(path)), units, assumptions).encode())

    def _text(self, form: str, units: str, assumptions: bool = False) -> str:
        from archcalc.render import text_of
        from archcalc.units import check_units

        check_units(units)
        return text_of(self.document, form, units, assumptions)

    def _table(self, name: str) -> list[dict[str, Any]]:
        if name == "rows":
            return self.rows
        tables = self.tables
        if name in tables:
            return tables[name]
        if name == "findings":
            return self.findings
        if name == "quantities":
            return [{"quantity": name, "value": value} for name, value in self.quantities.items()]
        raise _no_such(name, "table", ["rows", "findings", "quantities", *tables])


def _no_such(name: object, what: str, names: Mapping[str, Any] | list[str]) -> NoSuchName:
    hint = did_you_mean(name, names) if isinstance(name, str) else None
    there_is = ", ".join(names) or "none"
    message = f"this report has no {what} {show_value(name)}"
    return NoSuchName(message, value=name, hint=hint or f"it has {there_is}")
