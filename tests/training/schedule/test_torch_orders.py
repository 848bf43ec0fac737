"""Our orders against those of torch.distributed.pipelining, and torch's replayed."""

import pytest

from archcalc.errors import InputError
from archcalc.training.schedule import Op, Pipeline, get_schedule, live_states
from tests.training.schedule.simulated import simulated, states_of, uncovered

torch_orders = pytest.importorskip("archcalc.reference.orders", exc_type=ImportError)
pytestmark = pytest.mark.twin


def ours(kind: str, pipeline: Pipeline, rank: int) -> list[tuple[str, int, int]]:
    schedule = get_schedule(kind)
    schedule.validate(pipeline)
    order = schedule.order(pipeline, rank)
    return [(op.kind, schedule.stage(pipeline.pp, rank, op.chunk), op.micro_batch) for op in order]


@pytest.mark.parametrize(
    ("kind", "pp", "vpp", "micro_batches", "group"),
    [
        ("interleaved-1f1b", 2, 2, 2, None),
        ("interleaved-1f1b", 2, 3, 8, None),
        ("interleaved-1f1b", 4, 2, 4, None),
        ("interleaved-1f1b", 4, 4, 16, None),
        ("interleaved-1f1b", 16, 2, 64, None),
        ("interleaved-1f1b", 4, 2, 10, 5),  # 10 // 4 = 2 rounds, of 5
        ("interleaved-1f1b", 4, 3, 7, 7),  # one round of all
        ("zb-v", 1, 2, 3, None),
        ("zb-v", 4, 2, 3, None),  # fewer micro-batches than fill the pipeline
        ("zb-v", 4, 2, 7, None),  # as many as fill it, 2 PP - 1
        ("zb-v", 4, 2, 8, None),
        ("zb-v", 5, 2, 23, None),
        ("zb-v", 16, 2, 64, None),
        ("dualpipe-v", 1, 2, 5, None),
        ("dualpipe-v", 4, 2, 8, None),
        ("dualpipe-v", 5, 2, 13, None),
        ("dualpipe-v", 16, 2, 64, None),
    ],
)
def test_torch_runs_the_same_order(kind: str, pp: int, vpp: int, micro_batches: int, group: int | None):
    theirs = torch_orders.torch_order(kind, pp, vpp, micro_batches)
    pipeline = Pipeline(pp=pp, vpp=vpp, micro_batches=micro_batches, group=group)
    assert {rank: ours(kind, pipeline, rank) for rank in range(pp)} == theirs


@pytest.mark.parametrize(("pp", "micro_batches"), [(2, 4), (4, 8), (8, 24), (16, 64)])
def test_half_of_dualpipe_is_what_torch_runs_as_dualpipe_v(pp: int, micro_batches: int):
    """DualPipeV is half of DualPipe: the same operations, for half the ranks and half the micro-batches."""
    theirs = torch_orders.torch_order("dualpipe-v", pp // 2, 2, micro_batches // 2)
    for rank in range(pp // 2):
        order = get_schedule("dualpipe").order(Pipeline(pp=pp, micro_batches=micro_batches), rank)
        half = [(op.kind, pp - 1 - rank if op.chunk else rank, op.micro_batch // 2) for op in order]
        assert half == theirs[rank]


def replayed(order: list[tuple[str, int, int]]) -> tuple[int, int]:
    """Most forwards without their backward, and most of these doubled plus those that only wait for W."""
    live = waiting = most = doubled = 0
    for kind, _, _ in order:
        live += kind == "F"
        most, doubled = max(most, live), max(doubled, 2 * live + waiting)
        live -= kind in ("B", "I")
        waiting += (kind == "I") - (kind == "W")
    return most, doubled


# Forms as in test_live_counts; torch's interleaved ZB1P has the warm-up PP-r-1 + (VPP-1)PP, and so with VPP 2
# and PP 16 at most 32 - r live, and on rank r up to r more that wait for W: 64, ..., 2*17 + 15 = 49 halves.
@pytest.mark.parametrize(
    ("kind", "vpp", "expected"),
    [
        ("interleaved-1f1b", 2, {0: (47, 94), 8: (31, 62), 15: (17, 34)}),
        ("interleaved-1f1b", 4, {0: (79, 158), 8: (63, 126), 15: (49, 98)}),
        ("interleaved-zb", 2, {0: (32, 64), 15: (17, 49)}),
        ("zb-v", 2, {0: (32, 64), 8: (32, 64), 15: (32, 64)}),
        ("dualpipe-v", 2, {0: (33, 66), 8: (33, 66), 15: (33, 66)}),
    ],
)
def test_torchs_orders_replayed_give_the_same_live_counts(kind: str, vpp: int, expected: dict[int, tuple[int, int]]):
    theirs = torch_orders.torch_order(kind, 16, vpp, 64)
    assert {rank: replayed(theirs[rank]) for rank in expected} == expected


def test_what_torch_refuses_is_an_input_error_that_says_so():
    with pytest.raises(InputError, match="at least as many microbatches as stages"):
        torch_orders.torch_order("dualpipe-v", 4, 2, 7)
    with pytest.raises(InputError, match="zb-h1"):
        torch_orders.torch_order("zb-h1", 4, 1, 8)


def test_the_fold_over_torchs_order_finds_the_same_states_as_over_ours():
    schedule, pipeline = get_schedule("zb-v"), Pipeline(pp=4, vpp=2, micro_batches=9)
    for rank, actions in torch_orders.torch_order("zb-v", 4, 2, 9).items():
        chunk = {stage: chunk for chunk, stage in enumerate(schedule.held(4, 2, rank))}
        theirs = [Op(kind, chunk[stage], micro_batch) for kind, stage, micro_batch in actions]
        states, whole = (state for _, state in states_of(theirs, 2)), simulated(schedule, pipeline, rank)
        assert uncovered(states) == uncovered(whole) >= set(live_states(schedule, pipeline, rank))
