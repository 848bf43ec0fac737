"""Training memory of every pipeline rank at its worst moment: static + live + transient + fixed, the
allocator last."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

from archcalc.training.chunk import ChunkMemory, SegmentMemory, chunk_memory, head_of, segment_memory
from archcalc.training.moments import Moment, described, moment, states
from archcalc.training.placement import Chunk
from archcalc.training.run import Run
from archcalc.training.schedule import most_live
from archcalc.training.static import Static
from archcalc.training.weight_grads import carried


@dataclass(frozen=True, slots=True, kw_only=True)
class RankMemory:
    """One pipeline rank at its worst moment [bytes]; `peak` has the allocator's efficiency in.

    `running` is the total at the worst moment of the pipeline, whatever the optimizer's step takes; `peak_first` the
    peak of the first iteration, which runs before the optimizer has made its moments and steps with them; `resting`
    what is allocated between steps.
    """

    rank: int
    static: Static
    live_chunks: int
    activation: int
    offloaded: int
    transient: int
    fixed: int
    cached: int
    workspaces: int
    total: int
    running: int
    peak: int
    peak_first: int
    resting: int
    moment: str
    chunk_memory: tuple[ChunkMemory, ...]


def training_memory(run: Run) -> list[RankMemory]:
    """Every pipeline rank at its worst moment."""
    used = {n for rank in run.ranks for chunk in rank.chunks for n, _ in chunk}
    segments = {n: segment_memory(run.tape, n, run.shards, run.savers, run.offload, run.weight_grads) for n in used}
    return [_rank_memory(run, rank, segments) for rank in range(run.pipeline.pp)]


def _rank_memory(run: Run, rank: int, segments: Mapping[int, SegmentMemory]) -> RankMemory:
    """The worst moment of one rank: the largest of its pipeline states, or the optimizer's step."""
    own = run.ranks[rank]
    held = own.static
    sizes = tuple(chunk_memory(_pieces(run, chunk, segments), held.gathered) for chunk in own.chunks)
    reached = states(run.schedule, run.pipeline, rank, offloaded=any(size.offloadable for size in sizes))
    largest = sorted(range(len(sizes)), key=lambda c: -sizes[c].offloadable)
    moments = [moment(state, sizes, largest, own.messages) for state in reached]
    peak = max(moments, key=lambda m: m.activation + m.transient)
    text = described(reached[moments.index(peak)], sizes)
    resting = held.params + held.grads + held.optimizer + held.buffers + run.fixed + own.cached + own.workspaces
    running = resting + peak.activation + peak.transient
    if held.step > peak.activation + peak.transient:
        peak, text = Moment(0, 0, held.step), "optimizer step"
    total = resting + peak.activation + peak.transient
    return RankMemory(
        rank=rank,
        static=held,
        live_chunks=most_live(run.schedule, run.pipeline, rank),
        activation=peak.activation,
        offloaded=max(m.offloaded for m in moments),
        transient=peak.transient,
        fixed=run.fixed,
        cached=own.cached,
        workspaces=own.workspaces,
        total=total,
        running=running,
        peak=run.fragmented(total),
        peak_first=run.fragmented(max(running - held.late, resting + held.step)),
        resting=run.fragmented(resting + own.left + held.copied),
        moment=text,
        chunk_memory=sizes,
    )


def _pieces(run: Run, chunk: Chunk, segments: Mapping[int, SegmentMemory]) -> Iterator[tuple[SegmentMemory, int]]:
    """The segments of a chunk. Where it has both ends of a shared weight, the head's gradient waits in all the others
    for the embedding's.

    The loader's mask is there while a chunk with embedding or head runs forward (Megatron-LM pretrain_gpt.py,
    get_batch: other stages get none), and until its backward where whole layers are recomputed, which start from their
    arguments (core/tensor_parallel/random.py, CheckpointFunction).
    """
    waits = carried(run.tape, (n for n, _ in chunk), run.shards, run.weight_grads)
    mask = run.mask if any(not run.tape.segments[n].indices for n, _ in chunk) else 0
    if not waits and not mask:
        yield from ((segments[n], count) for n, count in chunk)
        return
    head, kept = head_of(run.tape), mask if run.savers.whole else 0
    for n, count in chunk:
        piece = segments[n]
        here = 0 if n == head else waits
        piece = piece._replace(forward=piece.forward + mask - kept, backward=piece.backward + here)
        layer = bool(run.tape.segments[n].indices)
        if kept and layer:
            yield piece._replace(saved=piece.saved + kept), 1
        rest = count - bool(kept and layer)
        kept = 0 if layer else kept
        if rest:
            yield piece, rest


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


def worst(ranks: list[RankMemory]) -> RankMemory:
    """The rank with the highest peak, the first of equals."""
    return max(ranks, key=lambda r: (r.peak, -r.rank))
