"""The `kv` report: cache a token, in total, and on each device."""

from __future__ import annotations

from archcalc.calc.kv_cache import (
    Mesh,
    bytes_per_token,
    bytes_per_token_and_device,
    cache_rows,
    check_heads,
    pages,
    tokens_in,
)
from archcalc.errors import InputError
from archcalc.report.document import Column, Report, Table
from archcalc.report.flops import context_notes, vision_load
from archcalc.report.paths import folded
from archcalc.spec.model import Spec
from archcalc.workload import Workload

COLUMNS = (
    Column("path", "layers"),
    Column("kind", "cached"),
    Column("elements", "elements a token and layer", "int"),
    Column("bytes_per_token_and_layer", "bytes a token and layer", "int"),
    Column("bytes_per_token", "bytes a token", "int", keep=True),
)


def kv_report(
    spec: Spec, workload: Workload, *, kv_dtype: str = "bf16", mesh: Mesh, memory: int | None = None
) -> Report:
    """KV cache of `workload.batch` sequences of `workload.context` tokens (and their vision tokens).

    `memory` [bytes of each device] is inverted to how many tokens fit. Raises InputError.
    """
    if memory is not None and memory < 1:
        raise InputError(f"memory must be at least 1 byte, not {memory}", value=memory)
    tape = spec.trace(Workload())
    check_heads(tape, mesh.tp)
    token = bytes_per_token(tape, kv_dtype)
    device_token = bytes_per_token_and_device(tape, kv_dtype, mesh)
    length = workload.context + vision_load(spec, workload)[0]
    whole = pages(length, Mesh(block_size=mesh.block_size))
    sequences = -(-workload.batch // mesh.dp)
    found: dict[str, int | float | bool] = {
        "kv.bytes_per_token": token,
        "kv.fixed_bytes": 0,
        "kv.total_bytes": workload.batch * whole * token,
        "kv.bytes_per_device": sequences * pages(length, mesh) * device_token,
    }
    if memory is not None:
        found["kv.max_tokens"] = tokens_in(memory, device_token, mesh)
    rows = [
        {
            "path": folded(row.path, row.indices),
            "kind": row.kind,
            "elements": row.elements,
            "layers": row.layers,
            "bytes_per_token_and_layer": row.nbytes,
            "bytes_per_token": row.layers * row.nbytes,
        }
        for row in cache_rows(tape, kv_dtype)
    ]
    return Report(
        command="kv",
        title=f"{spec.title}: KV cache in {kv_dtype}, {workload.batch} x {length:,} tokens",
        inputs={
            "spec": spec.name,
            "context": workload.context,
            "batch": workload.batch,
            "kv_dtype": kv_dtype,
            "tp": mesh.tp,
            "dcp": mesh.dcp,
            "pp": mesh.pp,
            "dp": mesh.dp,
            "block_size": mesh.block_size,
            "memory": memory,
        },
        quantities=found,
        rows=Table("rows", "what a token leaves in each layer", COLUMNS, rows),
        conventions=(
            "Total: one copy of the cache, in whole pages.",
            "Per device: key-value heads divided over tp and replicated past their number; an MLA latent is"
            " never divided by tp, only by dcp; layers over pp, sequences over dp.",
        ),
        notes=context_notes(spec, length),
    )
