"""A forward beside a backward: the pairs of an order, what both take, and what a plan may not ask for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archcalc.documents.train import train_report
from archcalc.errors import InputError
from archcalc.training.chunk import SegmentMemory, chunk_memory
from archcalc.training.layout import ScheduleSection
from archcalc.training.load import load_plan
from archcalc.training.memory import training_memory
from archcalc.training.moments import described, moment
from archcalc.training.overlap import overlap
from archcalc.training.schedule import Op, Pipeline, State, get_schedule, live_states
from tests.training.plans import k2_plan, ranks, run_of, spec
from tests.training.replay import last, replayed, side_by_side
from tests.training.schedule.simulated import states_of
from tests.training.test_in_flight import segments

T = 4096
LAYER = SegmentMemory("layer", 10, 0, 0, 3, 4)
EMBEDDING = SegmentMemory("embedding", 2, 0, 0, 1, 1, layer=False)
HEAD = SegmentMemory("head", 50, 0, 0, 20, 30, layer=False)


# ------------------------------------------------------------------------------------------------------------ the pairs


def test_pairs_of_a_small_order() -> None:
    """One device, three micro-batches: F0, then F1 beside B0, F2 beside B1, and B2 alone."""
    order = [Op(kind, 0, n) for kind, n in zip("FFBFBB", (0, 1, 0, 2, 1, 2), strict=True)]  # type: ignore[arg-type]
    pipeline = Pipeline(pp=1, micro_batches=3, extra_warmup=1, ep_overlap=True)
    assert get_schedule("1f1b").order(pipeline, 0) == tuple(order)
    assert states_of(order, 1, warmup=1) == (
        (0, State(op=Op("F", 0, 0), live=(1,), waiting=(0,))),
        (2, State(op=Op("B", 0, 0), live=(2,), waiting=(0,), beside=Op("F", 0, 1))),
        (5, State(op=Op("B", 0, 2), live=(1,), waiting=(0,))),
    )
    assert live_states(get_schedule("1f1b"), pipeline, 0) == tuple(s for _, s in states_of(order, 1, warmup=1))


def test_what_goes_backward_next_is_not_fetched_before_its_forward_has_ended() -> None:
    """On one device the next backward is of the micro-batch that runs forward now."""
    order = get_schedule("1f1b").order(Pipeline(pp=1, micro_batches=9, extra_warmup=1), 0)
    assert {s.following for _, s in states_of(order, 1, ahead=True, warmup=1)} == {None}
    longer = get_schedule("1f1b").order(Pipeline(pp=1, micro_batches=9, extra_warmup=2), 0)
    assert 0 in {s.following for _, s in states_of(longer, 1, ahead=True, warmup=2) if s.beside}


def test_a_long_run_names_the_forward_beside_its_backward() -> None:
    """Each of 1000 micro-batches but the last has the backward before it beside."""
    pipeline = Pipeline(pp=1, micro_batches=1000, extra_warmup=1, ep_overlap=True)
    found = [s for s in live_states(get_schedule("1f1b"), pipeline, 0) if s.beside is not None]
    assert [(s.op.micro_batch, s.beside.micro_batch) for s in found if s.beside] == [(0, 1)]
    assert live_states(get_schedule("1f1b"), pipeline, 0)[-1].op == Op("B", 0, 999)


# --------------------------------------------------------------------------------------------------------- both chunks


def test_two_equal_chunks_hold_one_layer_more_than_one() -> None:
    """Three layers of 10: beside the backward's last layer the forward's first, and so on: 40 at each step, and both
    layers' transients."""
    chunk = chunk_memory([(LAYER, 3)])
    assert overlap(chunk, chunk) == (40, 0, 3 + 4, "layer", "layer")


def test_ends_of_the_model_run_by_themselves() -> None:
    """Forward: embedding, a layer. Backward: two layers, a head. The head's backward is before the first pair."""
    forward, backward = chunk_memory([(EMBEDDING, 1), (LAYER, 1)]), chunk_memory([(LAYER, 2), (HEAD, 1)])
    assert overlap(forward, backward) == (2 + 20 + 50, 0, 30, "", "head")
    # the other way round: two layers ahead of a head, beside a layer and an embedding. The head is alone.
    assert overlap(backward, forward) == (20 + 50 + 2, 0, 20, "head", "")


def test_what_is_left_of_the_longer_chunk_runs_alone() -> None:
    heavy = SegmentMemory("heavy", 10, 0, 0, 100, 100)
    one, three = chunk_memory([(LAYER, 1)]), chunk_memory([(LAYER, 2), (heavy, 1)])
    assert overlap(three, one) == (30, 0, 100, "heavy", "")
    assert overlap(one, three) == (10 + 30, 0, 3 + 100, "layer", "heavy")
    assert overlap(one, chunk_memory([(heavy, 1), (LAYER, 2)])) == (10 + 10, 0, 100, "", "heavy")


def test_zero_3_gathers_for_both() -> None:
    chunk = chunk_memory([(LAYER, 2)], gathered=5)
    assert overlap(chunk, chunk).transient == 3 + 4 + 2 * 5


ends = st.lists(segments().map(lambda each: each._replace(layer=False)), max_size=1)
chunks = st.tuples(ends, st.lists(segments(), min_size=1, max_size=5), ends).map(
    lambda parts: [*parts[0], *parts[1], *parts[2]]
)


@given(chunks, chunks, chunks, st.integers(0, 6), st.integers(0, 9))
def test_a_pair_is_what_it_is_step_by_step(
    ahead: list[SegmentMemory], back: list[SegmentMemory], after: list[SegmentMemory], flying: int, gathered: int
) -> None:
    one, other, following = (chunk_memory([(each, 1) for each in c], gathered, flying) for c in (ahead, back, after))
    found = overlap(one, other, following.fetched)
    steps = side_by_side(ahead, back, after, flying, gathered)
    assert found.kept + found.transient == max(on for on, _ in steps)
    assert found.host == max(off for _, off in steps)
    assert following.fetched == tuple(
        last(after, n + 1) for n in range(min(flying, sum(1 for each in after if each.offloadable)))
    )


def test_a_moment_has_both_and_the_rest() -> None:
    """Two more micro-batches of 30 wait; the message counts once."""
    chunk = chunk_memory([(LAYER, 3)])
    state = State(op=Op("B", 0, 0), live=(4,), waiting=(0,), beside=Op("F", 0, 3))
    assert moment(state, (chunk,), (5, 6))[:3] == (2 * 30 + 40, 0, 7 + 6)
    assert described(state, (chunk,)) == (
        "backward of chunk 0, micro-batch 0 at layer beside the forward of chunk 0, micro-batch 3 at layer;"
        " alive: 4 of chunk 0"
    )


# ---------------------------------------------------------------------------------------------------------------- plans


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("activations.offload=none",),
        ("parallel.vpp=4",),
        ("activations.offload=[core_attn, expert_fc1]", "activations.offload_in_flight=2"),
        ("schedule.extra_warmup=3",),
    ],
)
def test_a_plans_ranks_are_what_the_whole_order_replayed_gives(options: tuple[str, ...]) -> None:
    run = run_of("kimi-k2", k2_plan("batch.global_tokens=8388608", "schedule.ep_overlap=true", *options))
    found = training_memory(run)
    for r in (0, 1, 9, 15):
        most, got = replayed(run, r, 2 * T * 7168), found[r]
        resting = got.static.params + got.static.grads + got.static.optimizer + got.static.buffers
        assert got.running == resting + got.fixed + got.cached + most.device
        assert got.offloaded == most.host


def test_k2s_worst_rank() -> None:
    """46 chunks of two layers alive, of which 44 wait; of the two that run three layers are there: one layer forward
    beside the second of two backward. 148,484 bytes a token and layer."""
    bare = ("activations.offload=none", "schedule.ep_overlap=true")
    assert ranks("kimi-k2", *bare)[1].activation == (44 * 2 + 3) * T * 148_484
    plain = ranks("kimi-k2", "activations.offload=none")[1]
    assert ranks("kimi-k2", *bare)[1].live_chunks == plain.live_chunks  # one more warm-up in both
    assert plain.transient < ranks("kimi-k2", *bare)[1].transient < 2 * plain.transient


def test_on_one_device_two_micro_batches_are_alive() -> None:
    one = ("parallel.pp=1", "parallel.vpp=1", "schedule.kind=1f1b", "activations.offload=none", "parallel.layout=auto")
    plain = ranks("kimi-k2", *one, "schedule.extra_warmup=0")[0]
    both = ranks("kimi-k2", *one, "schedule.extra_warmup=1", "schedule.ep_overlap=true")[0]
    assert (plain.live_chunks, both.live_chunks) == (1, 2)
    assert both.activation < 2 * plain.activation


def test_the_warm_up_is_longer_by_one_unless_a_plan_says_by_how_many() -> None:
    def longer(*options: str) -> int:
        return k2_plan(*options).pipeline.extra_warmup

    assert longer("schedule.extra_warmup=null") == 0
    assert longer("schedule.extra_warmup=null", "schedule.ep_overlap=true") == 1
    assert longer("schedule.extra_warmup=2", "schedule.ep_overlap=true") == 2


def test_the_screen_says_the_warm_up_that_is_left_out() -> None:
    plan = k2_plan()
    left_out = plan.model_copy(update={"schedule": ScheduleSection(kind="interleaved-1f1b", ep_overlap=True)})
    assert "schedule.extra_warmup = 1 (default)" in train_report(spec("kimi-k2"), left_out).assumptions


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("parallel.ep=1",), "ep_overlap hides what expert-parallel devices exchange, and ep is 1"),
        (("parallel.vpp=1", "schedule.kind=1f1b"), "ep_overlap in a pipeline needs virtual stages"),
        (("schedule.extra_warmup=0",), "ep_overlap needs a longer warm-up"),
        (("schedule.kind=zb-v", "schedule.extra_warmup=0"), "zb-v does not run a forward beside a backward"),
        (("activations.recompute=[full]",), "recompute full and an extra warm-up exclude each other"),
        (("activations.recompute=[moe]",), "recompute moe and an extra warm-up exclude each other"),
    ],
)
def test_what_megatron_refuses(options: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_plan("k2-pretrain", ("schedule.ep_overlap=true", *options))
