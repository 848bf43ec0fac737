"""What offloading asks of the host: memory, PCIe traffic, and whether compute hides it."""

from __future__ import annotations

from typing import Any

from archcalc.hardware import Hardware
from archcalc.tape import Segment, value
from archcalc.training.chunk import segment_memory
from archcalc.training.memory import RankMemory
from archcalc.training.misfit import misfit
from archcalc.training.run import Run


def step_flops(segment: Segment) -> int:
    """Forward and backward of one copy of a segment, on whole tensors [FLOPs]."""
    return sum(value(op.flops) * (1 + op.backward_factor) for op in segment.ops)


def offload_need(run: Run, r: RankMemory, hardware: Hardware) -> list[dict[str, Any]]:
    """Rows of the offload table for a rank; empty where nothing is offloaded.

    Host memory has activations and optimizer states in. Copies and their time are those of activations alone.

    What a layer stores is copied out while the next `offload_in_flight` layers compute forward, and back while as many
    compute backward, which takes twice as long: so the forward decides. Compute time is FLOPs (backward twice, less
    where weights are frozen) at `memory.compute_utilization` of the dense bf16 peak.

    Raises:
        Misfit: a device without that peak.
    """
    rows = _host_memory(r, hardware)
    if run.offload == frozenset():
        return rows if r.static.host else []
    flops, size = max(
        (sum(count * step_flops(run.tape.segments[n]) for n, count in chunk), memory.offloadable)
        for chunk, memory in zip(run.ranks[r.rank].chunks, r.chunk_memory, strict=True)
    )
    left, layer = max(
        (segment_memory(run.tape, n, run.shards, run.savers, run.offload).offloadable, n)
        for chunk in run.ranks[r.rank].chunks
        for n, _ in chunk
    )
    peak = hardware.peak_flops.get("bfloat16")
    if peak is None:
        raise misfit(
            f"{hardware.name} has no peak FLOP/s in bfloat16, which say whether compute hides the copies",
            "hardware",
            value=hardware.name,
            hint="add peak_flops.bfloat16 to the hardware file, or set activations.offload=none",
        )
    links = hardware.links
    if links is None:
        raise misfit(
            f"{hardware.name} has no links, which say how long the copies take",
            "hardware",
            value=hardware.name,
            hint="add links.pcie_bytes_per_s and the other links to the hardware file, or set activations.offload=none",
        )
    rate = run.shards.tp * run.shards.cp * peak * run.utilization
    compute, forward = flops / rate, sum(value(op.flops) for op in run.tape.segments[layer].ops) / rate
    copy, layer_copy = size / links.pcie_bytes_per_s, left / links.pcie_bytes_per_s
    return rows + _rows(
        ("copied out, and back, a chunk", size / 1e9, "GB"),
        ("PCIe bandwidth, one direction", links.pcie_bytes_per_s / 1e9, "GB/s"),
        ("time of one copy", copy * 1e3, "ms"),
        ("compute of a chunk, forward and backward", compute * 1e3, "ms"),
        ("bandwidth needed to hide it", size / compute / 1e9 if compute else 0.0, "GB/s"),
        ("copies hidden by compute", 100 * min(1.0, compute / copy) if copy else 100.0, "%"),
        ("copied out, and back, a layer", left / 1e9, "GB"),
        ("time of one copy of a layer", layer_copy * 1e3, "ms"),
        ("compute of a layer, forward", forward * 1e3, "ms"),
        ("layers that compute while one is copied", layer_copy / forward if forward else 0.0, ""),
    )


def _host_memory(r: RankMemory, hardware: Hardware) -> list[dict[str, Any]]:
    """What a rank has in host memory, and a node of such ranks."""
    both, states = r.offloaded + r.static.host, r.static.host
    of_it = ("of it the optimizer's states, and gradients for its step", states / 1e9, "GB")
    return _rows(
        ("host memory of one GPU", both / 1e9, "GB"),
        *([of_it] if states else []),
        ("host memory of a node", hardware.devices_per_node * both / 1e9, "GB"),
    )


def _rows(*rows: tuple[str, float, str]) -> list[dict[str, Any]]:
    return [{"path": term, "term": term, "value": number, "unit": unit} for term, number, unit in rows]
