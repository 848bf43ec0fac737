"""A vision tower outside the pipeline's order: the phases of a decoupled one, the passage of a frozen one.

Decoupled Encoder Process (Kimi K2.5, arXiv:2602.02276, section 4.5.1): the tower stands on every device. First it runs
forward over the pictures of the whole step, dealt evenly to all devices; of that only its outputs stay, gathered on the
first stage. Then the backbone trains as on text, and the gradients of those outputs add up there. Last, every device
runs its share of the tower again, with its backward.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from archcalc.arch.projector.projector import Projector
from archcalc.arch.vision.tower import Group, Tower
from archcalc.calc.activations import Savers
from archcalc.calc.liveness import forward_alive
from archcalc.calc.sharding import Shards, local_bytes
from archcalc.files.storage import Storage
from archcalc.tape import Segment, Tape, product
from archcalc.tape.values import ITEM_BYTES
from archcalc.training.chunk import ChunkMemory, SegmentMemory, Working, chunk_memory, segment_memory
from archcalc.training.fsdp import runs, workings
from archcalc.training.images import Sight
from archcalc.training.moments import Moment
from archcalc.training.parts import Train, trained_tape
from archcalc.training.placement import Chunk
from archcalc.training.plan import Plan
from archcalc.training.rank import sharding
from archcalc.training.weight_grads import NO_GRADS, WeightGrads
from archcalc.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class TowerLoad:
    """What a decoupled tower has to do in a step.

    Attributes:
        tape: of the tower and its projector over what runs at a time on one device.
        pictures: images and chunks of video frames of the device that gets most.
        share: outputs of those [bytes].
        outputs: of one micro-batch of the pipeline, on one device of the first stage [bytes].
        workings: what copies of the tape's segments gather under FSDP2, in order; else none.
    """

    tape: Tape
    pictures: int
    share: int
    outputs: int
    workings: tuple[Working, ...] = ()

    @property
    def learns(self) -> bool:
        """Whether anything of both is trained; else they have no backward, and their outputs no gradient."""
        return any(segment.learns for segment in self.tape.segments)


def tower_load(
    tower: Tower, projector: Projector, plan: Plan, seen: Sight, shards: Shards, storage: Storage | None = None
) -> TowerLoad:
    """What a decoupled tower has to do under a plan.

    Pictures of each size are dealt to all devices alike, whole ones, rounded up; those that run together are the
    largest of the fullest device. Outputs on the first stage are divided as the backbone's rows are: over cp, and over
    tp with sequence parallelism.
    """
    sequences = plan.batch.global_tokens // plan.batch.seq
    dealt = [(group, -(-count * sequences // plan.parallel.world)) for group, count in seen.groups]
    together: list[Group] = []
    for group, count in dealt:
        together += [group] * min(count, plan.vision.micro_batch - len(together))
    tape = Tape(Workload(phase="train", seq=0, groups=tuple((g.t, g.h, g.w) for g in together)))
    projector.forward(tape, tower.forward(tape))
    tape = trained_tape(tape, Train(vision=plan.train.vision, projector=plan.train.projector), storage)
    each = sum(s.count * _token_bytes(s) for s in tape.segments if s.part == "projector")
    rows = -(-plan.batch.micro_batch * seen.tokens // shards.rows_divisor((), ()))
    return TowerLoad(
        tape=tape,
        pictures=sum(count for _, count in dealt),
        share=each * sum(count * tower.tokens([group]) for group, count in dealt),
        outputs=each * rows,
        workings=_gathers(tape, plan, shards),
    )


def _gathers(tape: Tape, plan: Plan, shards: Shards) -> tuple[Working, ...]:
    """What the tower's phases gather under FSDP2: they are no stage of a pipeline, and run more than once a step."""
    how = sharding(plan)
    if how is None:
        return ()
    (found,) = workings(tape, (_whole(tape),), shards, replace(how, pipelined=False, at_once=False))
    return found


def _whole(tape: Tape) -> Chunk:
    """The tower and its projector as one chunk."""
    return tuple((n, segment.count) for n, segment in enumerate(tape.segments))


def _pieces(tape: Tape, gathers: tuple[Working, ...]) -> Iterator[tuple[int, int, Working | None]]:
    """Its segments in runs of copies that take alike, as `Rank.pieces` has those of a chunk."""
    yield from runs(_whole(tape), gathers) if gathers else ((n, count, None) for n, count in _whole(tape))


def _token_bytes(segment: Segment) -> int:
    """One row of what a projector makes [bytes]."""
    made = segment.ops[-1].outputs[0]
    return product(made.features) * ITEM_BYTES[made.dtype]


def forward_moment(load: TowerLoad, shards: Shards, gathered: int, held: int) -> Moment:
    """The first phase on a device: nothing is kept but outputs, its own and, on the first stage, `held` of all
    micro-batches [bytes]; `gathered` is ZeRO-3's working set."""
    pieces = [(n, own or Working()) for n, _, own in _pieces(load.tape, load.workings)]
    passing = max(max(passage(load.tape, n, shards) + w.forward, w.entering) for n, w in pieces)
    text = f"vision forward, before the backbone's: {_dealt(load)}, of which outputs stay"
    return Moment(load.share + held, 0, passing + gathered, text, "vision forward")


def backward_moment(
    load: TowerLoad, shards: Shards, savers: Savers, gathered: int, held: int, grads: WeightGrads = NO_GRADS
) -> Moment:
    """The last phase on a device: the tower again, what it keeps, its backward (with the gradient of what it makes
    again, which stands for that itself), and the gradients of its share's outputs; on the first stage beside those of
    all micro-batches that it sends."""
    run = tower_chunk(load.tape, shards, savers, grads, load.workings)
    text = f"vision recomputation and backward, behind the backbone's: {_dealt(load)}"
    transient = max(run.forward, run.backward) + gathered
    return Moment(run.saved + load.share + held, 0, transient, text, "vision backward")


def _dealt(load: TowerLoad) -> str:
    return f"{load.pictures:,} pictures a device, {len(load.tape.workload.groups)} at a time"


@lru_cache(maxsize=256)
def tower_chunk(
    tape: Tape, shards: Shards, savers: Savers, grads: WeightGrads = NO_GRADS, gathers: tuple[Working, ...] = ()
) -> ChunkMemory:
    """The tower and its projector as one chunk, trained."""
    pieces = (
        (segment_memory(tape, n, shards, savers, frozenset(), grads)._replace(working=own), count)
        for n, count, own in _pieces(tape, gathers)
    )
    return chunk_memory(pieces)


@lru_cache(maxsize=1024)
def passage(tape: Tape, n: int, shards: Shards) -> int:
    """What one copy of a tower's segment takes forward when nobody keeps anything for backward [bytes].

    Its results, its input, the pixels (the caller's all the while), and the features of earlier layers that wait for
    the projector.
    """
    segment = tape.segments[n]
    first = next(s for s in tape.segments if s.part == "vision")
    beside = sum(local_bytes(pixels, shards) for pixels in first.ops[0].inputs)
    if segment.part == "vision":
        waiting = (s for s in tape.segments if s.part == "projector" and s.indices and s.entry is not None)
        beside += sum(s.count * local_bytes(s.entry, shards) for s in waiting if s.entry is not None)
    return beside + forward_alive(segment, shards, frozenset(), entry=True).total


def frozen_memory(tape: Tape, n: int, shards: Shards) -> SegmentMemory:
    """One copy of a segment of a frozen tower: a forward, and nothing kept."""
    segment, forward = tape.segments[n], passage(tape, n, shards)
    return SegmentMemory(segment.name, 0, 0, 0, forward, 0, layer=bool(segment.indices))
