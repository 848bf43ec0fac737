"""What a rank's worst moment is made of: the tensors kept for backward, and the parts of what is transient."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from archcalc.calc.activations import Saved, bare_rows, recomputed, saved_rows
from archcalc.calc.selective import leftover
from archcalc.training.chunk import ENDS_OF_MTP, At, SegmentMemory, layers_of, leaving, linear_inputs
from archcalc.training.memory import RankMemory, pieces_of, segment_of
from archcalc.training.overlap import overlap
from archcalc.training.run import Run
from archcalc.training.schedule import Op, State
from archcalc.training.transient import (
    loss_transient,
    ring_buffers,
    routed_copies,
    running_backward,
    running_forward,
)

REST = "not told apart"
"""The part that no name stands for."""

Piece = tuple[int, int, SegmentMemory]

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
    """Every tensor that a rank keeps at its worst moment; those on the device add up to its activations, but for a
    loader's mask that recomputed layers start from, and what is there of two micro-batches that run side by side."""
    if r.state is None:
        return []
    found: dict[object, Held] = {}
    state, near = r.state, _in_hand(run, r)
    whole = list(state.live)
    for each in (state.op, state.beside) if state.beside is not None else ():
        whole[each.chunk] -= 1
    for c, (chunk, live, waiting) in enumerate(zip(run.ranks[r.rank].chunks, whole, state.waiting, strict=True)):
        for n, count in chunk:
            segment = run.tape.segments[n]
            rows = saved_rows(segment, run.shards, run.savers)
            away = leaving(segment, run.shards, run.savers, rows, run.offload)
            needed = linear_inputs(segment, run.savers.variants)
            there = near.pop((c, n), 0)
            for k, row in enumerate(rows):
                leaves = row in away
                here = (there if leaves else live * count) + (waiting * count if row.storage in needed else 0)
                before = found.get((n, k), Held(n, row, 0, 0))
                outside = before.outside + (live * count - there) * leaves
                found[n, k] = Held(n, row, before.here + here, outside)
    return sorted(found.values(), key=lambda h: -(h.here + h.outside) * h.row.nbytes)


def _in_hand(run: Run, r: RankMemory) -> dict[tuple[int, int], int]:
    """Layers by chunk and segment whose offloadable tensors are on the device: the last of the chunk that runs, and
    those fetched of the one that goes backward next."""
    found: dict[tuple[int, int], int] = {}
    if r.state is None or r.state.beside is not None:
        return found
    kind, running, _ = r.state.op
    if kind != "W":
        pieces = _pieces(run, r, running)
        _last(found, running, pieces, run.in_flight + (pieces[-1][2].offloadable > 0))
    if kind in "FW" and r.state.following is not None:
        _last(found, r.state.following, _pieces(run, r, r.state.following), run.in_flight)
    return found


def _last(found: dict[tuple[int, int], int], chunk: int, pieces: list[Piece], layers: int) -> None:
    """Count the last layers of a chunk that offload something."""
    for n, count, size in reversed(pieces):
        taken = min(count, layers) if size.offloadable else 0
        found[chunk, n] = found.get((chunk, n), 0) + taken
        layers -= taken


def _pieces(run: Run, r: RankMemory, chunk: int) -> list[Piece]:
    """A chunk's segments by their place on the tape, how many copies, and their bytes: of a run of equal layers the
    first apart where it alone keeps the loader's mask."""
    held = run.ranks[r.rank].chunks[chunk]
    return list(pieces_of(run, r.rank, chunk, {n: segment_of(run, n) for n, _ in held}))


def transient_parts(run: Run, r: RankMemory) -> Parts:
    """What a rank's transient bytes are at its worst moment; the parts add up to them."""
    stepping = {"optimizer step": r.static.step, "messages": run.ranks[r.rank].left}
    found: Parts = stepping if r.moment == "optimizer step" else {}
    if r.state is not None and r.state.beside is not None:
        found = _side_by_side(run, r, r.state, r.state.beside) | {"messages": max(run.ranks[r.rank].messages)}
    elif r.state is not None:
        forward = r.state.op.kind == "F"
        found = {} if r.state.op.kind == "W" else _chunk_parts(run, r, r.state.op.chunk, forward=forward)
        found["messages"] = run.ranks[r.rank].messages[not forward]
    found[REST] = r.transient - sum(found.values())
    return {name: n for name, n in found.items() if n}


def _side_by_side(run: Run, r: RankMemory, state: State, beside: Op) -> Parts:
    """Parts of the two layers that run where a forward and a backward are side by side."""
    sizes = r.chunk_memory
    following = () if state.following is None else sizes[state.following].fetched
    both = overlap(sizes[beside.chunk], sizes[state.op.chunk], following)
    found: Counter[str] = Counter()
    for path, chunk, forward in ((both.forward_at, beside.chunk, True), (both.backward_at, state.op.chunk, False)):
        for n, _, size in _pieces(run, r, chunk):
            if size.path == path:
                own = segment_of(run, n)
                found.update(_forward(run, n) if forward else _backward(run, n))
                more = size.forward - own.forward if forward else size.backward - own.backward
                found.update({"loader's mask" if forward else "head's gradient": more})
                found["gathered weights"] += r.static.gathered
                break
    return dict(found)


def _chunk_parts(run: Run, r: RankMemory, chunk: int, *, forward: bool) -> Parts:
    """Parts of the layer at which a chunk's run takes most, with what others bring and have freed."""
    pieces, whole, gathered = _pieces(run, r, chunk), r.chunk_memory[chunk], r.static.gathered
    split = r.state is not None and r.state.op.kind == "I"
    flying = run.in_flight if whole.offloadable else 0
    following = None if r.state is None else r.state.following
    fetched = () if forward or following is None else r.chunk_memory[following].fetched

    def taken(at: At) -> tuple[int, int]:
        """What it takes there, and what is fetched meanwhile."""
        ahead = flying - at.before
        more = fetched[min(ahead, len(fetched)) - 1] if fetched and ahead > 0 else 0
        return (at.forward if forward else at.input_gradient if split else at.backward) - whole.in_hand, more

    found = layers_of([(size, count) for _, count, size in pieces], gathered, flying)[0]
    most = max(found, key=lambda at: (sum(taken(at)), at.segment.path), default=None)
    if most is None or sum(taken(most)) <= 0:
        return {}
    n = next(n for n, _, size in pieces if size == most.segment)
    parts = _forward(run, n) if forward else _backward(run, n)
    running, alone = most.segment, segment_of(run, n)
    beside, ahead = taken(most)
    if running.working is not None:
        return _sharded(run, parts, running, beside, forward=forward)
    ran, own, waits = (
        (running.forward, alone.forward, "loader's mask")
        if forward
        else (running.backward, alone.backward, "head's gradient")
    )
    others = "not made yet" if forward else "freed before"
    return {**parts, "gathered weights": gathered, others: beside - ran - gathered, waits: ran - own, "fetched": ahead}


def _sharded(run: Run, parts: Parts, segment: SegmentMemory, most: int, *, forward: bool) -> Parts:
    """Parts of a segment for which weights are gathered: while it runs, or before or after, when only they are."""
    w = segment.working
    assert w is not None
    running = (segment.forward + w.forward, w.forward) if forward else (segment.backward + w.backward, w.backward)
    alone = (
        ((w.entering - segment.saved, w.entering),)
        if forward
        else (
            (w.starting, w.starting),
            (w.leaving - segment.saved, w.leaving),
        )
    )
    total, gathered = max((running, *alone), key=lambda each: each[0])
    found = parts if (total, gathered) == running else {}
    others = "not made yet" if forward else "freed before"
    return {**found, "gathered weights": gathered, others: most - sum(found.values()) - gathered}


def _forward(run: Run, n: int) -> Parts:
    """Parts of what one copy of a segment takes forward."""
    segment = run.tape.segments[n]
    loss = _loss(run, n)
    if loss and segment.part != "mtp":
        return {"logits and loss": loss[0]}
    body = segment.without(ENDS_OF_MTP)
    kept = {row.storage for row in saved_rows(segment, run.shards, run.savers) if not row.fp8}
    alive = running_forward(body, run.shards, kept, run.savers.variants)
    copies = routed_copies(body, run.shards, kept)
    if loss and loss[0] > max(alive.total, copies):
        return {"logits and loss": loss[0]}
    if copies > alive.total:
        return {"routed copies": copies}
    return {"results nobody keeps": alive.results, "exchanged": alive.exchanged}


def _backward(run: Run, n: int) -> Parts:
    """Parts of what one copy of a segment takes backward, beside what it keeps."""
    segment, loss, how = run.tape.segments[n], _loss(run, n), run.savers.variants
    if loss and segment.part != "mtp":
        return {"logits and loss": loss[1]}
    if not segment.learns:
        return {}
    body = segment.without(ENDS_OF_MTP)
    kept = sum(row.nbytes for row in saved_rows(segment, run.shards, run.savers))
    bare = bare_rows(segment, run.shards, run.savers)
    alive = running_backward(body, run.shards, bare, how, run.weight_grads)
    parts = {
        "recomputed": sum(row.nbytes for row in bare) - kept,
        "used up": alive.kept - sum(row.nbytes for row in bare),
        "gradients": alive.gradients,
        "exchanged": alive.exchanged + ring_buffers(body, run.shards),
    }
    if run.savers.selective and recomputed(segment, run.savers):
        parts["kept to the layer's end"] = leftover(segment, run.shards, run.savers.selective, how)
    return {"logits and loss": loss[1]} if loss and loss[1] > max(0, sum(parts.values())) else parts


def _loss(run: Run, n: int) -> tuple[int, int] | None:
    """Logits and loss of a segment that has a head, forward and backward [bytes]."""
    segment = run.tape.segments[n]
    rows = saved_rows(segment, run.shards, run.savers)
    return loss_transient(segment, run.shards, run.savers, rows, run.weight_grads)
