"""Who owns what goes to one device whole, among those of a data-parallel group: by size back and forth, or greedily."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate
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

    def beside(self, other: Load) -> Load:
        """Both together."""
        return Load(*(a + b for a, b in zip(self, other, strict=True)))

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
    # Devices by where a run of equal parameters begins or ends among them: all between own alike.
    changes: dict[int, Load] = {}
    start = 0
    for (size, _, own), copies in sorted(_parameters(group, how, ep, fused or {}), key=lambda each: each[0][:2]):
        if size != own.elements:
            raise AssertionError("a parameter's load does not have its elements")
        for first, last, times in _turns(start % (2 * devices), copies, devices):
            for device, sign in ((first, times), (last, -times)):
                more = Load(*(sign * each for each in own))
                changes[device] = changes.get(device, Load()).beside(more)
        start += copies
    loads = accumulate((changes[device] for device in sorted(changes)), Load.beside)
    return max(loads, default=Load())


def _turns(start: int, count: int, devices: int) -> Iterator[tuple[int, int, int]]:
    """How often devices have a turn among `count` of them from `start` on, where 0 to n-1 and back to 0 are 2n turns:
    first device, the one behind the last, and times."""
    rounds, rest = divmod(count, 2 * devices)
    if rounds:
        yield 0, devices, 2 * rounds
    end = start + rest
    for before in (0, 2 * devices):
        first, last = max(start - before, 0), min(end - before, devices)
        if first < last:
            yield first, last, 1
        first, last = max(start - before, devices), min(end - before, 2 * devices)
        if first < last:
            yield 2 * devices - last, 2 * devices - first, 1


def handed_out(matrices: Sequence[tuple[int, int]], devices: int) -> int:
    """The most bytes on one of `devices` when (bytes, count) items go, largest first, to whichever holds
    least."""
    return _most(tuple(matrices), devices)


@lru_cache(maxsize=4096)
def _most(matrices: tuple[tuple[int, int], ...], devices: int) -> int:
    """The same, remembered: ranks, and plans that differ in other things, ask for the same matrices."""
    loads = [(0, devices)]  # bytes, and how many devices hold so many, from the least on
    for size, count in matrices:
        while count and size:
            loads, count = _handed(loads, size, count)
    return loads[-1][0]


def _handed(loads: list[tuple[int, int]], size: int, count: int) -> tuple[list[tuple[int, int]], int]:
    """The loads when some of `count` equal items have gone to whoever holds least, and how many are left.

    Of devices that are less than an item apart each gets one before any gets a second, and so on until another device
    holds no more than they do.
    """
    near = [each for each in loads if each[0] < loads[0][0] + size]
    far = loads[len(near) :]
    devices = sum(n for _, n in near)
    rounds, rest = divmod(count, devices)
    if len(loads) == 1 and rest:
        load = loads[0][0] + rounds * size
        return [(load, devices - rest), (load + size, rest)], 0
    if far:
        rounds = min(rounds, (far[0][0] - near[-1][0]) // size + 1)
    if not rounds:
        return _merged([*_one_each(near, size, count), *far]), 0
    return _merged([*((load + rounds * size, n) for load, n in near), *far]), count - rounds * devices


def _one_each(near: list[tuple[int, int]], size: int, count: int) -> Iterator[tuple[int, int]]:
    """One item for each of the `count` devices that hold least."""
    for load, n in near:
        given = min(n, count)
        count -= given
        yield from ((load + size, given), (load, n - given))


def _merged(loads: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    found: dict[int, int] = {}
    for load, n in loads:
        if n:
            found[load] = found.get(load, 0) + n
    return sorted(found.items())


def _parameters(
    group: Iterable[tuple[Weight, int, int]], how: Optimizer, ep: int, fused: Fused
) -> Iterator[tuple[tuple[int, bool, Load], int]]:
    """Parameters of a device, and how many of each: their elements, whether Muon's matrix step leaves them alone, what
    one adds to a load."""
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
        yield (elements, alone, Load(states, late, elements)), copies
