"""What a rank's worst moment is made of: the tensors kept for backward, and the parts of what is transient."""

from __future__ import annotations

from typing import NamedTuple

from archcalc.calc.activations import Saved, Savers
from archcalc.calc.liveness import backward_alive, forward_alive
from archcalc.training.chunk import head_of, linear_inputs, segment_memory, segment_rows
from archcalc.training.memory import RankMemory
from archcalc.training.moments import buffered_chunks, by_offload
from archcalc.training.run import Run
from archcalc.training.transient import head_transient, ring_buffers, routed_copies

REST = "not told apart"
"""The part that no name stands for."""

Parts = dict[str, int]
"""Bytes by what they are; what is freed is below 0."""


class Held(NamedTuple):
    """A tensor kept for backward: by which segment of the tape, and how many copies of it are on the device and in
    host memory (layers times micro-batches)."""

    segment: int
    row: Saved
    here: int
    outside: int


def held_tensors(run: Run, r: RankMemory) -> list[Held]:
    """Every tensor that a rank keeps at its worst moment; those on the device add up to its activations."""
    if r.state is None:
        return []
    found: dict[object, Held] = {}
    offloads = any(size.offloadable for size in r.chunk_memory)
    in_hand = buffered_chunks(r.state.live, by_offload(r.chunk_memory)) if offloads else (0,) * len(r.state.live)
    for chunk, live, waiting, near in zip(
        run.ranks[r.rank].chunks, r.state.live, r.state.waiting, in_hand, strict=True
    ):
        for n, count in chunk:
            needed = linear_inputs(run.tape.segments[n])
            for k, row in enumerate(segment_rows(run.tape, n, run.shards, run.savers)):
                leaves = run.offload is None or row.site in run.offload
                here = (near if leaves else live) + (waiting if row.storage in needed else 0)
                before = found.get((n, k), Held(n, row, 0, 0))
                outside = before.outside + (live - near) * count * leaves
                found[n, k] = Held(n, row, before.here + here * count, outside)
    return sorted(found.values(), key=lambda h: -(h.here + h.outside) * h.row.nbytes)


def transient_parts(run: Run, r: RankMemory) -> Parts:
    """What a rank's transient bytes are at its worst moment; the parts add up to them."""
    found: Parts = {"optimizer step": r.static.step}
    if r.state is not None:
        forward = r.state.op.kind == "F"
        found = {} if r.state.op.kind == "W" else _chunk_parts(run, r, r.state.op.chunk, forward=forward)
        found["messages"] = run.ranks[r.rank].messages[not forward]
    found[REST] = r.transient - sum(found.values())
    return {name: n for name, n in found.items() if n}


def _chunk_parts(run: Run, r: RankMemory, chunk: int, *, forward: bool) -> Parts:
    """Parts of the segment at which a chunk's run takes most, with what others bring and have freed."""
    pieces = [
        (n, count, segment_memory(run.tape, n, run.shards, run.savers, run.offload))
        for n, count in run.ranks[r.rank].chunks[chunk]
    ]
    gathered = r.static.gathered
    later = sum(count * size.saved for _, count, size in pieces)
    most: tuple[int, str, int, int] = (0, "", -1, 0)
    for n, count, size in pieces:
        later -= count * size.saved
        most = max(most, ((size.forward if forward else size.backward) + gathered - later, size.path, n, later))
    _, _, n, later = most
    if n < 0:
        return {}
    parts = _forward(run, n) if forward else _backward(run, n)
    return {**parts, "gathered weights": gathered, ("not made yet" if forward else "freed before"): -later}


def _forward(run: Run, n: int) -> Parts:
    """Parts of what one copy of a segment takes forward."""
    segment = run.tape.segments[n]
    loss = _loss(run, n)[0]
    if loss and segment.part != "mtp":
        return {"logits and loss": loss}
    kept = {row.storage for row in segment_rows(run.tape, n, run.shards, run.savers) if not row.fp8}
    alive = forward_alive(segment, run.shards, kept)
    copies = routed_copies(segment, run.shards, kept)
    if loss > max(alive.total, copies):
        return {"logits and loss": loss}
    if copies > alive.total:
        return {"routed copies": copies}
    return {"results nobody keeps": alive.results, "exchanged": alive.exchanged}


def _backward(run: Run, n: int) -> Parts:
    """Parts of what one copy of a segment takes backward, beside what it keeps."""
    segment, loss = run.tape.segments[n], _loss(run, n)
    if any(loss) and segment.part != "mtp":
        return {"logits and loss": loss[1]}
    kept = sum(row.nbytes for row in segment_rows(run.tape, n, run.shards, run.savers))
    bare = segment_rows(run.tape, n, run.shards, Savers(variants=run.savers.variants))
    whole = {row.storage: row.nbytes for row in bare}
    alive = backward_alive(segment, run.shards, whole)
    parts = {
        "recomputed": sum(row.nbytes for row in bare) - kept,
        "used up": alive.kept - sum(row.nbytes for row in bare),
        "gradients": alive.gradients,
        "exchanged": alive.exchanged + ring_buffers(segment, run.shards),
    }
    return {"logits and loss": loss[1]} if loss[1] > max(0, sum(parts.values())) else parts


def _loss(run: Run, n: int) -> tuple[int, int]:
    """Logits and loss of a segment, or of the head that a prediction module runs, forward and backward [bytes]."""
    segment = run.tape.segments[n]
    head = run.tape.segments[head_of(run.tape)] if segment.part == "mtp" else segment
    return head_transient(head, run.shards, run.savers) or (0, 0)
