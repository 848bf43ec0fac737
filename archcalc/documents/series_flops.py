"""FLOPs of a prefill against its length: linears and attention apart, and where attention passes the linears."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

from archcalc.calc.flops import Flops, flop_rows, totals
from archcalc.documents.document import Column, Report, Table
from archcalc.documents.flops import SOME, counting
from archcalc.documents.series import Curve, Figure, Mark, Panel, Range
from archcalc.documents.series_cases import (
    MOST_LINES,
    Case,
    Model,
    check_count,
    common,
    edge_within,
    hues_and_dashes,
    inputs_of,
    limit_notes,
    models_of,
    titled,
    varying,
)
from archcalc.tape import Tape
from archcalc.units import format_int
from archcalc.workload import Workload

COLUMNS = (
    Column("spec", "spec"),
    Column("batch", "sequences", "int"),
    Column("seq", "new tokens", "tokens"),
    Column("linear", "linears", "flops"),
    Column("attention_core", "attention", "flops"),
    *(Column(name, words, "flops") for name, words in SOME.items()),
    Column("forward", "forward", "flops"),
    Column("attention_share", "attention's share", "share"),
)
LINEAR, ATTENTION = 0, 1
"""Line styles of the two parts."""


def prefill(case: Case, seq: int) -> Flops:
    """Totals of a text prefill of `seq` tokens a sequence without a cache, head over all of them [FLOPs]."""
    return totals(flop_rows(case.model.spec.trace(Workload(batch=case.batch, seq=seq))))


def _text(model: Model) -> Tape:
    """A pass over text alone."""
    return model.spec.trace(Workload())


def overtakes(case: Case, over: Range) -> int | None:
    """The shortest prefill of the range whose attention takes at least what its linears take [tokens]."""
    lengths = range(over.low, over.high + 1)
    at = bisect_left(lengths, True, key=lambda seq: _passed(prefill(case, seq)))
    return lengths[at] if 0 < at < len(lengths) else None


def _passed(flops: Flops) -> bool:
    return flops.attention_core >= flops.linear


def flops_figure(found: Sequence[Case], over: Range) -> Figure:
    """Forward FLOPs of a prefill against its length, two lines for each case. Raises InputError for too many."""
    check_count(2 * len(found), MOST_LINES, "lines")
    xs, several = over.drawn(), models_of(found)
    curves: list[Curve] = []
    marks: list[Mark] = []
    for case, name, (hue, _) in zip(found, varying(found), hues_and_dashes(found), strict=True):
        sums = [prefill(case, x) for x in xs]
        before = f"{name}: " if name else ""
        crossing, attention = overtakes(case, over), "attention scores and values"
        if crossing is not None:
            alone = len(found) == 1
            text = f"attention passes linears at {format_int(crossing)} tokens" if alone else ""
            marks.append(Mark(crossing, prefill(case, crossing).linear, text))
            attention = attention if alone else f"attention, more from {format_int(crossing)} tokens on"
        curves += [
            Curve(f"{before}linears", tuple(s.linear for s in sums), hue, LINEAR),
            Curve(before + attention, tuple(s.attention_core for s in sums), hue, ATTENTION),
            *(
                Curve(before + words, tuple(getattr(s, name) for s in sums), hue, dash)
                for dash, (name, words) in enumerate(SOME.items(), ATTENTION + 1)
                if any(getattr(s, name) for s in sums)
            ),
        ]
    title = titled(found, "forward FLOPs of a prefill against its length")
    edge = edge_within(several[0].spec, over) if len(several) == 1 else None
    return Figure(
        title=title,
        setting=common(found),
        shape="lines",
        x_label="new tokens of a sequence",
        x_unit="tokens",
        y_label="forward pass of the backbone",
        y_unit="flops",
        panels=(Panel(xs=xs, points=over.points(), curves=tuple(curves), marks=tuple(marks), edge=edge),),
        report=_report(title, found, over),
    )


def _report(title: str, found: Sequence[Case], over: Range) -> Report:
    rows: list[dict[str, Any]] = []
    for case in found:
        for x in over.points():
            sums = prefill(case, x)
            rows.append(
                {
                    **case.row(x),
                    "seq": x,
                    "linear": sums.linear,
                    "attention_core": sums.attention_core,
                    **{name: n for name in SOME if (n := getattr(sums, name))},
                    "forward": sums.forward,
                    "attention_share": sums.attention_core / sums.forward,
                }
            )
    passes = [{**case.row(at), "seq": at} for case in found if (at := overtakes(case, over)) is not None]
    columns = (*COLUMNS[:2], Column("seq", "attention takes more from", "tokens"))
    shown = tuple(column for column in COLUMNS if column.key not in SOME or any(column.key in row for row in rows))
    return Report(
        command="plot",
        title=title,
        inputs={"kind": "flops", **inputs_of(found, over)},
        quantities={},
        rows=Table("rows", "prefill without a cache, head over all tokens", shown, rows),
        tables=[Table("crossings", "where attention passes the linears", columns, passes)] if passes else [],
        conventions=tuple(dict.fromkeys(line for model in models_of(found) for line in counting(_text(model)))),
        notes=limit_notes(models_of(found), over.high),
    )
