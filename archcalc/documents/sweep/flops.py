"""FLOPs of a prefill against its length: linears and attention apart, and where attention passes the linears."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

from archcalc.calc.flops import Flops, flop_rows, totals
from archcalc.documents.document import Column
from archcalc.documents.flops import SOME, counting
from archcalc.documents.sweep.cases import Case, Range, models_of
from archcalc.documents.sweep.figure import Figure, Layer, Mark, Series, series
from archcalc.limits import LINES, hold
from archcalc.units import format_int
from archcalc.workload import Workload

TERMS = (
    Column("linear", "linears", "flops"),
    Column("attention_core", "attention", "flops"),
    *(Column(name, words, "flops") for name, words in SOME.items()),
    Column("forward", "forward", "flops"),
    Column("attention_share", "attention's share", "share"),
)
CROSSINGS = ("where attention passes the linears", [Column("seq", "attention takes more from", "tokens")])


def prefill(case: Case, seq: int) -> Flops:
    """Totals of a text prefill of `seq` tokens a sequence without a cache, head over all of them [FLOPs]."""
    return totals(flop_rows(case.model.spec.trace(Workload(batch=case.batch, seq=seq))))


def overtakes(case: Case, over: Range) -> int | None:
    """The shortest prefill of the range whose attention takes at least what its linears take [tokens]."""
    lengths = range(over.low, over.high + 1)
    at = bisect_left(lengths, True, key=lambda seq: _passed(prefill(case, seq)))
    return lengths[at] if 0 < at < len(lengths) else None


def _passed(flops: Flops) -> bool:
    return flops.attention_core >= flops.linear


def flops_figure(found: Sequence[Case], over: Range) -> Figure:
    """Forward FLOPs of a prefill against its length, two lines for each case. Raises InputError for too many."""
    hold(LINES, 2 * len(found))
    text = [model.spec.trace(Workload()) for model in models_of(found)]
    return Figure(
        kind="flops",
        text="forward FLOPs of a prefill against its length",
        series=[_series(case, over, len(found)) for case in found],
        over=over,
        shape="lines",
        across=Column("seq", "new tokens", "tokens"),
        x_label="new tokens of a sequence",
        y_label="forward pass of the backbone",
        y_unit="flops",
        heading="prefill without a cache, head over all tokens",
        columns=TERMS,
        crossings=CROSSINGS,
        conventions=tuple(dict.fromkeys(line for tape in text for line in counting(tape))),
    )


def _series(case: Case, over: Range, of: int) -> Series:
    """One of `of` cases: where several cross, the line's name says where."""
    rows = {x: _row(prefill(case, x)) for x in over.drawn()}
    attention, marks, at = "attention scores and values", [], overtakes(case, over)
    if at is not None:
        marks = [Mark(at, prefill(case, at).linear, f"attention passes linears at {format_int(at)} tokens")]
        attention = attention if of == 1 else f"attention, more from {format_int(at)} tokens on"
    layers = [
        Layer("linears", ("linear",), dash=0),
        Layer(attention, ("attention_core",), dash=1),
        *(Layer(words, (name,), dash=dash) for dash, (name, words) in enumerate(SOME.items(), 2)),
    ]
    drawn = [layer for layer in layers if any(layer.keys[0] in row for row in rows.values())]
    crossing = {"seq": at} if at is not None else None
    return series(case, rows, drawn, over, crossing, marks=tuple(marks), edge=over.edge(case.model.spec))


def _row(sums: Flops) -> dict[str, Any]:
    return {
        "linear": sums.linear,
        "attention_core": sums.attention_core,
        **{name: n for name in SOME if (n := getattr(sums, name))},
        "forward": sums.forward,
        "attention_share": sums.attention_core / sums.forward,
    }
