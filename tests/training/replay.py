"""What is on a rank's device, worked out anew: every operation of every micro-batch, layer by layer."""

from __future__ import annotations

from typing import NamedTuple

from archcalc.training.chunk import SegmentMemory, segment_memory
from archcalc.training.rank import messages
from archcalc.training.run import Run
from archcalc.training.schedule import Op

Layers = list[SegmentMemory]


class Most(NamedTuple):
    """The most bytes of activations, transients and messages on the device, and of activations on the host."""

    device: int
    host: int


def replayed(run: Run, rank: int, entry: int) -> Most:
    """The most bytes at any layer of any operation of the whole order of a rank; `entry` is one message."""
    chunks = [
        [segment_memory(run.tape, n, run.shards, run.savers, run.offload) for n, count in chunk for _ in range(count)]
        for chunk in run.ranks[rank].chunks
    ]
    order = run.schedule.order(run.pipeline, rank)
    exchange = messages(run.schedule, run.pipeline, rank, entry)
    gathered = run.ranks[rank].static.gathered
    alive: set[tuple[int, int]] = set()
    waiting: set[tuple[int, int]] = set()
    done: set[tuple[int, int]] = set()
    device = host = 0
    for position, op in enumerate(order):
        if op.kind == "F":
            alive.add(op[1:])
        after = next((other for other in order[position + 1 :] if other.kind in "BI"), None)
        fetched = chunks[after.chunk] if after is not None and after[1:] in done else []
        others = sum(kept(layer) for c, m in alive - {op[1:]} for layer in chunks[c])
        others += sum(layer.waiting for c, _ in waiting for layer in chunks[c])
        away = sum(layer.offloadable for c, _ in alive for layer in chunks[c])
        found, near = running(op, chunks[op.chunk], fetched, run.in_flight, gathered)
        device = max(device, others + max(found) + exchange[op.kind != "F"])
        host = max(host, away - near)
        if op.kind == "F":
            done.add(op[1:])
        elif op.kind == "W":
            waiting.remove(op[1:])
        else:
            alive.remove(op[1:])
            waiting |= {op[1:]} if op.kind == "I" else set()
    return Most(device, host)


def kept(layer: SegmentMemory) -> int:
    return layer.saved - layer.offloadable


def last(layers: Layers, count: int) -> int:
    """Offloadable bytes of the last so many layers that have any."""
    sizes = [layer.offloadable for layer in layers if layer.offloadable]
    return sum(sizes[len(sizes) - min(count, len(sizes)) :])


def running(op: Op, layers: Layers, fetched: Layers, in_flight: int, gathered: int) -> tuple[list[int], int]:
    """What the running chunk and the one that is fetched have on the device, at each of the chunk's layers, and
    the offloadable bytes in it at the end of a forward, or the start of a backward."""
    if op.kind == "W":
        return [last(fetched, in_flight)], last(fetched, in_flight)
    near = []
    for i, layer in enumerate(layers):
        near.append(layer.offloadable + last(layers[:i], in_flight))
    end = sum(map(kept, layers)) + near[-1]
    if op.kind == "F":
        coming = last(fetched, in_flight)
        at = [
            sum(map(kept, layers[: i + 1])) + near[i] + coming + layer.forward + gathered
            for i, layer in enumerate(layers)
        ]
        return [*at, end + coming], near[-1] + coming
    at = []
    for i, layer in enumerate(layers):
        before = sum(1 for each in layers[:i] if each.offloadable)
        coming = last(fetched, in_flight - before) if in_flight > before else 0
        held = sum(map(kept, layers[: i + 1])) + near[i] + coming + layer.backward + gathered
        at.append(held + (sum(each.waiting for each in layers[i + 1 :]) if op.kind == "I" else 0))
    return [*at, end], near[-1]
