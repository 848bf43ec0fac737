"""Who owns what goes to one device whole, against handing it out piece by piece."""

from __future__ import annotations

from heapq import heapreplace
from itertools import chain, cycle, islice

from hypothesis import given, settings
from hypothesis import strategies as st

from archcalc.tape import Tape, Weight
from archcalc.training.optimizer import OPTIMIZERS, orthogonalized
from archcalc.training.owners import Load, fullest, handed_out
from tests.training.plans import k2_plan, tape_of

items = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 30)), max_size=6)


@settings(max_examples=100, deadline=None)
@given(items, st.integers(1, 12))
def test_equal_items_are_handed_out_together_as_they_are_one_by_one(sizes: list[tuple[int, int]], devices: int) -> None:
    largest_first = sorted(sizes, reverse=True)
    loads = [0] * devices
    for size, count in largest_first:
        for _ in range(count):
            heapreplace(loads, loads[0] + size)
    assert handed_out(largest_first, devices) == max(loads)


def dense_weights(tape: Tape) -> list[tuple[Weight, int, int]]:
    return [(w, max(1, len(w.indices)), w.matrix) for w in tape.weights() if w.learnable and not w.stack]


def test_back_and_forth_equal_parameters_go_together_as_they_do_one_by_one() -> None:
    """Megatron-LM's order: from the fewest elements on, to devices 0, 1, ..., n-1, n-1, ..., 0, and again."""
    group, how = dense_weights(tape_of("k25", k2_plan())), OPTIMIZERS["muon"].beside(2)
    each = sorted(
        (n, not orthogonalized(w), how.state_bytes(w), how.late_bytes(w)) for w, count, n in group for _ in range(count)
    )
    for devices in (1, 2, 3, 7, 16, 100, 1000):
        loads = [[0, 0, 0] for _ in range(devices)]
        turns = islice(cycle(chain(range(devices), reversed(range(devices)))), len(each))
        for (n, _, states, late), device in zip(each, turns, strict=True):
            for i, more in enumerate((states * n, late * n, n)):
                loads[device][i] += more
        assert fullest(group, how, devices, 1) == max(Load(*load) for load in loads)
