"""KV cache against the context, a line for each model, cache dtype and batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from archcalc.calc.kv_cache import Mesh, SequenceCache, sequence_cache
from archcalc.calc.sharding import check_heads
from archcalc.documents.conventions import cache_lines
from archcalc.documents.document import Column, Report, Table
from archcalc.documents.series import Curve, Figure, Panel, Range
from archcalc.documents.series_cases import (
    LENGTH,
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
    of_each,
    titled,
    varying,
)
from archcalc.workload import Workload

COLUMNS = (
    Column("spec", "spec"),
    Column("kv_dtype", "cache"),
    Column("batch", "sequences", "int"),
    LENGTH,
    Column("total_bytes", "one copy", "bytes"),
    Column("bytes_per_device", "each device", "bytes"),
)


class Caches(NamedTuple):
    """The cache of one sequence by its length: one copy, and what each device holds of it."""

    whole: SequenceCache
    device: SequenceCache


def kv_figure(found: Sequence[Case], over: Range, tp: int = 1) -> Figure:
    """KV cache of each device against the context, in as many tokens as there are (no pages).

    Raises:
        InputError: a tp that does not divide the heads, a cache dtype that does not fit, or too many cases.
    """
    check_count(len(found), MOST_LINES, "lines")
    caches = of_each(found, lambda case: _caches(case, Mesh(tp=tp)))
    several = models_of(found)
    subject = "KV cache of each device" if tp > 1 else "KV cache"
    title = titled(found, f"{subject} against context")
    xs = over.drawn()
    curves = tuple(
        Curve(name, tuple(case.batch * cache.device.at(x) for x in xs), hue, dash)
        for case, cache, name, (hue, dash) in zip(found, caches, varying(found), hues_and_dashes(found), strict=True)
    )
    rows = [
        {
            **case.row(x),
            "context": x,
            "total_bytes": case.batch * cache.whole.at(x),
            "bytes_per_device": case.batch * cache.device.at(x),
        }
        for case, cache in zip(found, caches, strict=True)
        for x in over.points()
    ]
    edge = edge_within(several[0].spec, over) if len(several) == 1 else None
    return Figure(
        title=title,
        setting=", ".join(filter(None, [f"tp {tp}" if tp > 1 else "", common(found)])),
        shape="lines",
        x_label="context of a sequence [tokens]",
        x_unit="tokens",
        y_label=subject,
        y_unit="bytes",
        panels=(Panel(xs=xs, points=over.points(), curves=curves, edge=edge),),
        report=Report(
            command="plot",
            title=title,
            inputs={"kind": "kv", **inputs_of(found, over), "tp": tp},
            quantities={},
            rows=Table("rows", "KV cache of all sequences", COLUMNS, rows),
            conventions=("one copy of all sequences.", *_conventions(several)),
            notes=limit_notes(several, over.high),
        ),
    )


def _caches(case: Case, mesh: Mesh) -> Caches:
    tape = case.model.spec.trace(Workload())
    check_heads(tape, mesh.tp)
    return Caches(sequence_cache(tape, case.kv_dtype), sequence_cache(tape, case.kv_dtype, mesh))


def _conventions(several: Sequence[Model]) -> list[str]:
    """What is true of any of the models."""
    lines = (line for model in several for line in cache_lines(model.spec.trace(Workload()), "each device"))
    return list(dict.fromkeys(lines))
