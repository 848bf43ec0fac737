"""KV cache against the context, a line for each model, cache dtype and batch."""

from __future__ import annotations

from collections.abc import Sequence

from archcalc.calc.kv_cache import Mesh, sequence_cache
from archcalc.calc.sharding import check_heads
from archcalc.documents.conventions import cache_lines
from archcalc.documents.document import Column
from archcalc.documents.sweep.cases import CONTEXT, MOST_LINES, Case, Range, check_count, models_of, of_each
from archcalc.documents.sweep.figure import Figure, Layer, Series, series
from archcalc.workload import Workload

COLUMNS = (Column("total_bytes", "one copy", "bytes"), Column("bytes_per_device", "each device", "bytes"))
LAYERS = (Layer("", ("bytes_per_device",)),)


def kv_figure(found: Sequence[Case], over: Range, tp: int = 1) -> Figure:
    """KV cache of each device against the context, in as many tokens as there are (no pages).

    Raises:
        InputError: a tp that does not divide the heads, a cache dtype that does not fit, or too many cases.
    """
    check_count(len(found), MOST_LINES, "lines")
    subject = "KV cache of each device" if tp > 1 else "KV cache"
    tapes = [model.spec.trace(Workload()) for model in models_of(found)]
    spread = dict.fromkeys(line for tape in tapes for line in cache_lines(tape, "each device"))
    return Figure(
        kind="kv",
        text=f"{subject} against context",
        series=of_each(found, lambda case: _series(case, over, Mesh(tp=tp))),
        over=over,
        shape="lines",
        across=CONTEXT,
        x_label="context of a sequence [tokens]",
        y_label=subject,
        heading="KV cache of all sequences",
        columns=COLUMNS,
        setup=f"tp {tp}" if tp > 1 else "",
        inputs={"tp": tp},
        conventions=("one copy of all sequences.", *spread),
    )


def _series(case: Case, over: Range, mesh: Mesh) -> Series:
    """The cache of all sequences by their length: one copy, and what each device holds of it."""
    tape = case.model.spec.trace(Workload())
    check_heads(tape, mesh.tp)
    whole, device = sequence_cache(tape, case.kv_dtype), sequence_cache(tape, case.kv_dtype, mesh)
    rows = {
        x: {"total_bytes": case.batch * whole.at(x), "bytes_per_device": case.batch * device.at(x)}
        for x in over.drawn()
    }
    return series(case, rows, LAYERS, over, edge=over.edge(case.model.spec))
