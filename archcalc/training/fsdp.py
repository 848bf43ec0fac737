"""FSDP2: parameters, gradients and states divided over devices, each segment's weights gathered while it runs.

torch.distributed.fsdp `fully_shard`, as torchtitan applies it (models/llama3/parallelize_llama.py, `apply_fsdp`): one
group of parameters for the embedding, each layer, and final norm with head together; stacks of experts beside their
layer's. Bytes as the allocator hands them out in the host's order (torch 2.13, distributed/fsdp/_fully_shard).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from typing import NamedTuple

from archcalc.calc.sharding import Shards, local_bytes, local_elements, local_size
from archcalc.tape import Segment, Tape, Weight
from archcalc.training.chunk import ENDS_OF_MTP, Working
from archcalc.training.placement import Chunk, Held

ACTIVE_STAGES = 3
"""Virtual stages of a rank that torch keeps gathered under pipeline parallelism (distributed/pipelining/schedules.py,
`_add_unshard_reshard`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharding:
    """How a plan shards.

    Attributes:
        dense, expert: devices that a parameter is divided over, outside and inside a stack of experts.
        reshard: weights go after a segment's forward and are gathered again for its backward.
        reshard_last: those of the last group too.
        prefetch: groups gathered ahead of the running one: 1 is torch's own way, more are named by explicit lists.
        items: of a parameter and its gradient at rest, gathered, and while gradients are reduced [bytes].
        pipelined: gradients stay whole until a step's last backward, and so do weights once gathered.
        at_once: one micro-batch a step, whose backward makes the gradients.
        adds_up: replicas add up shards of gradients that are no gradients at rest: accumulated, or of another dtype.
    """

    dense: int
    expert: int
    reshard: bool
    reshard_last: bool
    prefetch: int
    items: tuple[int, int, int]
    pipelined: bool
    at_once: bool
    adds_up: bool = False

    def owners(self, w: Weight) -> int:
        """Devices that a weight is divided over."""
        return self.expert if w.stack else self.dense


def shard_elements(w: Weight, shards: Shards, devices: int) -> int:
    """Elements of one layer's weight on the fullest of the devices that share it, which all of them allocate.

    Each parameter is divided by rows, the last rows padded (_fsdp_param.py, `_init_sharded_param`); a stack with fewer
    experts than devices by its matrices' rows (torchtitan, models/llama4/infra/parallelize.py, `apply_fsdp`).
    """
    matrix = [local_size(d, shards) for d in (*w.out, *w.into)]
    if w.flat:
        matrix = [prod(matrix[: len(w.out)]), prod(matrix[len(w.out) :])]
    shape = [*(local_size(d, shards) for d in w.stack), *matrix]
    cut = 1 if w.stack and devices > shape[0] else 0
    shape[cut] = -(-shape[cut] // devices)
    return prod(shape)


def sharded(held: Held, shards: Shards, how: Sharding) -> tuple[list[tuple[Weight, int]], int]:
    """Weights with the elements of a rank's shards, all layers together, those that do not train too; and the elements
    of all that train before sharding."""
    parts = [(w, count * shard_elements(w, shards, how.owners(w))) for w, count in held if w.learnable]
    return parts, sum(count * local_elements(w, shards) for w, count in held if w.trained)


class Group(NamedTuple):
    """One copy of a segment's parameters [bytes].

    Attributes:
        weights: gathered.
        buffer: what the all-gather writes, from which they are copied out.
        sent: this device's shard in the dtype that is gathered, where that is not its own.
        alone: the largest weight in the dtype that is gathered, where one device has all and casts one by one.
        grads: whole, as the segment's backward makes them.
        last: those of the last weight, which stand until the reduction has begun.
        reduced: what the reduce-scatter reads.
        output: what it writes.
        resting: this device's part of the gradients.
        entry: the segment's input, whose gradient stands beside.
        learns: whether gradients pass it at all.
    """

    weights: int = 0
    buffer: int = 0
    sent: int = 0
    alone: int = 0
    grads: int = 0
    last: int = 0
    reduced: int = 0
    output: int = 0
    resting: int = 0
    entry: int = 0
    learns: bool = True


def group_of(segment: Segment, shards: Shards, how: Sharding, tied: Sequence[Weight] = ()) -> Group:
    """The parameters of a segment and of `tied` others that stand in its group: those that do not train are gathered
    all the same and have no gradient. A layer's last weight is a norm's, next to nothing (torchtitan,
    models/llama3/model.py, TransformerBlock). A prediction module's head is the model's own, of that one's group."""
    ops = segment.without(ENDS_OF_MTP).ops if segment.part == "mtp" else segment.ops
    own = dict.fromkeys(w for op in ops for w in op.weights if w.learnable)
    resting_item, item, reduce_item = how.items
    total = Group(entry=0 if segment.entry is None else local_bytes(segment.entry, shards), learns=segment.learns)
    for w in (*own, *(w for w in tied if w not in own)):
        devices = how.owners(w)
        part, whole = shard_elements(w, shards, devices), local_elements(w, shards)
        cast = item if item != resting_item else 0
        grads = 1 if w.trained else 0
        total = Group(
            weights=total.weights + item * devices * part,
            buffer=total.buffer + (item * devices * part if devices > 1 else 0),
            sent=total.sent + (cast * part if devices > 1 else 0),
            alone=max(total.alone, cast * part if devices == 1 else 0),
            grads=total.grads + grads * item * whole,
            last=grads * item * whole if devices > 1 and not segment.indices else 0,
            reduced=total.reduced + grads * reduce_item * devices * part,
            output=total.output + grads * reduce_item * part,
            resting=total.resting + grads * resting_item * part,
            entry=total.entry,
            learns=total.learns,
        )
    return total


def workings(tape: Tape, chunks: Sequence[Chunk], shards: Shards, how: Sharding) -> tuple[tuple[Working, ...], ...]:
    """For each chunk of a rank, what each copy of its segments takes while it runs, in forward order."""
    known: dict[int, Group] = {}
    groups: list[list[Group]] = []
    for chunk in chunks:
        for n, _ in chunk:
            known.setdefault(n, group_of(tape.segments[n], shards, how))
        groups.append([known[n] for n, count in chunk for _ in range(count)])
    if how.pipelined:
        return tuple(tuple(_in_pipeline(own, groups, how)) for own in groups)
    return tuple(
        tuple(_alone(own, _tied(tape, chunk, shards, how), how)) for chunk, own in zip(chunks, groups, strict=True)
    )


def _tied(tape: Tape, chunk: Chunk, shards: Shards, how: Sharding) -> Group | None:
    """Where embedding and head share a weight, embedding, norm and head are one group (torchtitan,
    models/qwen3/infra/parallelize.py, `apply_fsdp`)."""
    first, last = (tape.segments[chunk[i][0]] for i in (0, -1))
    ends = [[w for op in s.ops for w in op.weights if w.learnable] for s in (first, last)]
    if first is last or not set(map(id, ends[0])) & set(map(id, ends[1])):
        return None
    return group_of(last, shards, how, ends[0])


def _alone(groups: list[Group], tied: Group | None, how: Sharding) -> Iterator[Working]:
    """One stage: a whole forward, then a whole backward.

    Forward, a group's all-gather buffer stays until the next group has copied its own out; with explicit lists the
    buffers of those to come stand beside it. Backward, it goes at once and the group before is gathered; whole
    gradients are in the gathered dtype; the reduce-scatter of the group behind reads its input until this one's
    backward has ended (_fsdp_param_group.py, `wait_for_unshard`, `pre_backward`, `post_backward`; _fsdp_collectives.py,
    `foreach_reduce`). What replicas add up is held until the backward's end.
    """
    common = shared = Group()
    if tied is not None:
        groups = [Group(), *groups[1:-1], Group(entry=groups[-1].entry)]
        common, shared = tied, tied._replace(buffer=0)
    count = len(groups)
    stays = [not how.reshard or (i == count - 1 and not how.reshard_last) for i in range(count)]
    ahead = how.prefetch if how.prefetch > 1 else 0
    resting = _before(g.resting if how.at_once else 0 for g in groups)
    staying = _before(g.weights if stay else 0 for g, stay in zip(groups, stays, strict=True))
    outputs = _before(g.output if how.adds_up else 0 for g in groups)
    unmade = common.resting if how.at_once else 0
    for i, own in enumerate(groups):
        before = groups[i - 1] if i else common
        behind = groups[i + 1] if i + 1 < count else Group()
        kept = shared.weights + staying[i]
        to_come = groups[i + 1 : i + 1 + ahead]
        forward = own.weights + own.buffer + sum(g.buffer for g in to_come)
        copying = before.buffer + own.buffer + max(own.sent, own.weights + own.alone)
        first = max(0, i - how.prefetch)
        gathered = sum(g.buffer for g, stay in zip(groups[first:i], stays[first:i], strict=True) if not stay)
        again = 0 if stays[i] else own.buffer + own.alone
        held = kept + (shared.grads if i < count - 1 else 0) + outputs[count] - outputs[i + 1]
        now = Working(
            forward=kept + forward,
            entering=kept
            + max(
                copying + sum(g.buffer for g in to_come[:-1]),
                forward + max((g.sent for g in to_come), default=0),
            ),
            backward=held + own.weights + gathered + behind.reduced,
            starting=held + own.weights + max(again, gathered + before.sent) + behind.reduced + own.entry,
            leaving=held + gathered + max(own.grads, own.last + own.output) + own.reduced + own.entry,
            unmade_forward=unmade + resting[count],
            unmade_backward=unmade + resting[i + 1],
        )
        yield now if own.learns else now._replace(backward=0, starting=0, leaving=0)


def _before(sizes: Iterable[int]) -> list[int]:
    """By place, the sum of what stands before it; at the end all."""
    return list(accumulate(sizes, initial=0))


def _in_pipeline(own: list[Group], groups: Sequence[list[Group]], how: Sharding) -> Iterator[Working]:
    """A stage of a pipeline: torch holds weights and gradients whole between a step's micro-batches
    (distributed/pipelining/stage.py, `backward_maybe_with_nosync`), so that a layer's forward frees what the backward
    before has left, or nothing is gathered once the pipeline is full (`gathered_for_good`)."""
    everything, before = sum(g.weights for chunk in groups for g in chunk), _before(g.weights for g in own)
    for i, each in enumerate(own):
        held = everything - before[i] if how.reshard else 0
        gathered = own[i - 1].buffer if how.reshard and i else 0
        own_buffer = each.buffer + each.sent if how.reshard else 0
        now = Working(
            forward=held + own_buffer - each.sent if how.reshard else 0,
            entering=held + own_buffer,
            backward=held + gathered,
            starting=held + own_buffer + each.entry,
            leaving=held + gathered + each.grads + each.entry,
        )
        yield now if each.learns else now._replace(backward=0, starting=0, leaving=0)


def gathered_for_good(tape: Tape, chunks: Sequence[Chunk], shards: Shards, how: Sharding) -> int:
    """Weights of a rank that stay gathered for a whole step [bytes]: those of a pipeline's stages without resharding,
    of the largest that torch keeps at a time where a rank has more."""
    if not how.pipelined or how.reshard:
        return 0
    sums = [sum(count * group_of(tape.segments[n], shards, how).weights for n, count in chunk) for chunk in chunks]
    return sum(sorted(sums, reverse=True)[:ACTIVE_STAGES])


def runs(chunk: Chunk, own: Sequence[Working]) -> Iterator[tuple[int, int, Working]]:
    """Copies of a chunk's segments that take alike, (place on the tape, how many, what), in forward order."""
    places: Iterable[int] = (n for n, count in chunk for _ in range(count))
    last: tuple[int, Working] | None = None
    length = 0
    for item in zip(places, own, strict=True):
        if last is not None and item != last:
            yield last[0], length, last[1]
            length = 0
        last = item
        length += 1
    if last is not None:
        yield last[0], length, last[1]
