"""Training memory of every pipeline rank at its worst moment: static + live + transient + fixed, the
allocator last."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from archcalc.training.chunk import ChunkMemory, SegmentMemory, chunk_memory, segment_memory
from archcalc.training.moments import Moment, described, moment, states
from archcalc.training.run import Run
from archcalc.training.schedule import most_live
from archcalc.training.static import Static


@dataclass(frozen=True, slots=True, kw_only=True)
class RankMemory:
    """One pipeline rank at its worst moment [bytes]; `peak` has the allocator's efficiency in.

    `running` is the total at the worst moment of the pipeline, whatever the optimizer's step takes. `unmade` of the
    gradients in `static` isn't there at that moment.
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
    total: int
    running: int
    peak: int
    moment: str
    chunk_memory: tuple[ChunkMemory, ...]


def training_memory(run: Run) -> list[RankMemory]:
    """Every pipeline rank at its worst moment."""
    used = {n for rank in run.ranks for chunk in rank.chunks for n, _ in chunk}
    item = run.weight_item
    segments = {n: segment_memory(run.tape, n, run.shards, run.savers, run.offload, item) for n in used}
    return [_rank_memory(run, rank, segments) for rank in range(run.pipeline.pp)]


def _rank_memory(run: Run, rank: int, segments: Mapping[int, SegmentMemory]) -> RankMemory:
    """The worst moment of one rank: the largest of its pipeline states, or the optimizer's step."""
    own = run.ranks[rank]
    held = own.static
    sizes = tuple(
        chunk_memory(((segments[n], count) for n, count in chunk), held.gathered, workings)
        for chunk, workings in own.pieces()
    )
    reached = states(run.schedule, run.pipeline, rank, offloaded=any(size.offloadable for size in sizes))
    largest = sorted(range(len(sizes)), key=lambda c: -sizes[c].offloadable)
    moments = [moment(state, sizes, largest, own.messages) for state in reached]
    peak = max(moments, key=lambda m: m.activation + m.transient - m.unmade)
    text = described(reached[moments.index(peak)], sizes)
    resting = held.params + held.grads + held.optimizer + held.buffers + run.fixed + own.cached
    running = resting + peak.activation + peak.transient - peak.unmade
    if held.step > peak.activation + peak.transient - peak.unmade:
        peak, text = Moment(0, 0, held.step), "optimizer step"
    total = resting + peak.activation + peak.transient - peak.unmade
    return RankMemory(
        rank=rank,
        static=held,
        live_chunks=most_live(run.schedule, run.pipeline, rank),
        activation=peak.activation,
        offloaded=max(m.offloaded for m in moments),
        transient=peak.transient,
        unmade=peak.unmade,
        fixed=run.fixed,
        cached=own.cached,
        total=total,
        running=running,
        peak=run.fragmented(total),
        moment=text,
        chunk_memory=sizes,
    )


def one_layer_extra(run: Run, factor: float) -> int:
    """What one micro-batch in one MoE layer takes more if `factor` times the mean of its routed rows come to
    a device [bytes]."""
    worst_case = run.routed(Fraction(str(factor)))
    more = [0]
    for n, segment in enumerate(run.tape.segments):
        if any(op.exchange == "send" for op in segment.ops):
            before, after = (
                segment_memory(run.tape, n, each.shards, run.savers, weight_item=run.weight_item)
                for each in (run, worst_case)
            )
            kept = after.saved - before.saved
            more += [kept + after.forward - before.forward, kept + after.backward - before.backward]
    return max(more)


def worst(ranks: list[RankMemory]) -> RankMemory:
    """The rank with the highest peak, the first of equals."""
    return max(ranks, key=lambda r: (r.peak, -r.rank))
