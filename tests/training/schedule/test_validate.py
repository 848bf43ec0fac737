"""What a schedule refuses, and why."""

from typing import Any

import pytest

import archcalc.training.schedule as package
from archcalc.errors import InputError
from archcalc.training.schedule import SCHEDULES, Pipeline, get_schedule

# Interleaved: the checks of Megatron-LM's `forward_backward_pipelining_with_interleaving` and of its
# arguments. The others: what their authors' code asserts (DualPipe, torch), and options that they don't have.
FORBIDDEN = [
    ("interleaved-1f1b", {"pp": 1, "vpp": 2, "micro_batches": 8}, "virtual stages need a pipeline"),
    (
        "interleaved-1f1b",
        {"pp": 4, "vpp": 2, "micro_batches": 8, "group": 3},
        "a group of 3 micro-batches is smaller than pp 4",
    ),
    (
        "interleaved-1f1b",
        {"pp": 4, "vpp": 2, "micro_batches": 8, "group": 9},
        "larger than the step, which has 8",
    ),
    ("interleaved-1f1b", {"pp": 4, "vpp": 2, "micro_batches": 3}, "larger than the step, which has 3"),
    ("interleaved-1f1b", {"pp": 4, "vpp": 2, "micro_batches": 9}, "leave a last group of 1"),
    ("interleaved-1f1b", {"pp": 4, "vpp": 2, "micro_batches": 13, "group": 5}, "leave a last group of 3"),
    ("1f1b", {"pp": 4, "vpp": 2, "micro_batches": 8}, "vpp is 2"),
    ("gpipe", {"pp": 4, "vpp": 2, "micro_batches": 8}, "vpp is 2"),
    ("zb-h1", {"pp": 4, "vpp": 2, "micro_batches": 8}, "vpp is 2"),
    ("zb-h2", {"pp": 4, "vpp": 2, "micro_batches": 8}, "vpp is 2"),
    ("dualpipe", {"pp": 4, "vpp": 2, "micro_batches": 8}, "vpp is 2"),
    ("zb-v", {"pp": 4, "vpp": 1, "micro_batches": 8}, "vpp is 1"),
    ("dualpipe-v", {"pp": 4, "vpp": 4, "micro_batches": 8}, "vpp is 4"),
    ("dualpipe-v", {"pp": 4, "vpp": 2, "micro_batches": 7}, "as many micro-batches as stages, 8"),
    ("dualpipe", {"pp": 4, "micro_batches": 6}, "2 pp = 8 micro-batches"),
    ("dualpipe", {"pp": 4, "micro_batches": 9}, "must be even; it is 9"),
    ("dualpipe", {"pp": 3, "micro_batches": 8}, "pp must be even; it is 3"),
]


@pytest.mark.parametrize(("kind", "sizes", "why"), FORBIDDEN)
def test_a_forbidden_combination_says_why_and_what_to_do(kind: str, sizes: dict[str, Any], why: str):
    with pytest.raises(InputError, match=why) as caught:
        get_schedule(kind).validate(Pipeline(**sizes))
    assert caught.value.hint
    assert caught.value.value in sizes.values() or caught.value.value == sizes["pp"]


@pytest.mark.parametrize("kind", sorted(set(SCHEDULES) - {"interleaved-1f1b"}))
def test_groups_belong_to_interleaved_1f1b_alone(kind: str):
    pipeline = Pipeline(pp=4, vpp=SCHEDULES[kind].virtual_stages or 1, micro_batches=8, group=4)
    with pytest.raises(InputError, match="no micro-batch groups"):
        SCHEDULES[kind].validate(pipeline)


@pytest.mark.parametrize("kind", sorted(SCHEDULES))
def test_only_the_1f1b_family_takes_extra_warmup(kind: str):
    schedule = SCHEDULES[kind]
    pipeline = Pipeline(pp=4, vpp=schedule.virtual_stages or 2, micro_batches=8, extra_warmup=1)
    if kind in ("1f1b", "interleaved-1f1b"):
        schedule.validate(pipeline)
    else:
        with pytest.raises(InputError, match="warm-up of fixed length"):
            schedule.validate(pipeline)


@pytest.mark.parametrize("kind", sorted(SCHEDULES))
@pytest.mark.parametrize(
    ("name", "value"), [("pp", 0), ("vpp", 0), ("micro_batches", 0), ("group", 0), ("extra_warmup", -1)]
)
def test_sizes_start_at_one_and_extra_warmup_at_zero(kind: str, name: str, value: int):
    sizes: dict[str, Any] = {"pp": 4, "vpp": SCHEDULES[kind].virtual_stages or 2, "micro_batches": 8, name: value}
    with pytest.raises(InputError, match=f"{name} must be at least {value + 1}, it is {value}"):
        SCHEDULES[kind].validate(Pipeline(**sizes))


def test_a_last_group_of_pp_or_more_is_allowed():
    # Megatron-LM: M mod G is 0, or at least PP
    get_schedule("interleaved-1f1b").validate(Pipeline(pp=4, vpp=2, micro_batches=14, group=5))


def test_dualpipe_runs_two_micro_batches_a_rank():
    # DualPipe.step asserts num_chunks >= num_ranks * 2
    get_schedule("dualpipe").validate(Pipeline(pp=4, micro_batches=8))


def test_one_rank_and_one_virtual_stage_need_no_other_kind():
    get_schedule("interleaved-1f1b").validate(Pipeline(pp=1, vpp=1, micro_batches=3))


def test_the_registry_holds_each_schedule_under_its_own_name():
    assert all(schedule.kind == kind for kind, schedule in SCHEDULES.items())
    assert len({type(schedule) for schedule in SCHEDULES.values()}) == len(SCHEDULES) == 8


def test_a_misspelt_kind_is_an_error_with_the_near_miss():
    with pytest.raises(InputError, match="no pipeline schedule 'dualpipev'") as caught:
        get_schedule("dualpipev")
    assert caught.value.hint == "did you mean dualpipe-v?"
    with pytest.raises(InputError) as caught:
        get_schedule("chimera")
    assert caught.value.hint == "one of " + ", ".join(SCHEDULES)


def test_interleaved_chunks_go_round_the_ranks():
    # chunk c of rank r is stage c * PP + r
    assert get_schedule("interleaved-1f1b").held(4, 3, 1) == (1, 5, 9)


def test_v_shaped_chunks_go_down_the_ranks_and_back():
    for kind in ("zb-v", "dualpipe-v"):
        assert [get_schedule(kind).held(3, 2, rank) for rank in range(3)] == [(0, 5), (1, 4), (2, 3)]


def test_dualpipe_holds_every_stage_twice():
    schedule = get_schedule("dualpipe")
    assert [schedule.held(4, 1, rank) for rank in range(4)] == [(0, 3), (1, 2), (2, 1), (3, 0)]
    assert (schedule.copies, schedule.stages(4, 1)) == (2, 4)
    assert all(other.copies == 1 for kind, other in SCHEDULES.items() if kind != "dualpipe")


def test_the_public_names_are_there():
    assert all(hasattr(package, name) for name in package.__all__)


def test_one_virtual_stage_is_the_order_of_1f1b() -> None:
    # Megatron-LM runs its non-interleaved schedule where there is one virtual stage, groups or not.
    pipeline = Pipeline(pp=4, micro_batches=3, extra_warmup=1)
    get_schedule("interleaved-1f1b").validate(pipeline)
    for rank in range(4):
        assert get_schedule("interleaved-1f1b").order(pipeline, rank) == get_schedule("1f1b").order(pipeline, rank)
