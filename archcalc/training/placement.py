"""Placement: which layers each rank's chunks hold, and the static bytes that follow."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from heapq import heapify, heapreplace
from itertools import groupby
from typing import NamedTuple

from archcalc.calc.sharding import Shards, local_elements
from archcalc.errors import InputError
from archcalc.tape import Tape, Weight
from archcalc.tape.values import ITEM_BYTES
from archcalc.training.optimizer import OPTIMIZERS, Optimizer, orthogonalized
from archcalc.training.plan import Parallel, Plan
from archcalc.training.schedule import get_schedule

Chunk = tuple[tuple[int, int], ...]
"""A chunk as runs of equal layers, (segment's place on the tape, how many copies), in forward order: kinds that take
turns stand in it more than once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Static:
    """What a rank holds whatever it runs [bytes]. `step` lives only while the optimizer runs."""

    params: int
    grads: int
    optimizer: int
    buffers: int
    step: int
    gathered: int


def shards_of(parallel: Parallel, imbalance: Fraction = Fraction(1)) -> Shards:
    """The mesh of one stage as the calculators know it."""
    return Shards(
        tp=parallel.tp,
        sp=parallel.sp,
        cp=parallel.cp,
        ep=parallel.ep,
        etp=parallel.etp,
        vocab_multiple=VOCAB_DIVISIBLE_BY * parallel.tp,
        imbalance=imbalance,
        ulysses=parallel.cp_comm == "a2a",
    )


VOCAB_DIVISIBLE_BY = 128
"""Megatron-LM pads the vocabulary to a multiple of this times tp (--make-vocab-size-divisible-by, training/tokenizer);
here only where tp does not divide it."""


def check_model(tape: Tape, parallel: Parallel) -> None:
    """Raises InputError where a model can't be divided so: heads, experts and widths, or a MoE over TP
    without SP."""
    has_experts = _divide_all(tape, shards_of(parallel))
    if has_experts and parallel.tp > 1 and not parallel.sp:
        raise InputError(
            "a mixture of experts over tp needs sp: Megatron-LM routes each token on one tensor-parallel device only",
            value=parallel.tp,
            hint="set parallel.sp=true",
        )
    if not has_experts and parallel.ep * parallel.etp > 1:
        raise InputError("ep and etp need routed experts, which this model does not have", value=parallel.ep)


@lru_cache(maxsize=256)
def _divide_all(tape: Tape, shards: Shards) -> bool:
    """Whether there are experts; raises where a weight can't be divided."""
    weights = tape.weights()
    for w in weights:
        local_elements(w, shards)
    if shards.cp > 1 and shards.ulysses:
        for heads in (d for op in tape.ops("backbone") if op.exchange == "context" for d in op.inputs[0].features):
            if heads.axis == "heads" and heads.size % (shards.tp * shards.cp):
                raise InputError(
                    f"{heads.name} {heads.size} can't be divided over tp x cp = {shards.tp * shards.cp} devices, as"
                    " cp_comm a2a does",
                    value=shards.cp,
                    hint="set parallel.cp_comm=p2p",
                )
    return any(w.stack for w in weights)


def stage_layers(layers: int, slots: int, layout: str | Sequence[int]) -> list[int]:
    """Layers of each stage. `auto`: as even as can be; the short stages are, in order, first, last, last but
    one, ...

    Raises:
        InputError: a layout of another length or sum, or more stages than there are layers for.
    """
    if not isinstance(layout, str):
        if len(layout) != slots or sum(layout) != layers:
            raise InputError(
                f"layout lists {len(layout)} stages with {sum(layout)} layers; the plan has {slots} stages, the model"
                f" {layers} layers",
                value=list(layout),
            )
        return list(layout)
    size, more = divmod(layers, slots)
    if size == 0:
        return [1] * layers + [0] * (slots - layers)
    short = [0, *range(slots - 1, 0, -1)][: slots - more]
    return [size + (slot not in short) for slot in range(slots)]


def chunks(tape: Tape, plan: Plan) -> list[list[Chunk]]:
    """`chunks[rank][vstage]`: embedding in the first stage, head and multi-token prediction in the last.

    Vision segments stand in the first stage, or nowhere where the tower runs decoupled.
    """
    return _chunks(
        tape,
        plan.parallel.pp,
        plan.parallel.vpp,
        _frozen(plan.parallel.layout),
        plan.schedule.kind,
        plan.vision.process,
    )


def _frozen(layout: str | list[int]) -> str | tuple[int, ...]:
    return layout if isinstance(layout, str) else tuple(layout)


@lru_cache(maxsize=256)
def _chunks(tape: Tape, pp: int, vpp: int, layout: str | tuple[int, ...], kind: str, process: str) -> list[list[Chunk]]:
    by_layer = {i: n for n, s in enumerate(tape.segments) if s.part == "backbone" for i in s.indices}
    ends = [n for n, s in enumerate(tape.segments) if s.part == "backbone" and not s.indices]
    first = [n for n, s in enumerate(tape.segments) if s.part in ("vision", "projector") and process == "first-stage"]
    last = [n for n, s in enumerate(tape.segments) if s.part == "mtp"]
    schedule = get_schedule(kind)
    slots = schedule.stages(pp, vpp)
    counts = stage_layers(len(by_layer), slots, layout)
    stages: list[Chunk] = []
    start = 0
    for slot, layers in enumerate(counts):
        held: list[tuple[int, int]] = []
        if slot == 0:
            held += [*((n, tape.segments[n].count) for n in first), (ends[0], 1)]
        turns = groupby(by_layer[i] for i in range(start, start + layers))
        held += [(n, len(list(same))) for n, same in turns]
        if slot == slots - 1:
            held += [*((n, tape.segments[n].count) for n in last), *((n, 1) for n in ends[1:])]
        start += layers
        stages.append(tuple(held))
    ranks = [[stages[stage] for stage in schedule.held(pp, vpp, rank)] for rank in range(pp)]
    empty = next((rank for rank, held_by in enumerate(ranks) if not any(held_by)), None)
    if empty is not None:
        raise InputError(
            f"pipeline rank {empty} would hold nothing: {len(by_layer)} layers over {slots} stages",
            value=pp,
            hint="use fewer pipeline stages, or list the layers of each stage under parallel.layout",
        )
    return ranks


@lru_cache(maxsize=1024)
def held_weights(tape: Tape, held: tuple[Chunk, ...], process: str) -> tuple[tuple[Weight, int], ...]:
    """Weights of a rank's chunks and how many layers' worth of each; one that two of its segments share
    counts once.

    A decoupled vision tower and its projector stand on every rank (K2.5, arXiv:2602.02276, section 4.5); a
    rank with a multi-token prediction module holds embedding and head too (Megatron-LM builds both there).
    """
    counts: dict[int, int] = {}
    for chunk in held:
        for n, count in chunk:
            counts[n] = counts.get(n, 0) + count
    if process == "decoupled":
        counts |= {n: s.count for n, s in enumerate(tape.segments) if s.part in ("vision", "projector")}
    found: dict[int, tuple[Weight, int]] = {}
    for n, count in counts.items():
        for op in tape.segments[n].ops:
            for w in op.weights:
                found[id(w)] = (w, count)
    if any(tape.segments[n].part == "mtp" for n in counts):
        shared = (w for s in tape.segments for op in s.ops for w in op.weights if w.of_vocabulary)
        for w in shared:
            found.setdefault(id(w), (w, 1))
    return tuple(found.values())


class Sharing(NamedTuple):
    """What static bytes depend on besides the weights: ZeRO level and the devices that share each kind of
    weight."""

    zero: int
    dense: int
    expert: int
    param_item: int
    grad_item: int
    optimizer: str


def static(tape: Tape, plan: Plan, held: tuple[Chunk, ...]) -> Static:
    """Weights, gradients, optimizer states and buffers of a rank that holds these chunks, under ZeRO
    [bytes]."""
    p = plan.parallel
    sharing = Sharing(
        p.zero,
        p.dense_dp * p.cp,
        p.expert_dp,
        ITEM_BYTES[DTYPES[plan.precision.params]],
        ITEM_BYTES[DTYPES[plan.precision.grads]],
        plan.precision.optimizer,
    )
    return _static(tape, held, plan.vision.process, shards_of(p), sharing)


DTYPES = {"bf16": "bfloat16", "fp32": "float32"}
"""Plan dtypes in torch's spelling."""


@lru_cache(maxsize=1024)
def _static(tape: Tape, held: tuple[Chunk, ...], process: str, shards: Shards, sharing: Sharing) -> Static:
    how = OPTIMIZERS[sharing.optimizer]
    zero = sharing.zero
    params = grads = states = buffers = step = layer = copied = 0
    weights = [(w, n, local_elements(w, shards)) for w, n in held_weights(tape, held, process)]
    for expert, devices in ((False, sharing.dense), (True, sharing.expert)):
        group = [(w, n, size) for w, n, size in weights if bool(w.stack) == expert and w.trainable]
        elements = sum(n * size for _, n, size in group)
        params += _shared(sharing.param_item * elements, devices if zero >= 3 else 1)
        grads += _shared(sharing.grad_item * elements, devices if zero >= 2 else 1)
        own = devices if zero >= 1 else 1
        states += _states(group, how, own, shards.ep)
        step = max(step, how.step * -(-elements // own), _orthogonalizing(group, how))
        copied += 4 * -(-elements // own)
        layer += sum(size for w, _, size in group if w.indices)
    buffers = sum(n * size * ITEM_BYTES[w.dtype] for w, n, size in weights if not w.trainable)
    gathered = (2 * sharing.param_item + sharing.grad_item) * layer if zero >= 3 else 0
    if sharing.grad_item < 4 and not how.low_precision_grads:
        step += copied
    return Static(params=params, grads=grads, optimizer=states, buffers=buffers, step=step, gathered=gathered)


def _shared(nbytes: int, devices: int) -> int:
    return -(-nbytes // devices)


def _states(group: Iterable[tuple[Weight, int, int]], how: Optimizer, devices: int, ep: int) -> int:
    """Optimizer states on the fullest device of a data-parallel group [bytes].

    Slices are even; whole matrices (Muon) are handed out largest first to the device that holds least
    (Megatron-LM's LayerWiseDistributedOptimizer gives whole matrices too).
    """
    flat, matrices = 0, []
    for w, n, size in group:
        if how.whole_matrices and orthogonalized(w):
            stack = w.stack[0].size // ep if w.stack else 1
            matrices.append((how.state_bytes(w) * (size // stack), n * stack))
        else:
            flat += how.state_bytes(w) * n * size
    return _shared(flat, devices) + _fullest(tuple(sorted(matrices, reverse=True)), devices)


@lru_cache(maxsize=1024)
def _fullest(matrices: tuple[tuple[int, int], ...], devices: int) -> int:
    """The most bytes on one of `devices` when (bytes, count) items go, largest first, to whichever holds
    least."""
    if devices == 1:
        return sum(size * count for size, count in matrices)
    loads = [0] * devices
    heapify(loads)
    for size, count in matrices:
        whole, rest = divmod(count, devices)
        if whole and loads.count(loads[0]) == devices:
            loads = [load + whole * size for load in loads]
            count = rest
        for _ in range(count):
            heapreplace(loads, loads[0] + size)
    return max(loads)


def _orthogonalizing(group: Sequence[tuple[Weight, int, int]], how: Optimizer) -> int:
    """Working set of one Newton-Schulz iteration in bf16: the matrix, its product and its square, four times
    its size."""
    if not how.whole_matrices:
        return 0
    return max((8 * w.matrix for w, _, _ in group if orthogonalized(w)), default=0)
