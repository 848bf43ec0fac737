"""Training memory of every pipeline rank at its worst moment: static + live + transient + fixed, the
allocator last."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice

from archcalc.training.chunk import ChunkMemory, SegmentMemory, chunk_memory, segment_memory
from archcalc.training.moments import Moment, described, moment, states
from archcalc.training.phases import backward_moment, forward_moment, frozen_memory
from archcalc.training.placement import Chunk
from archcalc.training.run import Run
from archcalc.training.schedule import State, ended_states, most_live
from archcalc.training.static import Static
from archcalc.training.weight_grads import waiting


@dataclass(frozen=True, slots=True, kw_only=True)
class RankMemory:
    """One pipeline rank at its worst moment [bytes]; `peak` has the allocator's efficiency in.

    `running` is the total at the worst moment of the pipeline, whatever the optimizer's step takes; `peak_first` the
    peak of the first iteration, which runs before the optimizer has made its moments and steps with them; `resting`
    what is allocated between steps. `moments` are the worst of each part of the step, in order; the peak is the largest
    of them. `state` is what the schedule has alive then, None outside the pipeline. `unmade` of the gradients in
    `static` isn't there at that moment.
    """

    rank: int
    static: Static
    live_chunks: int
    activation: int
    offloaded: int
    transient: int
    unmade: int
    fixed: int
    cached: int
    workspaces: int
    total: int
    running: int
    peak: int
    peak_first: int
    resting: int
    moment: str
    state: State | None
    chunk_memory: tuple[ChunkMemory, ...]
    moments: tuple[Moment, ...]


def training_memory(run: Run) -> list[RankMemory]:
    """Every pipeline rank at its worst moment."""
    used = {n for rank in run.ranks for chunk in rank.chunks for n, _ in chunk}
    segments = {n: segment_of(run, n) for n in used}
    return [_rank_memory(run, rank, segments) for rank in range(run.pipeline.pp)]


def segment_of(run: Run, n: int) -> SegmentMemory:
    """One copy of the segment at a place of the tape."""
    segment = run.tape.segments[n]
    if segment.part == "vision" and not segment.learns:
        return frozen_memory(run.tape, n, run.shards)
    return segment_memory(run.tape, n, run.shards, run.savers, run.offload, run.weight_grads)


def _rank_memory(run: Run, rank: int, segments: Mapping[int, SegmentMemory]) -> RankMemory:
    """One rank at the largest of its moments, the first of equals: the phases of a decoupled tower around the
    pipeline's worst moment, then the optimizer's step, beside the messages that stay between steps."""
    own = run.ranks[rank]
    held = own.static
    sizes = tuple(
        chunk_memory(((size, n) for _, n, size in pieces_of(run, rank, c, segments)), held.gathered, run.in_flight)
        for c in range(len(own.chunks))
    )
    running, offloaded = _pipeline(run, rank, sizes)
    moments = [running, Moment(0, 0, held.step + own.left, "optimizer step", "optimizer step")]
    if run.tower is not None:
        outputs = 0 if own.entry is None else run.entering * run.tower.outputs
        moments.insert(0, forward_moment(run.tower, run.shards, held.gathered, outputs))
        if run.tower.learns:
            back = backward_moment(run.tower, run.shards, run.savers, held.gathered, outputs, run.weight_grads)
            moments.insert(2, back)
    peak = max(moments, key=lambda m: m.total)
    resting = held.params + held.grads + held.optimizer + held.buffers + run.fixed + own.cached + own.workspaces
    total = resting + peak.total
    return RankMemory(
        rank=rank,
        static=held,
        live_chunks=most_live(run.schedule, run.pipeline, rank),
        activation=peak.activation,
        offloaded=offloaded,
        transient=peak.transient,
        unmade=peak.unmade,
        fixed=run.fixed,
        cached=own.cached,
        workspaces=own.workspaces,
        total=total,
        running=resting + running.total,
        peak=run.fragmented(total),
        peak_first=run.fragmented(resting + max(*(m.total - held.late for m in moments[:-1]), moments[-1].total)),
        resting=run.fragmented(resting + own.left + held.copied),
        moment=peak.text,
        state=peak.state,
        chunk_memory=sizes,
        moments=tuple(moments),
    )


def _pipeline(run: Run, rank: int, sizes: tuple[ChunkMemory, ...]) -> tuple[Moment, int]:
    """The worst moment of a rank's forwards and backwards, and the most that they have in host memory [bytes]."""
    own = run.ranks[rank]
    offloads = any(size.offloadable for size in sizes)
    reached = [(state, 0) for state in states(run.schedule, run.pipeline, rank, offloaded=offloads)]
    outputs = 0
    if run.tower is not None and own.entry is not None:  # gradients grow as chunks are freed: any state may be worst
        outputs = run.tower.outputs
        if run.tower.learns:
            reached = list(ended_states(run.schedule, run.pipeline, rank, own.entry, ahead=offloads))
    moments = []
    entering = run.entering
    for state, ended in reached:
        now = moment(state, sizes, own.messages)
        moments.append(now._replace(activation=now.activation + (entering + ended) * outputs) if outputs else now)
    totals = [now.activation + now.transient - now.unmade for now in moments]
    n = totals.index(max(totals))
    text = described(reached[n][0], sizes)
    if outputs:
        several = "es" if run.entering > 1 else ""
        text += f"; vision outputs of {run.entering} micro-batch{several}, gradients of {reached[n][1] or 'none'}"
    return moments[n]._replace(text=text, phase="pipeline", state=reached[n][0]), max(m.offloaded for m in moments)


def pieces_of(
    run: Run, rank: int, chunk: int, segments: Mapping[int, SegmentMemory]
) -> Iterator[tuple[int, int, SegmentMemory]]:
    """The segments of a rank's chunk: place on the tape, how many copies in a row, and what each takes, with the
    gradients of shared weights that wait meanwhile.

    The loader's mask is there while a chunk with embedding or head runs forward (Megatron-LM pretrain_gpt.py,
    get_batch: other stages get none), and until its backward where whole layers are recomputed, which start from their
    arguments (core/tensor_parallel/random.py, CheckpointFunction).
    """
    held = run.ranks[rank].chunks[chunk]
    waits = waiting(run.tape, held, run.shards, run.weight_grads)
    mask = run.mask if any(not run.tape.segments[n].indices for n, _ in held) else 0
    pieces = (
        (n, count, segments[n] if own is None else segments[n]._replace(working=own))
        for n, count, own in run.ranks[rank].pieces(chunk)
    )
    if not waits and not mask:
        yield from pieces
        return
    keeper = _keeper(run, held) if mask else None
    positions = iter([i for i, (_, count) in enumerate(held) for _ in range(count)])
    kept = False
    for n, count, piece in pieces:
        i = next(islice(positions, count - 1, None)) if count > 1 else next(positions)
        here = mask if keeper is None or i < keeper else 0  # behind it the mask is among what is kept
        piece = piece._replace(forward=piece.forward + here, backward=piece.backward + waits.get(i, 0))
        first, kept = i == keeper and not kept, kept or i == keeper
        if first:
            yield n, 1, piece._replace(saved=piece.saved + mask)
        if count > first:
            yield n, count - first, piece


def _keeper(run: Run, chunk: Chunk) -> int | None:
    """Which segment of a chunk is the first recomputed layer."""
    tape = run.tape
    whole = [i for i, (n, _) in enumerate(chunk) if tape.segments[n].indices and tape.segments[n].part == "backbone"]
    return whole[0] if run.savers.whole and whole else None


def one_layer_extra(run: Run, factor: float) -> int:
    """What one micro-batch in one MoE layer takes more if `factor` times the mean of its routed rows come to
    a device [bytes]."""
    worst_case = run.routed(Fraction(str(factor)))
    more = [0]
    for n, segment in enumerate(run.tape.segments):
        if any(op.exchange == "send" for op in segment.ops):
            before, after = (segment_memory(run.tape, n, each.shards, run.savers) for each in (run, worst_case))
            kept = after.saved - before.saved
            more += [kept + after.forward - before.forward, kept + after.backward - before.backward]
    return max(more)


def worst(ranks: Sequence[RankMemory]) -> RankMemory:
    """The rank with the highest peak, the first of equals."""
    return max(ranks, key=lambda r: (r.peak, -r.rank))
