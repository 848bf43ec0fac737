"""The tables of the `train` report: their columns, a rank as a row, the terms of its peak."""

from __future__ import annotations

from typing import Any

from archcalc.documents.document import Column
from archcalc.training.memory import RankMemory

COLUMNS = (
    Column("rank", "rank", "int"),
    Column("params_bytes", "weights", "bytes"),
    Column("grads_bytes", "gradients", "bytes"),
    Column("optimizer_bytes", "optimizer", "bytes"),
    Column("activation_bytes", "activations", "bytes", keep=True),
    Column("transient_bytes", "transient", "bytes"),
    Column("fixed_bytes", "fixed", "bytes"),
    Column("offloaded_bytes", "on the host", "bytes"),
    Column("peak_bytes", "peak", "bytes", keep=True),
    Column("peak_first_bytes", "iteration 1", "bytes"),
    Column("live_chunks", "chunks alive", "int"),
)
TERM_COLUMNS = (Column("term", "term"), Column("bytes", "bytes", "bytes"), Column("what", "what it is"))
LEDGER_COLUMNS = (
    Column("lever", "lever"),
    Column("peak_bytes", "peak", "bytes", keep=True),
    Column("saved_bytes", "saves", "bytes", keep=True),
    Column("without_bytes", "without it", "bytes", keep=True),
    Column("activation_bytes", "activations", "bytes"),
    Column("worst_rank", "rank", "int"),
    Column("recompute_flops_share", "FLOPs again", "share", keep=True),
    Column("cost", "costs"),
)
IMBALANCE_NOTE = "each row at its own worst moment, which may be another one than the plan's"
LEDGER_NOTE = "saves: beside the levers above it; without it: what leaving out this one alone adds to the plan's peak"
IMBALANCE_COLUMNS = (
    Column("case", "routing"),
    Column("imbalance", "busiest / mean", "number"),
    Column("activation_bytes", "activations", "bytes"),
    Column("peak_bytes", "peak of the worst rank", "bytes"),
    Column("worst_rank", "rank", "int"),
)
OFFLOAD_COLUMNS = (Column("term", "offload"), Column("value", "value", "number"), Column("unit", "unit"))

TOTALS = (
    "params_bytes",
    "grads_bytes",
    "optimizer_bytes",
    "buffers_bytes",
    "activation_bytes",
    "transient_bytes",
    "fixed_bytes",
    "offloaded_bytes",
    "live_chunks",
    "peak_bytes",
)
"""Keys of a row that are quantities of the worst rank too."""


def rank_row(r: RankMemory) -> dict[str, Any]:
    """One rank as a row of raw bytes."""
    return {
        "path": f"rank {r.rank}",
        "rank": r.rank,
        "params_bytes": r.static.params,
        "grads_bytes": r.static.grads,
        "optimizer_bytes": r.static.optimizer,
        "buffers_bytes": r.static.buffers,
        "activation_bytes": r.activation,
        "transient_bytes": r.transient,
        "fixed_bytes": r.fixed + r.cached + r.workspaces,
        "offloaded_bytes": r.offloaded,
        "peak_bytes": r.peak,
        "peak_first_bytes": r.peak_first,
        "resting_bytes": r.resting,
        "moments_bytes": r.static.late,
        "optimizer_host_bytes": r.static.host,
        "live_chunks": r.live_chunks,
        "moment": r.moment,
    } | ({"unmade_bytes": r.unmade} if r.unmade else {})


def terms(r: RankMemory, *, packed: bool = False) -> list[dict[str, Any]]:
    """The terms of a rank's peak; they add up to it. `packed`: some weights are held in few bits (QLoRA)."""
    held = "in the plan's parameter dtype" + ("; frozen matrices with adapters in four bits" if packed else "")
    rows = [
        ("weights", r.static.params, held),
        ("gradients", r.static.grads, "accumulation buffer"),
        ("master weights", r.static.optimizer - r.static.late, "of the optimizer, this rank's shard"),
        ("moments", r.static.late, "of the optimizer, this rank's shard; its first step makes them"),
        ("buffers", r.static.buffers, "router correction biases"),
        ("activations", r.activation, "saved for backward, on the device at that moment"),
        ("transient", r.transient, "lives only at that moment: gradients, recomputed tensors, routed copies, messages"),
        ("fixed", r.fixed, "context, communicators, workspaces: the plan's memory.fixed"),
        (
            "cached by kernels",
            r.cached,
            "a placeholder gradient of each weight shape; copies of weights in FP8; the head's gathered input under SP",
        ),
        *([("not made yet", -r.unmade, "gradients that the step's one backward has still to make")] * (r.unmade > 0)),
        ("workspaces", r.workspaces, "of libraries, as the plan's stack says"),
        ("fragmentation", r.peak - r.total, "what the allocator can't use: memory.allocator_efficiency"),
    ]
    return [{"path": name, "term": name, "bytes": n, "what": what} for name, n, what in rows]
