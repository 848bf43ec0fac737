"""Bubbles against the formulas of the papers, and what happens to orders that cannot run."""

import pytest

from archcalc.training.schedule import SCHEDULES, Op, Pipeline, get_schedule
from tests.training.schedule.timing import Deadlock, Durations, bubble, simulate

TIMES = [(1, 1, 1), (2, 2, 1), (3, 4, 2), (5, 6, 4)]  # forward, input gradient, weight gradient
SIZES = [2, 4, 8]


def idle(kind: str, pp: int, times: tuple[int, int, int], vpp: int = 1) -> int:
    forward, inputs, weights = times
    durations = Durations(forward=forward, input_gradient=inputs, weight_gradient=weights)
    pipeline = Pipeline(pp=pp, vpp=vpp, micro_batches=4 * pp)
    get_schedule(kind).validate(pipeline)
    return max(span.idle for span in simulate(get_schedule(kind), pipeline, durations))


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("pp", SIZES)
def test_1f1b_and_gpipe_idle_for_a_forward_and_a_backward_a_hop(pp: int, times: tuple[int, int, int]):
    # (PP-1)(F+B): arXiv:2412.19437, table 2, row 1F1B; interleaved the same in units of its shorter chunks
    assert {idle("1f1b", pp, times), idle("gpipe", pp, times)} == {(pp - 1) * sum(times)}
    assert idle("interleaved-1f1b", pp, times, vpp=3) == (pp - 1) * sum(times)


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("pp", SIZES)
def test_zb_h1_fills_two_weight_gradients_a_hop(pp: int, times: tuple[int, int, int]):
    # (PP-1)(F+B-2W), B the whole backward: arXiv:2412.19437, table 2, row ZB1P; for W no longer than the rest
    # of B
    forward, inputs, weights = times
    assert idle("zb-h1", pp, times) == (pp - 1) * (forward + inputs + weights - 2 * weights)


@pytest.mark.parametrize("pp", SIZES)
def test_zb_h2_and_zb_v_have_no_bubble_if_all_three_take_equally_long(pp: int):
    # arXiv:2401.10241, sections 2.2 and 6
    assert idle("zb-h2", pp, (1, 1, 1)) == 0
    assert idle("zb-v", pp, (1, 1, 1), vpp=2) == 0


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("pp", SIZES)
def test_dualpipe_idles_no_longer_than_its_paper_says(pp: int, times: tuple[int, int, int]):
    # (PP/2-1)(F&B + B - 3W), PP the stages: arXiv:2412.19437, table 2 and the DualPipe README. There both
    # halves of an overlapped pair end together; here the forward ends first and its result can travel, so the
    # formula is a bound.
    forward, inputs, weights = times
    backward = inputs + weights
    one_hop = forward + backward + backward - 3 * weights
    assert idle("dualpipe", pp, times) <= (pp // 2 - 1) * one_hop
    assert 0 < idle("dualpipe-v", pp, times, vpp=2) <= (pp - 1) * one_hop


def test_a_long_run_has_the_same_bubble_time_as_a_short_one():
    # PP 16, VPP 2: 15 of 2 M + 15, here with M = 1024
    pipeline = Pipeline(pp=16, vpp=2, micro_batches=1024)
    assert bubble(get_schedule("interleaved-1f1b"), pipeline) == pytest.approx(15 / 2063, abs=1e-12)


def test_a_single_rank_never_waits():
    for schedule in SCHEDULES.values():
        if schedule.kind != "dualpipe":  # it needs two ranks
            pipeline = Pipeline(pp=1, vpp=2 if schedule.virtual_stages == 2 else 1, micro_batches=5)
            schedule.validate(pipeline)
            assert bubble(schedule, pipeline) == 0


def test_backwards_before_their_forwards_are_a_deadlock():
    class Backwards(type(get_schedule("1f1b"))):  # type: ignore[misc]
        def order(self, pipeline: Pipeline, rank: int) -> tuple[Op, ...]:
            return super().order(pipeline, rank)[::-1]

    with pytest.raises(Deadlock, match="1f1b cannot go on"):
        simulate(Backwards(), Pipeline(pp=2, micro_batches=2))
