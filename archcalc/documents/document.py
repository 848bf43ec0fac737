"""The one result document: every command makes a Report, every renderer reads one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal, NamedTuple, Protocol

FORMAT_VERSION = 1
"""Version of the JSON form; a reader refuses a newer one."""

Value = int | float | bool | Fraction
"""What a quantity may be; a fraction is exact where no whole number is (one cached entry for several tokens)."""

Unit = Literal[
    "text", "prose", "count", "scaled", "bytes", "flops", "share", "int", "number", "bool", "tokens", "ordinal", "own"
]
"""`scaled`: a count as 1.027T. `ordinal`: a number that names one of several, and is no amount. `own`: numbers in the
unit that each row names under `unit`."""


class Amount(NamedTuple):
    """A value within a sentence, which renderers print in the reader's units."""

    value: Value
    unit: Unit


class Column(NamedTuple):
    """One column of a table: its key in the rows, its heading, and the unit that renderers print it in.

    `keep`: where a screen is too narrow for all columns, this one goes last.
    """

    key: str
    title: str
    unit: Unit = "text"
    keep: bool = False


class Table(NamedTuple):
    """Rows of raw values (exact ints, text); `columns` says which of their keys people see, and how.

    `leads`: people read it before the main table.
    `bars`: the column whose values a renderer may draw as bars. A row's `depth` indents its first column.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: Sequence[Mapping[str, Any]]
    note: str = ""
    leads: bool = False


class Specified(Protocol):
    """A spec, as far as a report knows it."""

    @property
    def sha256(self) -> str:
        """A digest of all of it that can change a number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one command found out.

    Attributes:
        command: the command's name.
        title: one line for people: what was asked, or the verdict itself.
        answer: the verdict, where it holds amounts: it follows the title in the first line.
        inputs: what it was computed from: spec, workload, plan, flags.
        quantities: stable names of docs/glossary.md to exact values.
        rows: the main table, `rows` in JSON.
        tables: further tables by name.
        findings: comparisons with a verdict (claims, cross-checks).
        assumptions: what no source gives and the numbers rest on.
        conventions: how it was counted.
        notes: whatever else a reader should know; warnings first.
        rows_tell: whether people read the quantities in the rows.
        spec: what it is about, where that is one spec.
    """

    command: str
    title: str
    answer: Sequence[str | Amount] = ()
    inputs: Mapping[str, Any]
    quantities: Mapping[str, Value]
    rows: Table | None = None
    tables: Sequence[Table] = ()
    findings: Sequence[Mapping[str, Any]] = ()
    findings_table: Table | None = None
    assumptions: Sequence[str] = ()
    conventions: Sequence[str] = ()
    notes: Sequence[str] = ()
    spec: Specified | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    rows_tell: bool = False

    @property
    def in_reading_order(self) -> list[Table]:
        """All tables as people read them: findings, those that lead, the main one, the others."""
        leading = [table for table in self.tables if table.leads]
        others = [table for table in self.tables if not table.leads]
        ordered = (self.findings_table, *leading, self.rows, *others)
        return [table for table in ordered if table is not None]
