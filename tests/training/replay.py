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
    waiting: set[tuple[int, int]] = set()
    alive: set[tuple[int, int]] = set()
    device = host = 0
    for group in grouped(run, rank):
        op, forward = group[-1], group[0] if len(group) > 1 else None
        before = set(alive)
        alive |= {each[1:] for each in group if each.kind == "F"}
        after = next((other for other in order[order.index(op) + 1 :] if other.kind in "BI"), None)
        fetched = chunks[after.chunk] if after is not None and after[1:] in before else []
        rest = alive - {each[1:] for each in group}
        others = sum(kept(layer) for c, _ in rest for layer in chunks[c])
        others += sum(layer.waiting for c, _ in waiting for layer in chunks[c])
        away = sum(layer.offloadable for c, _ in alive for layer in chunks[c])
        if forward is not None:
            both = chunks[forward.chunk], chunks[op.chunk]
            steps = side_by_side(*both, fetched, run.in_flight, gathered)
            away -= sum(layer.offloadable for chunk in both for layer in chunk)
            device = max(device, others + max(on for on, _ in steps) + max(exchange))
            host = max(host, away + max(off for _, off in steps))
        else:
            found, here = running(op, chunks[op.chunk], fetched, run.in_flight, gathered)
            device = max(device, others + max(found) + exchange[op.kind != "F"])
            host = max(host, away - here)
        alive -= {op[1:]} if op.kind in "BI" else set()
        waiting |= {op[1:]} if op.kind == "I" else set()
        waiting -= {op[1:]} if op.kind == "W" else set()
    return Most(device, host)


def grouped(run: Run, rank: int) -> list[list[Op]]:
    """The order of a rank, a forward and the backward that runs beside it together."""
    found: list[list[Op]] = []
    forwards = 0
    for op in run.schedule.order(run.pipeline, rank):
        forwards += op.kind == "F"
        last_op = found[-1][-1] if found else None
        joins = last_op is not None and last_op.kind == "F" and op.kind == "B" and run.pipeline.ep_overlap
        if joins and forwards > run.schedule.warmup(run.pipeline, rank):
            assert last_op is not None
            assert last_op[1:] != op[1:]
            found[-1].append(op)
        else:
            found.append([op])
    return found


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


def side_by_side(ahead: Layers, back: Layers, fetched: Layers, in_flight: int, gathered: int) -> list[tuple[int, int]]:
    """A forward through one chunk beside a backward through another: bytes of both on the device, and on the host, at
    each step. Ends of the model run by themselves: before the layers the embedding forward and the head backward,
    behind them the head forward and the embedding backward."""
    first = next((n for n, layer in enumerate(ahead) if layer.layer), len(ahead))
    behind = max((n + 1 for n, layer in enumerate(ahead) if layer.layer), default=len(ahead))
    low = next((n for n, layer in enumerate(back) if layer.layer), len(back))
    high = max((n + 1 for n, layer in enumerate(back) if layer.layer), default=len(back))
    plan: list[str] = ["f"] * first + ["b"] * (len(back) - high)
    one, other = behind - first, high - low
    plan += ["fb"] * min(one, other) + ["b"] * max(0, other - one) + ["f"] * max(0, one - other)
    plan += ["f"] * (len(ahead) - behind) + ["b"] * low
    saved: list[int] = []  # places of the forward's layers that have run or run
    whole = list(range(len(back)))  # of the backward's that have not ended
    found = []
    for step in plan:
        extra = 0
        if "f" in step:
            saved.append(len(saved))
            extra += ahead[saved[-1]].forward + gathered
        if "b" in step:
            extra += back[whole[-1]].backward + gathered
        ours, theirs = near(ahead, saved, in_flight), near(back, whole, in_flight)
        left = sum(1 for n in whole[:-1] if back[n].offloadable)
        on = sum(kept(ahead[n]) for n in saved) + ours + sum(kept(back[n]) for n in whole) + theirs
        on += last(fetched, max(0, in_flight - left)) + extra
        off = sum(ahead[n].offloadable for n in saved) - ours + sum(back[n].offloadable for n in whole) - theirs
        found.append((on, off))
        if "b" in step:
            whole.pop()
    return found


def near(layers: Layers, places: list[int], in_flight: int) -> int:
    """Offloadable bytes on the device of the last of these layers, and of those before whose copies are in flight."""
    if not places:
        return 0
    return layers[places[-1]].offloadable + last([layers[n] for n in places[:-1]], in_flight)
