"""What a rank holds whatever it runs: weights, gradients, optimizer states and buffers, under ZeRO."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from archcalc.calc.sharding import Shards, local_elements, local_features
from archcalc.tape import Storage, Tape, Weight
from archcalc.tape.values import ITEM_BYTES
from archcalc.training.fsdp import Sharding, gathered_for_good, sharded
from archcalc.training.optimizer import OPTIMIZERS, Item, Optimizer, orthogonalized
from archcalc.training.owners import Fused, Load, fullest, handed_out
from archcalc.training.packed import held_bytes
from archcalc.training.placement import Chunk, Held


@dataclass(frozen=True, slots=True, kw_only=True)
class Static:
    """What a rank holds whatever it runs [bytes]. `step` lives only while the optimizer runs; `late` is the part of
    `optimizer` that its first step makes, `copied` the fp32 copies of gradients that a step makes, which stay until the
    next one's gradients are zeroed (Megatron-LM core/optimizer/optimizer.py, MixedPrecisionOptimizer); `host` is in
    host memory: states and, for the step, fp32 gradients; `states` are all that the device writes into a checkpoint,
    wherever they are."""

    params: int
    grads: int
    optimizer: int
    buffers: int
    step: int
    gathered: int
    late: int = 0
    copied: int = 0
    host: int = 0
    states: int = 0


class Owners(NamedTuple):
    """The ZeRO level, and the devices that share the weights outside stacks of experts, and those inside."""

    zero: int
    dense: int
    expert: int


def static(
    held: Sequence[tuple[Weight, int, int]],
    shards: Shards,
    owners: Owners,
    items: tuple[int, int],
    optimizer: str,
    *,
    whole: Fused | None = None,
    offload: Fraction = Fraction(0),
) -> Static:
    """Weights, gradients, optimizer states and buffers of a rank that holds these weights [bytes].

    A weight that rests is held, packed or not, and has neither gradient nor state; ZeRO-3 divides it all the same.

    Args:
        held: how many layers' worth of each weight, and one layer's elements on the device.
        items: of a parameter and of its gradient [bytes].
        optimizer: by name.
        whole: which weights are one parameter, where parameters of all kinds go to devices whole; else None.
        offload: share of the optimizer's parameters whose states are on the host, where they are stepped.
    """
    zero, (param_item, grad_item) = owners.zero, items
    how = OPTIMIZERS[optimizer].beside(param_item)
    params = grads = states = late = step = layer = copied = host = leaving = saved = 0
    for expert, devices in ((False, owners.dense), (True, owners.expert)):
        here = [(w, n, size) for w, n, size in held if bool(w.stack) == expert and w.learnable]
        plain = [(w, n, param_item * size) for w, n, size in here if w.packed is None]
        held_here = [*plain, *((w, n, held_bytes(w, shards, param_item)) for w, n, _ in here if w.packed is not None)]
        params += _shared(sum(n * size for _, n, size in held_here), devices if zero >= 3 else 1)
        group = [each for each in here if each[0].trained]
        elements = sum(n * size for _, n, size in group)
        grads += _shared(grad_item * elements, devices if zero >= 2 else 1)
        own = devices if zero >= 1 else 1
        load = _load(group, how, own, shards.ep) if whole is None else fullest(group, how, own, shards.ep, whole)
        here_too = load.staying(offload)
        host += load.states - here_too.states + 4 * (load.elements - here_too.elements)
        saved += _shared(load.states, 1 if zero >= 1 else devices)
        states += here_too.states
        late += here_too.late
        step = max(step, how.step * here_too.elements, _orthogonalizing(group, how) if offload < 1 else 0)
        copied += 4 * here_too.elements
        if offload:
            leaving = max(leaving, 4 * min(_largest(group, shards.ep), load.elements))
        layer += 2 * _layers(held_here) + grad_item * _layers(group)
    buffers = sum(n * size * ITEM_BYTES[w.dtype] for w, n, size in held if not w.learnable)
    gathered = layer if zero >= 3 else 0
    if grad_item == 4 or how.low_precision_grads:
        copied = leaving = 0
    return Static(
        params=params,
        grads=grads,
        optimizer=states,
        buffers=buffers,
        step=step + copied + leaving,
        gathered=gathered,
        late=late,
        copied=copied,
        host=host,
        states=saved,
    )


def _largest(group: Iterable[tuple[Weight, int, int]], ep: int) -> int:
    """Elements of the largest parameter: its gradient becomes fp32 on the device before it leaves for the host."""
    return max((size // (w.stack[0].size // ep if w.stack else 1) for w, _, size in group), default=0)


def _layers(group: Iterable[tuple[Weight, int, int]]) -> int:
    """One layer of each kind: of a kind that is divided once."""
    return sum({id(w.whole or w): size for w, _, size in group if w.indices}.values())


def static_sharded(
    tape: Tape, chunks: Sequence[Chunk], held: Held, shards: Shards, how: Sharding, optimizer: str
) -> Static:
    """The same under FSDP2 [bytes]: every parameter by rows on its own, states as the optimizer's tensors are divided.

    Under pipeline parallelism gradients lie whole, in the dtype they are reduced in, until the step's last backward,
    and weights may stay gathered: see `gathered_for_good`.
    """
    item, _, reduce_item = how.items
    states = OPTIMIZERS[optimizer].beside(item)
    parts, whole = sharded(held, shards, how)
    rest = sum(size for w, size in parts if not w.trained)
    parts = [(w, size) for w, size in parts if w.trained]
    elements = sum(size for _, size in parts)
    buffers = sum(n * local_elements(w, shards) * ITEM_BYTES[w.dtype] for w, n in held if not w.learnable)
    copied = 4 * elements if item < 4 and not states.low_precision_grads else 0
    matrices = [(w, 0, 0) for w, _ in parts]
    held_states = sum(states.state_bytes(w) * size for w, size in parts)
    return Static(
        params=item * (elements + rest) + gathered_for_good(tape, chunks, shards, how),
        grads=reduce_item * whole if how.pipelined else item * elements,
        optimizer=held_states,
        buffers=buffers,
        step=max(states.step * elements, _orthogonalizing(matrices, states)) + copied,
        gathered=0,
        late=sum(states.late_bytes(w) * size for w, size in parts),
        copied=copied,
        states=held_states,
    )


def _shared(nbytes: int, devices: int) -> int:
    return -(-nbytes // devices)


def _load(group: Iterable[tuple[Weight, int, int]], how: Optimizer, devices: int, ep: int) -> Load:
    """What the fullest device of a data-parallel group owns.

    Slices are even; whole matrices (Muon) are handed out largest first to the device that holds least (Megatron-LM
    core/optimizer/layer_wise_optimizer.py, compute_layer_wise_param_ownership), and what Muon leaves alone is sliced
    (is_managed_by_layer_wise_optimizer: the rest is the distributed optimizer's). All matrices take alike a parameter,
    so that their elements say who holds most.
    """
    plain = matrix = 0
    matrices = []
    for w, n, size in group:
        if not orthogonalized(w):
            plain += n * size
        elif how.whole_matrices:
            stack = w.stack[0].size // ep if w.stack else 1
            matrices.append((size // stack, n * stack))
        else:
            matrix += n * size
    whole = handed_out(sorted(matrices, reverse=True), devices)

    def most(item: Item) -> int:
        return _shared(item.plain * plain + item.matrix * matrix, devices) + item.matrix * whole

    return Load(most(how.states), most(how.late_states), most(Item(1, 1)))


def _orthogonalizing(group: Sequence[tuple[Weight, int, int]], how: Optimizer) -> int:
    """Working set of one Newton-Schulz iteration in bf16: the matrix, its product and its square, four times
    its size."""
    if not how.whole_matrices:
        return 0
    return max((8 * w.matrix for w, _, _ in group if orthogonalized(w)), default=0)


def placeholders(tape: Tape, held: Held, shards: Shards) -> int:
    """Elements of one tensor of each distinct local shape among the weights that linears multiply with.

    Placeholder gradients: where the weight-gradient GEMM adds into the main gradient itself, autograd still
    gets a tensor, and one of each distinct weight shape is cached (TransformerEngine pytorch/module/base.py,
    get_dummy_wgrad; Megatron-LM core/tensor_parallel/layers.py for the head). Linears of one site with one
    input are one fused weight: gate and up; query, key and value.
    """
    own = {id(w) for w, _ in held}
    shapes: dict[tuple[int, Storage, str], tuple[int, int]] = {}
    for n, op in ((n, op) for n, s in enumerate(tape.segments) if s.part in ("backbone", "mtp") for op in s.ops):
        if op.weight_gradient == "accumulated" and id(op.weights[0]) in own:
            w = op.weights[0]
            out, into = local_features(w.out, shards), local_features(w.into, shards)
            key = (n, op.inputs[0], op.site)
            shapes[key] = (shapes.get(key, (0, into))[0] + out, into)
    return sum(out * into for out, into in set(shapes.values()))
