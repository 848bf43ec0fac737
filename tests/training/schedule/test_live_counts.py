"""Live chunks and bubbles against closed forms and published figures."""

from itertools import product

import pytest

from archcalc.training.schedule import Pipeline, Schedule, State, all_states, get_schedule, live_states, most_live
from archcalc.training.schedule.patterns import OpKind, Phase, Phases, Step
from tests.training.schedule.timing import bubble

# Interleaved 1F1B. Alive at most: the warm-up 2(PP-r-1) + (VPP-1)G + [1 if expert communication is
# overlapped], with G = PP (Megatron-LM, `get_pp_rank_microbatches`), and the forward that comes before the
# first backward; never more than all M*VPP. With VPP = 1 it is 1F1B: PP-r, capped at M. Bubble: (PP-1) of
# VPP*M + PP-1 (arXiv:2104.04473, section 2.2: the bubble is (PP-1)/(VPP*M) of the ideal time), for any tb, so
# for tb = 2 tf too. PP, VPP, M, then ranks 0, PP/2, PP-1 without and with the extra warm-up, rank 0 relative
# to the PP chunks of VPP times as many layers that 1F1B holds, without and with it, and the bubble.
TABLE = """
 4 1  4    4/2/1      4/3/2    1.0000 1.0000 0.429
 4 1  8    4/2/1      5/3/2    1.0000 1.2500 0.273
 4 1 16    4/2/1      5/3/2    1.0000 1.2500 0.158
 4 2  4    8/7/5      8/8/6    1.0000 1.0000 0.273
 4 2  8   11/7/5     12/8/6    1.3750 1.5000 0.158
 4 2 16   11/7/5     12/8/6    1.3750 1.5000 0.086
 4 4  4  16/15/13   16/16/14   1.0000 1.0000 0.158
 4 4  8  19/15/13   20/16/14   1.1875 1.2500 0.086
 4 4 16  19/15/13   20/16/14   1.1875 1.2500 0.045
 8 1  8    8/4/1      8/5/2    1.0000 1.0000 0.467
 8 1 16    8/4/1      9/5/2    1.0000 1.1250 0.304
 8 1 32    8/4/1      9/5/2    1.0000 1.1250 0.179
 8 2  8  16/15/9    16/16/10   1.0000 1.0000 0.304
 8 2 16  23/15/9    24/16/10   1.4375 1.5000 0.179
 8 2 32  23/15/9    24/16/10   1.4375 1.5000 0.099
 8 4  8  32/31/25   32/32/26   1.0000 1.0000 0.179
 8 4 16  39/31/25   40/32/26   1.2188 1.2500 0.099
 8 4 32  39/31/25   40/32/26   1.2188 1.2500 0.052
16 1 16  16/8/1     16/9/2     1.0000 1.0000 0.484
16 1 32  16/8/1     17/9/2     1.0000 1.0625 0.319
16 1 64  16/8/1     17/9/2     1.0000 1.0625 0.190
16 2 16  32/31/17   32/32/18   1.0000 1.0000 0.319
16 2 32  47/31/17   48/32/18   1.4688 1.5000 0.190
16 2 64  47/31/17   48/32/18   1.4688 1.5000 0.105
16 4 16  64/63/49   64/64/50   1.0000 1.0000 0.190
16 4 32  79/63/49   80/64/50   1.2344 1.2500 0.105
16 4 64  79/63/49   80/64/50   1.2344 1.2500 0.055
"""
ROWS = [line.split() for line in TABLE.strip().splitlines()]


def pipeline_of(pp: int, vpp: int, micro_batches: int, extra: int) -> tuple[str, Pipeline]:
    kind = "1f1b" if vpp == 1 else "interleaved-1f1b"
    pipeline = Pipeline(pp=pp, vpp=vpp, micro_batches=micro_batches, extra_warmup=extra)
    get_schedule(kind).validate(pipeline)
    return kind, pipeline


@pytest.mark.parametrize("row", ROWS, ids=["-".join(row[:3]) for row in ROWS])
@pytest.mark.parametrize("extra", [0, 1])
def test_live_chunks_of_interleaved_1f1b(row: list[str], extra: int):
    pp, vpp, micro_batches = map(int, row[:3])
    kind, pipeline = pipeline_of(pp, vpp, micro_batches, extra)
    live = [most_live(get_schedule(kind), pipeline, rank) for rank in (0, pp // 2, pp - 1)]
    assert "/".join(map(str, live)) == row[3 + extra]
    assert f"{live[0] / (pp * vpp):.4f}" == row[5 + extra]


@pytest.mark.parametrize("row", ROWS, ids=["-".join(row[:3]) for row in ROWS])
@pytest.mark.parametrize("extra", [0, 1])
def test_bubble_of_interleaved_1f1b(row: list[str], extra: int):
    pp, vpp, micro_batches = map(int, row[:3])
    kind, pipeline = pipeline_of(pp, vpp, micro_batches, extra)
    share = bubble(get_schedule(kind), pipeline)
    assert f"{share:.3f}" == row[7]
    assert share == pytest.approx((pp - 1) / (vpp * micro_batches + pp - 1), abs=1e-12)


CASES = [
    (pp, vpp, group, micro_batches, extra)
    for pp, vpp, more, groups, extra in product((2, 4, 7, 16), (2, 3, 5), (0, 2), (1, 2, 5), (0, 1, 3))
    for group in [pp + more]
    for micro_batches in [groups * group]
]


@pytest.mark.parametrize(("pp", "vpp", "group", "micro_batches", "extra"), CASES)
def test_closed_form_of_interleaved_1f1b(pp: int, vpp: int, group: int, micro_batches: int, extra: int):
    pipeline = Pipeline(pp=pp, vpp=vpp, micro_batches=micro_batches, group=group, extra_warmup=extra)
    for rank in range(pp):
        warmup = 2 * (pp - rank - 1) + (vpp - 1) * group + extra
        expected = min(warmup + 1, micro_batches * vpp)
        assert most_live(get_schedule("interleaved-1f1b"), pipeline, rank) == expected


def test_a_long_extra_warmup_is_not_cut_away():
    # Rank 0 of 2: 1F1B warms up with 1 + 30 forwards, interleaved with 2 + 2 + 60; then comes one more.
    pipeline = Pipeline(pp=2, micro_batches=100, extra_warmup=30)
    assert most_live(get_schedule("1f1b"), pipeline, 0) == 32
    pipeline = Pipeline(pp=2, vpp=2, micro_batches=100, extra_warmup=60)
    assert most_live(get_schedule("interleaved-1f1b"), pipeline, 0) == 65


def test_rank_0_comes_to_its_peak_with_almost_twice_as_many_of_its_first_chunk():
    # PP 16, VPP 2: the warm-up of 30 + 16 = 46 is 16 of chunk 0, 16 of chunk 1, 14 of chunk 0; the next
    # forward makes 31 = 2 PP - 1 of chunk 0. With the extra forward it is 32 = 2 PP.
    schedule = get_schedule("interleaved-1f1b")
    for extra, first in ((0, 31), (1, 32)):
        states = live_states(schedule, Pipeline(pp=16, vpp=2, micro_batches=64, extra_warmup=extra), 0)
        at_peak = next(state for state in states if sum(state.live) == 47 + extra)
        assert (at_peak.live, at_peak.op) == ((first, 16), ("F", 0, first - 1))


# w = 1/2: a micro-batch that only waits for W counts half. In half chunks, ranks 0, 8, 15 of 16, 64
# micro-batches. GPipe M. ZB-H1 PP-r + r/2 and ZB-H2 2(PP-r)-1 + r: the in-flight counts behind the memory
# limits PP and 2PP-1 of arXiv:2401.10241, table 1. ZB-V 2PP chunks of half the layers (ibid., section 6: the
# peak of 1F1B). DualPipe PP+1 (arXiv:2412.19437, table 2). DualPipeV 2PP+1 of half the layers (DualPipe
# README; its PP is the number of stages).
@pytest.mark.parametrize(
    ("kind", "vpp", "halves"),
    [
        ("gpipe", 1, [128, 128, 128]),
        ("zb-h1", 1, [32, 24, 17]),
        ("zb-h2", 1, [62, 46, 32]),
        ("zb-v", 2, [64, 64, 64]),
        ("dualpipe", 1, [34, 34, 34]),
        ("dualpipe-v", 2, [66, 66, 66]),
    ],
)
def test_live_chunks_of_the_other_schedules(kind: str, vpp: int, halves: list[int]):
    pipeline = Pipeline(pp=16, vpp=vpp, micro_batches=64)
    chunks = get_schedule(kind).chunks_per_rank(vpp)
    for rank, expected in zip((0, 8, 15), halves, strict=True):
        states = live_states(get_schedule(kind), pipeline, rank)
        assert max(state.bytes([2] * chunks, [1] * chunks) for state in states) == expected


@pytest.mark.parametrize("pp", [2, 4, 6, 8])
@pytest.mark.parametrize("share", [0, 3, 5, 10])
def test_closed_forms_of_the_other_schedules_on_every_rank(pp: int, share: int):
    """Chunks of 10 bytes, of which W needs `share`. Forms as above, M large."""
    for rank in range(pp):
        forms = {
            "gpipe": 10 * 5 * pp,
            "1f1b": 10 * (pp - rank),
            "zb-h1": 10 * (pp - rank) + share * rank,
            "zb-h2": 10 * (2 * (pp - rank) - 1) + share * 2 * rank,
            "dualpipe": 10 * (pp + 1),
            "zb-v": 10 * 2 * pp,
            "dualpipe-v": 10 * (2 * pp + 1),
        }
        for kind, expected in forms.items():
            schedule = get_schedule(kind)
            pipeline = Pipeline(pp=pp, vpp=schedule.virtual_stages or 1, micro_batches=5 * pp)
            chunks = schedule.chunks_per_rank(pipeline.vpp)
            states = live_states(schedule, pipeline, rank)
            assert max(state.bytes([10] * chunks, [share] * chunks) for state in states) == expected, kind


def test_the_worst_moment_of_1f1b_is_named():
    # Rank 1 of 4 warms up with F0 F1; F2 makes three alive, and so they are while B0 runs.
    forward, backward = live_states(get_schedule("1f1b"), Pipeline(pp=4, micro_batches=1000), 1)
    assert (forward.op, forward.live) == (("F", 0, 2), (3,))
    assert (backward.op, backward.live) == (("B", 0, 0), (3,))


def test_a_moment_at_the_end_of_a_long_run_keeps_its_micro_batch():
    # The last of 2 ranks, VPP 2, groups of 5, 103 micro-batches: the last group is 100, 101, 102. The warm-up
    # is 5, so a sixth chunk comes alive with each forward. Through a full group, F1(95) to F1(99), each F1 is
    # followed by its own B1, so chunk 1 holds one. In the short last group F1(100) and F1(101) are followed
    # by B0(98) and B0(99), which the full group still owes; at F1(102) chunk 1 so holds 3, and nowhere else.
    schedule = get_schedule("interleaved-1f1b")
    pipeline = Pipeline(pp=2, vpp=2, micro_batches=103, group=5)
    states = live_states(schedule, pipeline, 1)
    assert [s.live for s in states if s.op == ("F", 1, 102)] == [(3, 3)]


def written(*phases: tuple[int, OpKind, int]) -> Schedule:
    """A schedule of phases that run one operation (times, kind, chunk)."""

    class Written(Schedule):
        kind = "written"

        def phases(self, pipeline: Pipeline, rank: int) -> Phases:
            return [Phase(times, (Step(kind, chunk),)) for times, kind, chunk in phases]

    return Written()


def forwards_of_chunk_0(states: tuple[State, ...]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    return [(state.live, state.waiting) for state in states if state.op[:2] == ("F", 0)]


def test_a_state_with_less_of_any_chunk_does_not_cover_another():
    # One of chunk 1 and 1, 2, 3 of chunk 0; two of these go, one of them but for what its W needs; one more of each.
    # 3 and 1 are no part of 2 and 2, whatever waits beside them; 1 and 1 are.
    schedule = written((1, "F", 1), (3, "F", 0), (2, "I", 0), (1, "W", 0), (1, "F", 1), (1, "F", 0))
    states = live_states(schedule, Pipeline(pp=1, vpp=2, micro_batches=4), 0)
    assert forwards_of_chunk_0(states) == [((3, 1), (0, 0)), ((2, 2), (1, 0))]


def test_a_walk_that_goes_straight_on_where_another_ends_has_no_corner_there():
    # 1 and 2, then 3 and 4 alive: all of them lie between the first and the last
    states = all_states(written((2, "F", 0), (2, "F", 0)), Pipeline(pp=1, micro_batches=4), 0)
    assert forwards_of_chunk_0(states) == [((1,), (0,)), ((4,), (0,))]
