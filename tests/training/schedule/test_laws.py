"""What holds for every schedule, whatever its sizes."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from archcalc.training.schedule import (
    SCHEDULES,
    Op,
    Pipeline,
    Schedule,
    State,
    get_schedule,
    live_states,
    most_live,
)
from archcalc.training.schedule.patterns import Phases, written
from tests.training.schedule.simulated import place_of, simulated
from tests.training.schedule.timing import simulate

Run = tuple[Schedule, Pipeline]


@st.composite
def interleaved(draw: st.DrawFn) -> Pipeline:
    """Groups of any size, the last one full or of at least pp micro-batches, as Megatron-LM allows."""
    pp, vpp = draw(st.integers(2, 6)), draw(st.integers(2, 4))
    group = draw(st.none() | st.integers(pp, pp + 5))
    size = pp if group is None else group
    rest = draw(st.just(0) | st.integers(pp, size - 1)) if size > pp else 0
    micro_batches = size * draw(st.integers(1, 7)) + rest
    extra = draw(st.integers(0, 3))
    return Pipeline(pp=pp, vpp=vpp, micro_batches=micro_batches, group=group, extra_warmup=extra)


@st.composite
def dualpipe(draw: st.DrawFn) -> Pipeline:
    half = draw(st.integers(1, 4))
    return Pipeline(pp=2 * half, micro_batches=2 * draw(st.integers(2 * half, 2 * half + 12)))


@st.composite
def dualpipe_v(draw: st.DrawFn) -> Pipeline:
    pp = draw(st.integers(1, 6))
    return Pipeline(pp=pp, vpp=2, micro_batches=draw(st.integers(2 * pp, 2 * pp + 24)))


@st.composite
def plain(draw: st.DrawFn, kind: str) -> Pipeline:
    schedule = SCHEDULES[kind]
    extra = draw(st.integers(0, 3)) if schedule.takes_extra_warmup else 0
    vpp = schedule.virtual_stages or 1
    return Pipeline(pp=draw(st.integers(1, 8)), vpp=vpp, micro_batches=draw(st.integers(1, 60)), extra_warmup=extra)


SPECIAL = {"interleaved-1f1b": interleaved(), "dualpipe": dualpipe(), "dualpipe-v": dualpipe_v()}


@st.composite
def runs(draw: st.DrawFn) -> Run:
    """A schedule, and a pipeline that it accepts."""
    kind = draw(st.sampled_from(list(SCHEDULES)))
    schedule, pipeline = SCHEDULES[kind], draw(SPECIAL.get(kind, plain(kind)))
    schedule.validate(pipeline)
    return schedule, pipeline


def orders(run: Run) -> list[tuple[Op, ...]]:
    schedule, pipeline = run
    return [schedule.order(pipeline, rank) for rank in range(pipeline.pp)]


def counted(order: tuple[Op, ...]) -> list[tuple[Op, Counter[int], Counter[int]]]:
    """The plain definition: which (chunk, micro-batch) are alive and which wait for W, while each op runs."""
    live: set[tuple[int, int]] = set()
    waiting: set[tuple[int, int]] = set()
    moments = []
    for op in order:
        place = (op.chunk, op.micro_batch)
        if op.kind == "F":
            assert place not in live | waiting
            live.add(place)
        moments.append((op, Counter(c for c, _ in live), Counter(c for c, _ in waiting)))
        if op.kind in ("B", "I"):
            live.remove(place)  # raises KeyError for a backward without its forward
        if op.kind == "I":
            waiting.add(place)
        if op.kind == "W":
            waiting.remove(place)
    assert not live, "a forward without its backward"
    assert not waiting, "an input gradient without its weight gradient"
    return moments


@given(runs())
def test_every_forward_has_exactly_one_backward_whole_or_split(run: Run):
    for order in orders(run):
        assert len(set(order)) == len(order)
        by_kind = defaultdict(set)
        for op in order:
            by_kind[op.kind].add((op.chunk, op.micro_batch))
        assert by_kind["B"].isdisjoint(by_kind["I"])
        assert by_kind["B"] | by_kind["I"] == by_kind["F"]
        assert by_kind["W"] == by_kind["I"]
        assert run[0].splits_backward or not by_kind["I"]
        counted(order)


@given(runs())
def test_every_stage_sees_every_micro_batch_once(run: Run):
    schedule, pipeline = run
    seen: Counter[tuple[int, int]] = Counter()
    for rank, order in enumerate(orders(run)):
        held = schedule.held(pipeline.pp, pipeline.vpp, rank)
        seen.update((held[op.chunk], op.micro_batch) for op in order if op.kind == "F")
    stages = range(schedule.stages(pipeline.pp, pipeline.vpp))
    assert seen == {(stage, m): 1 for stage in stages for m in range(pipeline.micro_batches)}


@given(runs())
def test_each_stage_is_held_by_as_many_ranks_as_there_are_copies(run: Run):
    schedule, pipeline = run
    held = Counter(stage for rank in range(pipeline.pp) for stage in schedule.held(pipeline.pp, pipeline.vpp, rank))
    assert held == dict.fromkeys(range(schedule.stages(pipeline.pp, pipeline.vpp)), schedule.copies)


@given(runs())
def test_the_orders_of_all_ranks_can_run_together(run: Run):
    spans = simulate(*run)  # raises Deadlock if not
    assert [span.busy for span in spans] == [sum(2 if op.kind == "B" else 1 for op in o) for o in orders(run)]
    assert all(span.idle >= 0 for span in spans)


def sizes_of(chunks: int) -> st.SearchStrategy[list[tuple[int, int]]]:
    """Bytes by chunk, and the share that W needs; equal chunks often, as then many states are as large."""
    one = st.integers(0, 1000).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size)))
    return st.lists(one, min_size=chunks, max_size=chunks) | one.map(lambda each: [each] * chunks)


@settings(max_examples=150)
@given(runs(), st.booleans(), st.booleans(), st.data())
def test_the_ends_of_walks_hold_what_going_through_the_whole_order_finds(
    run: Run, ahead: bool, overlap: bool, data: st.DataObject
):
    """By operation, chunk, what goes backward next and what runs beside: the most bytes. And of all states the first
    of the largest, which the walks name as the order does."""
    schedule, pipeline = run
    if overlap and schedule.takes_extra_warmup and (pipeline.pp == 1 or pipeline.vpp > 1):
        pipeline = replace(pipeline, ep_overlap=True, extra_warmup=max(1, pipeline.extra_warmup))
    sizes, shares = zip(*data.draw(sizes_of(schedule.chunks_per_rank(pipeline.vpp))), strict=True)
    for rank in range(pipeline.pp):
        whole = simulated(schedule, pipeline, rank, ahead=ahead)
        walked = live_states(schedule, pipeline, rank, ahead=ahead)
        assert set(walked) <= set(whole)
        assert most_by_place(walked, sizes, shares) == most_by_place(whole, sizes, shares)
        if all(0 < share < size for size, share in zip(sizes, shares, strict=True)):  # else one may cover an equal one
            chosen, first = (max(each, key=lambda state: state.bytes(sizes, shares)) for each in (walked, whole))
            assert chosen == first


def most_by_place(states: Sequence[State], sizes: Sequence[int], shares: Sequence[int]) -> dict[object, int]:
    """The most bytes of all that differs by more than counts."""
    most: dict[object, int] = defaultdict(int)
    for state in states:
        most[place_of(state)] = max(most[place_of(state)], state.bytes(sizes, shares))
    return most


def test_a_step_of_a_million_micro_batches_is_a_handful_of_phases():
    """So that the work does not grow with the batch, on the first rank of 8 and the last: written out, a step of GPipe
    has two million operations."""
    for kind, schedule in SCHEDULES.items():
        vpp = schedule.virtual_stages or 4
        lengths = []
        for micro_batches in (64, 1_000_000):
            pipeline = Pipeline(pp=8, vpp=vpp, micro_batches=micro_batches)
            schedule.validate(pipeline)
            lengths.append([len(schedule.phases(pipeline, rank)) for rank in (0, 7)])
        assert lengths[0] == lengths[1], kind
        assert max(lengths[0]) < 60, kind


@given(runs(), st.data())
def test_no_moment_holds_more_bytes_than_the_worst_state_of_its_kind(run: Run, data: st.DataObject):
    schedule, pipeline = run
    chunks = schedule.chunks_per_rank(pipeline.vpp)
    sizes = data.draw(st.lists(st.integers(0, 1000), min_size=chunks, max_size=chunks), label="bytes by chunk")
    shares = [data.draw(st.integers(0, size), label="share that W needs") for size in sizes]
    rank = data.draw(st.integers(0, pipeline.pp - 1), label="rank")

    most: dict[tuple[str, int], int] = defaultdict(int)
    for op, live, waiting in counted(schedule.order(pipeline, rank)):
        size = sum(live[c] * sizes[c] + waiting[c] * shares[c] for c in range(chunks))
        most[op.kind, op.chunk] = max(most[op.kind, op.chunk], size)

    worst: dict[tuple[str, int], int] = defaultdict(int)
    for state in live_states(schedule, pipeline, rank):
        at = (state.op.kind, state.op.chunk)
        worst[at] = max(worst[at], state.bytes(sizes, shares))
    assert worst == most


@given(runs())
def test_a_state_names_the_moment_at_which_it_is_first_reached(run: Run):
    schedule, pipeline = run
    for rank, order in enumerate(orders(run)):
        chunks = range(schedule.chunks_per_rank(pipeline.vpp))
        moments = counted(order)
        for state in live_states(schedule, pipeline, rank):
            alike = (
                op
                for op, live, waiting in moments
                if op[:2] == state.op[:2]
                and tuple(live[c] for c in chunks) == state.live
                and tuple(waiting[c] for c in chunks) == state.waiting
            )
            assert next(alike) == state.op


@given(interleaved(), st.integers(0, 5))
def test_one_more_warmup_forward_keeps_one_more_chunk_alive_until_all_are(pipeline: Pipeline, rank: int):
    schedule, rank = get_schedule("interleaved-1f1b"), rank % pipeline.pp
    more = Pipeline(
        pp=pipeline.pp,
        vpp=pipeline.vpp,
        micro_batches=pipeline.micro_batches,
        group=pipeline.group,
        extra_warmup=pipeline.extra_warmup + 1,
    )
    before, after = most_live(schedule, pipeline, rank), most_live(schedule, more, rank)
    assert after == min(before + 1, pipeline.micro_batches * pipeline.vpp)


@given(interleaved(), st.lists(st.integers(0, 1000), min_size=4, max_size=4))
def test_the_peak_in_bytes_never_falls_with_extra_warmup(pipeline: Pipeline, sizes: list[int]):
    schedule = get_schedule("interleaved-1f1b")
    chunks = sizes[: pipeline.vpp]

    def peak(extra: int, rank: int) -> int:
        longer = Pipeline(
            pp=pipeline.pp,
            vpp=pipeline.vpp,
            micro_batches=pipeline.micro_batches,
            group=pipeline.group,
            extra_warmup=extra,
        )
        return max(state.bytes(chunks, chunks) for state in live_states(schedule, longer, rank))

    for rank in range(pipeline.pp):
        peaks = [peak(extra, rank) for extra in range(5)]
        assert peaks == sorted(peaks)


@settings(max_examples=20)
@given(st.integers(1, 8), st.integers(1, 60), st.integers(0, 2))
def test_interleaving_a_single_virtual_stage_is_1f1b(pp: int, micro_batches: int, extra: int):
    """Nothing is left to interleave; a plan must say 1f1b, but the order is the same."""
    pipeline = Pipeline(pp=pp, micro_batches=micro_batches, extra_warmup=extra)
    for rank in range(pp):
        assert SCHEDULES["interleaved-1f1b"].order(pipeline, rank) == SCHEDULES["1f1b"].order(pipeline, rank)


@given(dualpipe())
def test_the_two_halves_of_dualpipe_mirror_each_other(pipeline: Pipeline):
    """Rank PP-1-r does with micro-batches from the last rank what rank r does with those from rank 0."""
    schedule = get_schedule("dualpipe")
    for rank in range(pipeline.pp // 2):
        mirrored = [
            Op(op.kind, 1 - op.chunk, op.micro_batch ^ 1) for op in schedule.order(pipeline, pipeline.pp - 1 - rank)
        ]
        assert list(schedule.order(pipeline, rank)) == mirrored


class Written(Schedule):
    """An order that a test writes down."""

    kind = "written"

    def __init__(self, chunks: int, *phases: tuple[int, str]) -> None:
        self.chunks, self.written = chunks, written(*phases)

    def phases(self, pipeline: Pipeline, rank: int) -> Phases:
        return self.written

    def chunks_per_rank(self, vpp: int) -> int:
        return self.chunks


def worst_of(chunks: int, *phases: tuple[int, str]) -> tuple[State, ...]:
    return live_states(Written(chunks, *phases), Pipeline(pp=1, micro_batches=4), 0)


def test_a_covered_state_is_left_out_and_an_uncovered_one_kept():
    # Chunk 0 holds 2 at the second F, chunk 1 then 1 beside 1 of chunk 0: neither covers the other, whatever
    # the sizes.
    assert worst_of(2, (2, "F0"), (1, "B0 F1 B1 B0")) == (
        State(op=Op("F", 0, 1), live=(2, 0), waiting=(0, 0)),
        State(op=Op("B", 0, 0), live=(2, 0), waiting=(0, 0)),
        State(op=Op("F", 1, 0), live=(1, 1), waiting=(0, 0)),
        State(op=Op("B", 1, 0), live=(1, 1), waiting=(0, 0)),
    )


def test_of_states_on_a_line_the_ends_are_kept_also_where_it_is_written_in_two_pieces():
    # Each F of chunk 1 follows a B of chunk 0: 3+1, 2+2, 1+3 alive. Half of 3+1 and 1+3 together is 2+2: one
    # of the ends is at least as large, whatever the sizes.
    for pieces in ([(3, "B0 F1")], [(2, "B0 F1"), (2, "B0 F1")]):
        many = 1 + sum(times for times, _ in pieces)
        forwards = [state.live for state in worst_of(2, (many, "F0"), *pieces) if state.op[:2] == ("F", 1)]
        assert forwards == [(many - 1, 1), (1, many - 1)]


def test_a_split_backward_keeps_its_share_until_the_weight_gradient_ends():
    # Bytes 10, of which W needs 4: F 10; I 10; F 10+4; W 10+4; I 10; W 4.
    found = {state.op: state.bytes([10], [4]) for state in worst_of(1, (1, "F0 I0 F0 W0 I0 W0"))}
    assert found == {Op("F", 0, 1): 14, Op("W", 0, 0): 14, Op("I", 0, 0): 10}
