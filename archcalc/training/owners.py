"""Who owns what goes to one device whole, among those of a data-parallel group: by size back and forth, or greedily."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from heapq import heapify, heapreplace
from itertools import chain, cycle
from typing import NamedTuple

from archcalc.tape import Storage, Tape, Weight
from archcalc.training.optimizer import Optimizer, orthogonalized

Fused = Mapping[int, tuple[int, Storage, str]]
"""What fused parameter a weight is part of, by its identity: linears of one place, input and site are one."""


def fused_parameters(tape: Tape) -> Fused:
    """Gate and up, and query, key and value, are one parameter each where they have one input."""
    return {
        id(op.weights[0]): (n, op.inputs[0], op.site)
        for n, segment in enumerate(tape.segments)
        for op in segment.ops
        if op.weight_gradient == "accumulated"
    }


class Load(NamedTuple):
    """What one device owns: states, the part of them that the first step makes [bytes], and parameters [elements]."""

    states: int = 0
    late: int = 0
    elements: int = 0

    def staying(self, offload: Fraction) -> Load:
        """What is left on the device where a share of the parameters, of all kinds alike, is the host's.

        Megatron-LM takes whole parameters, or what a device's slice has of them, in their order until they are so many
        elements (core/optimizer/cpu_offloading/hybrid_optimizer.py, _get_sub_optimizer_param_groups): up to one more.
        """
        left = 1 - offload
        return Load(*(-(-n * left.numerator // left.denominator) for n in self))


def fullest(
    group: Iterable[tuple[Weight, int, int]], how: Optimizer, devices: int, ep: int, fused: Fused | None = None
) -> Load:
    """The load of the device that owns most bytes of states, in Muon's older layout: embedding and head go whole too.

    All parameters of a group, by number of elements from the fewest on, go to devices 0, 1, ..., n-1, n-1, ..., 0 and
    so on (Megatron-LM core/optimizer/layer_wise_optimizer.py, LayerWiseDistributedOptimizer.shard_params). Of equal
    ones the orthogonalized come first, as its groups of parameters do.
    """
    loads = [Load()] * devices
    turns = cycle(chain(range(devices), reversed(range(devices))))
    for size, _, own in sorted(_parameters(group, how, ep, fused or {}), key=lambda each: each[:2]):
        turn = next(turns)
        loads[turn] = Load(*(a + b for a, b in zip(loads[turn], own, strict=True)))
        if size != own.elements:
            raise AssertionError("a parameter's load does not have its elements")
    return max(loads)


def handed_out(matrices: Sequence[tuple[int, int]], devices: int) -> int:
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


def _parameters(
    group: Iterable[tuple[Weight, int, int]], how: Optimizer, ep: int, fused: Fused
) -> Iterable[tuple[int, bool, Load]]:
    """Every parameter of a device: its elements, whether Muon's matrix step leaves it alone, what it adds to a load."""
    made: dict[object, tuple[int, list[tuple[Weight, int]]]] = {}
    for w, n, size in group:
        stack = w.stack[0].size // ep if w.stack else 1
        copies, parts = made.setdefault(fused.get(id(w), id(w)), (n * stack, []))
        if copies != n * stack:
            raise AssertionError("weights that are one parameter differ in their number")
        parts.append((w, size // stack))
    for copies, parts in made.values():
        states = sum(how.state_bytes(w) * size for w, size in parts)
        late = sum(how.late_bytes(w) * size for w, size in parts)
        elements = sum(size for _, size in parts)
        alone = not all(orthogonalized(w) for w, _ in parts)
        for _ in range(copies):
            yield elements, alone, Load(states, late, elements)
