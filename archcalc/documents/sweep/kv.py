"""KV cache against the context, a line for each model, cache dtype and batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from archcalc.calc.kv_cache import Mesh, sequence_cache
from archcalc.calc.sharding import check_heads
from archcalc.documents.conventions import cache_lines
from archcalc.documents.document import Column
from archcalc.documents.sweep.cases import CONTEXT, Case, Range, models_of, of_each
from archcalc.documents.sweep.figure import Figure, Layer, Series, series
from archcalc.limits import LINES, hold
from archcalc.units import format_int
from archcalc.workload import Workload

COLUMNS = (Column("total_bytes", "one copy", "bytes"), Column("bytes_per_device", "each device", "bytes"))
LAYERS = (Layer("", ("bytes_per_device",)),)


def kv_figure(found: Sequence[Case], over: Range, mesh: Mesh | None = None) -> Figure:
    """KV cache of each device against the context, in whole pages of the mesh, whose default is a token.

    Raises:
        InputError: a tp that does not divide the heads, a cache dtype that does not fit, or too many cases.
    """
    hold(LINES, len(found))
    mesh = mesh or Mesh()
    sizes = [f"{name} {getattr(mesh, name)}" for name in ("tp", "pp", "dp", "dcp") if getattr(mesh, name) > 1]
    subject = "KV cache of each device" if sizes else "KV cache"
    paged = [f"pages of {format_int(mesh.block_size)} tokens"] if mesh.block_size > 1 else []
    tapes = [model.spec.trace(Workload()) for model in models_of(found)]
    spread = dict.fromkeys(line for tape in tapes for line in cache_lines(tape, "each device", "pp", "dp"))
    return Figure(
        kind="kv",
        text=f"{subject} against context",
        series=of_each(found, lambda case: _series(case, over, mesh)),
        over=over,
        shape="lines",
        across=CONTEXT,
        x_label="context of a sequence [tokens]",
        y_label=subject,
        heading="KV cache of all sequences",
        columns=COLUMNS,
        setup=", ".join([*sizes, *paged]),
        inputs=asdict(mesh),
        conventions=("one copy of all sequences.", *spread),
    )


def _series(case: Case, over: Range, mesh: Mesh) -> Series:
    """The cache of all sequences by their length: one copy, and what each device holds of it."""
    tape = case.model.spec.trace(Workload())
    check_heads(tape, mesh.tp)
    whole = sequence_cache(tape, case.kv_dtype, Mesh(block_size=mesh.block_size))
    device, sequences = sequence_cache(tape, case.kv_dtype, mesh), -(-case.batch // mesh.dp)
    rows = {
        x: {"total_bytes": case.batch * whole.at(x), "bytes_per_device": sequences * device.at(x)} for x in over.drawn()
    }
    return series(case, rows, LAYERS, over, edge=over.edge(case.model.spec))
