"""One sweep: rows of each case, and their keys that are stacked or drawn. Table and picture both follow from them.

Drawing the picture is `render`'s: it reads panels of plain numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple

from archcalc.documents.document import Amount, Column, Report, Table, Unit
from archcalc.documents.sweep.cases import COLUMNS, Compared, Range, limit_notes, models_of, row_of, shared, varying
from archcalc.documents.sweep.curves import Curve, Line, lines
from archcalc.units import format_context

Shape = Literal["areas", "bars", "lines"]
Rows = Mapping[int, Mapping[str, Any]]
"""What was worked out at each length [tokens] or rank, ascending. A `path` among it is the end of the row's path."""


class Layer(NamedTuple):
    """A layer of a stack, or a line: its name, the keys of the rows that add up to it, its numbers as a `Curve`."""

    label: str
    keys: tuple[str, ...]
    hue: int = 0
    dash: int = 0


class Mark(NamedTuple):
    """One place of a picture that its text is about; `valued` where the text is to be followed by the height."""

    x: int
    y: int
    text: str
    valued: bool = False


class Limit(NamedTuple):
    """A height that nothing should pass, what it is, and the same in short lines that stand beside it."""

    value: int
    label: str
    short: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One picture of a figure.

    Attributes:
        title: what tells it from its neighbours; empty where there is only one.
        verdict: what it shows, in a few words.
        xs: lengths [tokens] or rank numbers, ascending.
        points: those of `xs` that the table lists; a curve is drawn through all of them.
        curves: layers from the bottom up, or lines; one value for each of `xs`.
        limit: the line that the stack should stay under.
        others: the same of other lines.
        marks: where something happens.
        edge: the model's own context limit, if it is within the range [tokens].
        below: a second line of each bar's label, such as its worst rank.
    """

    title: str = ""
    verdict: str = ""
    xs: tuple[int, ...]
    points: tuple[int, ...]
    curves: tuple[Curve, ...]
    limit: Limit | None = None
    others: tuple[Limit, ...] = ()
    marks: tuple[Mark, ...] = ()
    edge: int | None = None
    below: tuple[str, ...] = ()

    def totals(self) -> tuple[int, ...]:
        """Height of the whole stack at each of `xs`."""
        return tuple(map(sum, zip(*(curve.values for curve in self.curves), strict=True)))

    @property
    def limits(self) -> tuple[Limit, ...]:
        """All heights that something of it should not pass."""
        return (*([self.limit] if self.limit else []), *self.others)

    @property
    def lines(self) -> list[Line]:
        """Its curves as lines, those together that lie on each other."""
        return lines(self.curves)

    def over(self, total: int) -> bool:
        """Whether a stack of this height passes the limit."""
        return self.limit is not None and total > self.limit.value


class Series(NamedTuple):
    """One case: its rows, its own picture of them, and the cells that say where its curves cross, the place first."""

    case: Compared
    rows: Rows
    panel: Panel
    crossing: Mapping[str, Any]


def series(
    case: Compared,
    rows: Rows,
    layers: Sequence[Layer],
    over: Range | None = None,
    crossing: Mapping[str, Any] | None = None,
    **beside: Any,
) -> Series:
    """The case with a curve for each layer; the table lists the points of `over`, or every row."""
    curves = tuple(
        Curve(label, tuple(sum(row.get(key, 0) for key in keys) for row in rows.values()), hue, dash)
        for label, keys, hue, dash in layers
    )
    xs = tuple(rows)
    panel = Panel(xs=xs, points=over.points() if over else xs, curves=curves, **beside)
    return Series(case, rows, panel, crossing or {})


@dataclass(frozen=True, kw_only=True)
class Figure:
    """All cases, and the words around them.

    Attributes:
        kind: the plot's name.
        text: what is drawn, as it stands after the model's name.
        series: the cases in reading order, all on one vertical scale.
        over: the lengths that were asked for.
        shape: a panel of stacked areas or of stacked bars for each case, or one of lines on two logarithmic axes.
        across: the column of what the rows are at: lengths [tokens], or ranks.
        x_label, y_label, y_unit: the axes, the vertical one without its unit.
        heading: the table's title.
        columns: of the table, after those of the case and `across`; one that no row has is left out.
        setup: what the cases have in common, beside their own words.
        subtitle: what the report's title says beside the figure's.
        inputs: what was asked, beside cases and lengths.
        crossings: title and columns of the table of what the series say about crossings.
        assumptions, conventions, notes: as a report has them.
    """

    kind: str
    text: str
    series: Sequence[Series]
    over: Range | None = None
    shape: Shape
    across: Column
    x_label: str
    y_label: str
    y_unit: Literal["bytes", "flops"] = "bytes"
    heading: str
    columns: Sequence[Column]
    setup: str = ""
    subtitle: str = ""
    inputs: Mapping[str, Any] = field(default_factory=dict)
    crossings: tuple[str, Sequence[Column]] = ("", ())
    assumptions: Sequence[str] = ()
    conventions: Sequence[str] = ()
    notes: Sequence[str] = ()

    @property
    def cases(self) -> list[Compared]:
        """What is compared."""
        return [each.case for each in self.series]

    @property
    def title(self) -> str:
        """One line for people: the text after the model's name, or alone where there are several models."""
        several = models_of(self.cases)
        return f"{several[0].label}: {self.text}" if len(several) == 1 else self.text[0].upper() + self.text[1:]

    @property
    def setting(self) -> str:
        """What all panels have in common."""
        return ", ".join(filter(None, [self.setup, shared(self.cases)]))

    @cached_property
    def panels(self) -> tuple[Panel, ...]:
        """One for each case, or one for all lines."""
        names = varying(self.cases)
        if self.shape == "lines":
            return (self._lines(names),)
        return tuple(replace(each.panel, title=name) for each, name in zip(self.series, names, strict=True))

    def _lines(self, names: list[str]) -> Panel:
        """Cases that differ in the cache alone have one colour. A mark has text where there is one case.

        Limits that are called alike are one, the lowest of them.
        """
        first, looks = self.series[0].panel, [dict(case.cells) for case in self.cases]
        dashes = _numbered([look.pop("kv_dtype", "") for look in looks])
        curves = (
            Curve(": ".join(filter(None, [name, curve.label])), curve.values, hue, dash + curve.dash, name)
            for each, name, hue, dash in zip(self.series, names, _numbered(looks), dashes, strict=True)
            for curve in each.panel.curves
        )
        marks = (mark for each in self.series for mark in each.panel.marks)
        known = sorted((limit for each in self.series for limit in each.panel.limits), reverse=True)
        limits = list({limit.label: limit for limit in known}.values())
        return replace(
            first,
            verdict="",
            limit=limits[0] if limits else None,
            others=tuple(limits[1:]),
            curves=tuple(curves),
            marks=tuple(mark if len(looks) == 1 else mark._replace(text="") for mark in marks),
            edge=first.edge if len(models_of(self.cases)) == 1 else None,
        )

    @cached_property
    def report(self) -> Report:
        """The rows at the points as a document."""
        keys, over = self.cases[0].cells, self.over
        asked = {_PLURAL.get(key, key): list(dict.fromkeys(case.cells[key] for case in self.cases)) for key in keys}
        return Report(
            command="plot",
            title=", ".join(filter(None, [self.title, self.subtitle])),
            answer=self._answer(),
            inputs={"kind": self.kind, **asked, **({"context": list(over)} if over else {}), **self.inputs},
            quantities={},
            rows=self._rows(),
            tables=self._crossings(),
            assumptions=self.assumptions,
            conventions=self.conventions,
            notes=[*(limit_notes(models_of(self.cases), over.high) if over else ()), *self.notes],
        )

    def _answer(self) -> list[str | Amount]:
        """The verdict of each panel; where there is nothing to pass, how high it gets at the end of the range."""
        said: list[str | Amount] = []
        for panel in () if self.shape == "lines" else self.panels:
            if words := _verdict(panel, self.y_unit):
                said += [*(["; "] if said else []), *([f"{panel.title}: "] if panel.title else []), *words]
        if said or not self.over:
            return said
        curves = (curve.values for panel in self.panels for curve in panel.curves)
        ends = [values[-1] for values in (curves if self.shape == "lines" else (p.totals() for p in self.panels))]
        low, high = Amount(min(ends), self.y_unit), Amount(max(ends), self.y_unit)
        return [low, *((" to ", high) if high > low else ()), f" at {format_context(self.panels[0].xs[-1])}"]

    def _rows(self) -> Table:
        rows = [
            {self.across.key: x, **each.rows[x], **row_of(each.case, each.rows[x].get("path", x))}
            for each in self.series
            for x in each.panel.points
        ]
        return self._table("rows", self.heading, (self.across, *self.columns), rows)

    def _crossings(self) -> list[Table]:
        rows = [
            {**row_of(each.case, next(iter(each.crossing.values())) or 0), **each.crossing}
            for each in self.series
            if each.crossing
        ]
        return [self._table("crossings", *self.crossings, rows)] if rows else []

    def _table(self, name: str, title: str, columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> Table:
        shown = (*(COLUMNS[key] for key in self.cases[0].cells), *columns)
        return Table(name, title, tuple(column for column in shown if any(column.key in row for row in rows)), rows)


def _verdict(panel: Panel, unit: Unit) -> list[str | Amount]:
    """What a panel says of its limit, or of the place that is marked."""
    mark = next((mark for mark in panel.marks if mark.text), None)
    if panel.verdict or mark is None:
        return [panel.verdict] if panel.verdict else []
    return [f"{mark.text} ", Amount(mark.y, unit)] if mark.valued else [mark.text]


_PLURAL = {"spec": "specs", "plan": "plans"}


def _numbered(looks: Sequence[Any]) -> list[int]:
    """The number of each among those that differ, from 0."""
    different = [look for n, look in enumerate(looks) if look not in looks[:n]]
    return [different.index(look) for look in looks]
