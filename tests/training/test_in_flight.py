"""What offload leaves on the device: laws, and equality with a chunk that is written out layer by layer."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archcalc.calc.activations import saved_rows
from archcalc.calc.sharding import Shards
from archcalc.training.chunk import ChunkMemory, SegmentMemory, chunk_memory, segment_memory
from archcalc.training.moments import moment
from archcalc.training.savers import offload_sites, savers
from archcalc.training.schedule import Op, State
from tests.training.plans import k2_plan, ranks, tape_of
from tests.training.replay import running

T, H, K, F = 4096, 7168, 8, 2048
GROUPS = ("attn_norm", "mlp_norm", "expert_fc1", "moe_act")

sizes = st.integers(0, 50)


@st.composite
def segments(draw: st.DrawFn) -> SegmentMemory:
    saved = draw(sizes)
    away, waiting = (draw(st.integers(0, saved)) for _ in range(2))
    return SegmentMemory("a", saved, draw(st.sampled_from((0, away))), waiting, draw(sizes), draw(sizes))


pieces = st.lists(st.tuples(segments(), st.integers(1, 5)), min_size=1, max_size=4)
in_flight = st.integers(0, 8)


def one(size: ChunkMemory, kind: str, after: ChunkMemory | None = None) -> int:
    """Bytes on the device while one chunk runs, the only one alive but for the one that goes backward next."""
    live, following = ((1, 0), None) if after is None else ((1, 1), 1)
    if kind == "W":
        live = (0, live[1])
    waiting = (1, 0) if kind == "W" else (0, 0)
    state = State(op=Op(kind, 0, 0), live=live, waiting=waiting, following=following)  # type: ignore[arg-type]
    found = moment(state, (size, after or size), (0, 0))
    return found.activation + found.transient


@given(pieces, in_flight, st.integers(0, 20), st.sampled_from("FBIW"), st.none() | pieces)
def test_a_run_of_equal_layers_is_what_it_is_written_out(
    held: list[tuple[SegmentMemory, int]],
    flying: int,
    gathered: int,
    kind: str,
    after: list[tuple[SegmentMemory, int]] | None,
) -> None:
    """Each layer in turn, whatever runs; beside a micro-batch of the chunk that goes backward next, or not."""
    layers = [segment for segment, count in held for _ in range(count)]
    size = chunk_memory(held, gathered, flying)
    alone = chunk_memory([(layer, 1) for layer in layers], gathered, flying)
    assert replace(size, entering=(), pieces=()) == replace(alone, entering=(), pieces=())
    others = [segment for segment, count in after or [] for _ in range(count)]
    found, _ = running(Op(kind, 0, 0), layers, others, flying, gathered)  # type: ignore[arg-type]
    beside = sum(each.saved - each.offloadable for each in others)
    beside += sum(layer.waiting for layer in layers) if kind == "W" else 0
    assert one(size, kind, None if after is None else chunk_memory(after, gathered, flying)) == beside + max(found)


@given(pieces, in_flight)
def test_what_waits_has_nothing_offloadable_on_the_device(held: list[tuple[SegmentMemory, int]], flying: int) -> None:
    size = chunk_memory(held, in_flight=flying)
    for kind in ("F", "B", "I"):
        few, many = (
            moment(State(op=Op(kind, 0, 0), live=(n,), waiting=(0,)), (size,), (0, 0))  # type: ignore[arg-type]
            for n in (1, 5)
        )
        assert many.activation - few.activation == 4 * (size.saved - size.offloadable)
        assert many.offloaded - few.offloaded == 4 * size.offloadable
        assert few.activation + few.offloaded == size.saved


@given(pieces, in_flight)
def test_more_copies_in_flight_never_take_less(held: list[tuple[SegmentMemory, int]], flying: int) -> None:
    few, many = (chunk_memory(held, in_flight=each) for each in (flying, flying + 1))
    for kind in "FBI":
        assert one(few, kind) <= one(many, kind)
        assert one(few, kind, few) <= one(many, kind, many)


@given(pieces)
def test_copies_of_every_layer_in_flight_leave_a_running_chunk_where_it_is(
    held: list[tuple[SegmentMemory, int]],
) -> None:
    layers = sum(count for _, count in held)
    stays = [(segment._replace(offloadable=0), count) for segment, count in held]
    away, here = chunk_memory(held, in_flight=layers - 1), chunk_memory(stays)
    assert [one(away, kind) for kind in "FBIW"] == [one(here, kind) for kind in "FBIW"]


def test_copies_in_flight_change_nothing_where_nothing_is_offloaded() -> None:
    for options in ((), ("parallel.vpp=4",), ("schedule.kind=zb-v", "schedule.extra_warmup=0")):
        plain, many = (
            [replace(r, chunk_memory=()) for r in ranks("kimi-k2", "activations.offload=none", each, *options)]
            for each in ("activations.offload_in_flight=1", "activations.offload_in_flight=7")
        )
        assert plain == many


def test_more_in_flight_never_lowers_a_plans_peak() -> None:
    peaks = [[r.peak for r in ranks("kimi-k2", f"activations.offload_in_flight={n}")] for n in (0, 1, 2, 5, 9)]
    assert all(a <= b for few, many in pairwise(peaks) for a, b in zip(few, many, strict=True))
    kept = [r.peak for r in ranks("kimi-k2", "activations.offload=none")]
    assert all(a < b for a, b in zip(peaks[0], kept, strict=True))


def test_by_hand() -> None:
    """Three layers of 10 bytes, of which 6 leave, and a head that keeps 5; a layer takes 3 forward and 4 backward."""
    layer, head = SegmentMemory("layer", 10, 6, 2, 3, 4), SegmentMemory("head", 5, 0, 0, 1, 1)
    size = chunk_memory([(layer, 3), (head, 1)])
    assert (size.saved, size.offloadable, size.in_hand) == (35, 18, 6)  # the last layer, beside the head
    assert size.resident == 3 * 4 + 5
    assert size.forward == 4 - 5 + 6 - 1 + 0  # at the third layer: 12 + 12 + 3 = 27, 4 more than 17 + 6 at the end
    assert size.fetched == (6,)
    assert one(size, "F") == 3 * 4 + 2 * 6 + 3
    assert one(size, "B") == 3 * 4 + 2 * 6 + 4
    assert one(size, "F", size) == one(size, "F") + 17 + 6
    # at the first layer of a backward the next micro-batch's last layer comes: 10 + 4 + 6 + 17, less than at the third
    assert one(size, "B", size) == one(size, "B") + 17
    lone = chunk_memory([(layer, 1)])
    assert one(lone, "B", lone) == 10 + 4 + 4 + 6


def test_a_split_backward_keeps_what_weight_gradients_need() -> None:
    """Two layers of 10 bytes that leave whole, 7 of which weight gradients need. At the second layer: both, and 1 more;
    at the first: it, 1 more, and 7 of the second. With no copy in flight the first is the worse."""
    layer = SegmentMemory("layer", 10, 10, 7, 0, 1)
    assert one(chunk_memory([(layer, 2)]), "I") == 2 * 10 + 1
    assert one(chunk_memory([(layer, 2)], in_flight=0), "I") == 10 + 1 + 7
    assert one(chunk_memory([(layer, 2)], in_flight=0), "B") == 10 + 1
    assert one(chunk_memory([(layer, 2)], in_flight=0), "W") == 2 * 7


# ---------------------------------------------------------------------------------------------- what leaves of a group


def leaving(*groups: str, ways: str = "act", recompute: tuple[str, ...] = (), tokens: int = T) -> int:
    """Bytes that leave of one MoE layer of Kimi K2."""
    tape = tape_of("kimi-k2", k2_plan(f"batch.seq={tokens}", f"batch.global_tokens={tokens * 256}"))
    n = next(n for n, s in enumerate(tape.segments) if any(op.site == "dispatch" for op in s.ops))
    how = savers(kernels="fused", router_probs=ways, cross_entropy="te", recompute=recompute)
    return segment_memory(tape, n, Shards(ep=16), how, offload_sites(groups)).offloadable


def test_a_group_takes_what_its_own_operations_keep() -> None:
    """Inputs of both norms, of the experts' first projection and of their activation; the norms' statistics and the
    probabilities have fewer than 2^20 elements and stay."""
    assert leaving("attn_norm") == leaving("mlp_norm") == T * 2 * H
    assert leaving("expert_fc1") == T * K * 2 * H
    assert leaving("moe_act") == T * K * 2 * 2 * F
    assert leaving(*GROUPS) == T * (2 * 2 * H + K * (2 * H + 4 * F))


def test_what_another_operation_keeps_too_stays() -> None:
    """Attention's output is kept by the projection behind it as well: it leaves with both groups. Its log-sum-exp is
    small."""
    query_key_value = 2 * T * 64 * (192 + 192 + 128)
    assert leaving("core_attn") == query_key_value
    assert leaving("attn_proj") == 0
    assert leaving("core_attn", "attn_proj") == query_key_value + 2 * T * 64 * 128


def test_an_input_of_something_recomputed_leaves_with_its_group() -> None:
    assert leaving("attn_norm", recompute=("layernorm",)) == T * 2 * H
    assert leaving("moe_act", recompute=("swiglu",)) == T * K * 2 * 2 * F


@pytest.mark.parametrize(("tokens", "share"), [(147, 1), (146, 0)])
def test_small_tensors_stay(tokens: int, share: int) -> None:
    """7168 x 147 is the first multiple of the hidden size with 2^20 elements."""
    assert leaving("attn_norm", tokens=tokens) == share * tokens * 2 * H


def test_all_takes_small_ones_too() -> None:
    tape = tape_of("kimi-k2", k2_plan())
    n = next(n for n, s in enumerate(tape.segments) if any(op.site == "dispatch" for op in s.ops))
    how = savers(kernels="fused", router_probs="act", cross_entropy="te")
    every = segment_memory(tape, n, Shards(), how, None)
    assert every.offloadable == every.saved == sum(r.nbytes for r in saved_rows(tape.segments[n], Shards(), how))
    assert chunk_memory([(every, 1)]).resident == 0
