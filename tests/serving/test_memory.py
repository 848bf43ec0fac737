"""Serving memory: what is left for the KV cache, how sure that is, and what it serves."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from archcalc.calc.kv_cache import Mesh, SequenceCache
from archcalc.errors import InputError
from archcalc.serving.deployment import Deployment
from archcalc.serving.engine import Bounds, End
from archcalc.serving.memory import Device, Serving, Word, share_of
from archcalc.serving.overhead import Load, Term, step_of
from archcalc.serving.pools import Pool
from archcalc.tape import ALL
from tests.serving.deployed import CONTEXT, GIB, engine, gpu, served, spec, tape

ENGINES = ("vllm", "vllm-0.8", "vllm-v0", "sglang")
ENDS: tuple[End, ...] = ("low", "middle", "high")


def taken(device: Device, end: End, *, outside: bool | None = None) -> int:
    """Terms at one end: all, or those inside or outside the share [bytes]."""
    return sum(t.bounds.at(end) for t in device.terms if outside is None or t.outside == outside)


# ------------------------------------------------------------------------------------------------- the sum


def test_the_cache_gets_what_weights_and_overhead_leave_of_the_usable_memory() -> None:
    found = served("k25", tp=8)
    usable = 150_121_545_728 * 92 // 100
    assert (found.usable, found.visible) == (usable, 150_121_545_728)
    (device,) = found.devices
    assert device.weights_bytes == sum(w.held for w in device.weights)
    assert found.overhead_bytes == sum(t.bounds.middle for t in device.terms)
    assert found.kv_budget == usable - found.weights_bytes - found.overhead_bytes
    # 61 layers of 512 + 64 features in bf16
    assert found.kv_bytes == CONTEXT * 61 * 1152
    assert found.free == found.kv_budget - found.kv_bytes


@pytest.mark.parametrize("by", ENGINES)
@pytest.mark.parametrize(
    ("name", "where"),
    [("k25", {"tp": 8}), ("llama-3.1-70b", {"tp": 2, "pp": 4}), ("deepseek-v3", {"tp": 2, "dp": 4, "ep": 8})],
)
def test_weights_terms_cache_and_rest_are_what_is_usable_at_every_end(
    by: str, name: str, where: dict[str, Any]
) -> None:
    found = served(name, by=by, load=Load(context=8192, batch=5), **where)
    for device in found.devices:
        assert device.free == device.room() - device.kv_bytes
        for end in ENDS:
            assert device.weights_bytes + taken(device, end) + device.room(end) == device.usable(end)


@pytest.mark.parametrize("by", ["vllm", "vllm-0.8", "vllm-v0"])
def test_vllm_uses_a_share_of_the_visible_memory_and_what_it_leaves_out_of_it(by: str) -> None:
    (device,) = served("k25", by=by, tp=8).devices
    share = Fraction(str(engine(by).utilization))
    for end in ENDS:
        assert device.usable(end) == int(share * 150_121_545_728) + taken(device, end, outside=True)


@pytest.mark.parametrize("name", ["k25", "deepseek-v3", "llama-3.1-70b"])
@pytest.mark.parametrize("utilization", [None, 0.8])
def test_weights_and_cache_are_sglangs_share_of_what_is_free_before_loading(
    name: str, utilization: float | None
) -> None:
    # with absorbed copies and rotary tables, which are loaded with the weights; step and graphs are in the rest
    (device,) = served(name, by="sglang", load=Load(context=1024, utilization=utilization), tp=8).devices
    for end in ENDS:
        non_torch = next(t.bounds.at(end) for t in device.terms if t.kind == "non_torch")
        held = device.weights_bytes + taken(device, end, outside=False) + device.room(end)
        assert held == int(device.share * (150_121_545_728 - non_torch))


def test_a_pool_is_sized_before_anyone_knows_whether_what_is_outside_it_has_room() -> None:
    # at a utilization of 1.0 all memory but weights and inside terms is for the cache, as the engine's log would say
    (device,) = served("k25", by="vllm-0.8", load=Load(context=1024, utilization=1.0), tp=8).devices
    for end in ENDS:
        assert device.room(end) == 150_121_545_728 - device.weights_bytes - taken(device, end, outside=False)
        assert device.beyond(end) == taken(device, end, outside=True)


# ------------------------------------------------------------------------------------------------- its share


@pytest.mark.parametrize(
    ("on", "where", "load", "left"),
    [
        # [MiB] 512, 1.5 a token of 8192, 128 a device, 2 a sequence of 512
        ("h200", {"tp": 8}, Load(context=1), 512 + 12_288 + 1024 + 1024),
        ("h200", {"tp": 2, "pp": 2, "dp": 2}, Load(context=1), 512 + 12_288 + 512 + 1024),
        ("h200", {}, Load(context=1, max_num_seqs=64), 512 + 12_288 + 128 + 128),
        ("b200", {}, Load(context=1), 512 + 24_576 + 128 + 1024),
        # 10 GiB at least from 60 GiB on
        ("h100", {}, Load(context=1, batched_tokens=1024), 10_240),
        ("l4", {}, Load(context=1, batched_tokens=1024, max_num_seqs=8), 512 + 1536 + 128 + 16),
    ],
)
def test_sglangs_default_share_is_what_its_reserve_leaves(
    on: str, where: dict[str, Any], load: Load, left: int
) -> None:
    step = step_of(engine("sglang"), gpu(on), load)
    found = share_of(tape("llama-3.1-70b"), engine("sglang"), gpu(on), Deployment(**where), load, step)
    # SGLang rounds to three decimals
    visible = gpu(on).memory_visible_bytes
    assert found == Fraction(round(1000 * (1 - left * 2**20 / visible)), 1000)


@pytest.mark.parametrize(
    ("name", "load", "left"),
    [
        # [MiB] 8 groups: 128 a device of 8, and for each sequence of each group 4.5, or 3 of 300 and fewer
        ("kimi-k2", Load(context=1), 512 + 12_288 + 8 * 128 + 1024 + 8 * 512 * 4.5),
        ("kimi-k2", Load(context=1, max_num_seqs=300), 512 + 12_288 + 8 * 128 + 600 + 8 * 300 * 3),
        # copies of a dense model share nothing
        ("llama-3.1-70b", Load(context=1), 512 + 12_288 + 128 + 1024),
    ],
)
def test_sglangs_default_share_leaves_more_where_groups_share_experts(name: str, load: Load, left: float) -> None:
    visible = gpu("h200").memory_visible_bytes
    found = served(name, by="sglang", load=load, dp=8, ep=1).worst.share
    assert found == Fraction(round(1000 * (1 - left * 2**20 / visible)), 1000)


def test_sglangs_default_share_of_a_vision_model_is_the_one_that_its_log_prints() -> None:
    # SGLang 0.5.8 on 8 MI355X of 294,896 MiB: mem_fraction_static=0.8260405859375. 512 + 1.5·16384 + 8·128 + 2·512 MiB
    # are left: 0.908; times 0.95·(1 - 0.1·(27·1152²/(24·1024²) - 1)) for the tower
    share = served("k25", "mi355x", "sglang", Load(context=1), tp=8).worst.share
    assert float(share) == 0.8260405859375
    text = served("k25", "mi355x", "sglang", Load(context=1, language_only=True), tp=8).worst.share
    assert text == Fraction(908, 1000)


@pytest.mark.parametrize("by", ["sglang", "vllm-v0"])
def test_engines_that_divide_no_context_refuse_to(by: str) -> None:
    with pytest.raises(InputError, match=f"{by} does not divide context"):
        served("k25", by=by, tp=8, dcp=8)


def test_a_model_drafts_in_one_way() -> None:
    with pytest.raises(InputError, match="two ways to draft"):
        served("deepseek-v3", load=Load(context=1024, mtp=True), draft=spec("kimi-k2"), tp=8)


def test_a_share_that_is_given_is_taken_as_it_is_written() -> None:
    for by in ENGINES:
        load = Load(context=1, utilization=0.7)
        step = step_of(engine(by), gpu("h200"), load)
        assert share_of(tape("k25"), engine(by), gpu("h200"), Deployment(), load, step) == Fraction(7, 10)


def test_graphs_on_top_of_the_share_never_shrink_the_pool_and_those_inside_do() -> None:
    rooms: dict[str, list[list[int]]] = {}
    for by in ("vllm-0.8", "vllm", "sglang"):
        rooms[by] = []
        for eager in (False, True):
            (device,) = served("llama-3.1-70b", "mi300x", by=by, load=Load(context=1024, eager=eager)).devices
            rooms[by].append([device.room(end) for end in ENDS])
    assert rooms["vllm-0.8"][0] == rooms["vllm-0.8"][1]
    assert rooms["sglang"][0] == rooms["sglang"][1]
    # 102 graphs of 80 layers: none, or 0.45 GiB + 250 kB each
    most = 483_183_820 + 102 * 80 * 250_000
    less = [eager - captured for captured, eager in zip(*rooms["vllm"], strict=True)]
    assert less == [0, most // 2, most]


# --------------------------------------------------------------------------------------------------- verdict


def filled(nbytes: int) -> Serving:
    """k25 on eight devices, its load's cache of that size."""
    found = served("k25", load=Load(context=1024), tp=8)
    return replace(found, devices=tuple(replace(device, sequence_bytes=nbytes) for device in found.devices))


def test_the_verdict_turns_where_the_margins_pass_zero() -> None:
    (device,) = served("k25", load=Load(context=1024), tp=8).devices
    low, middle, high = (device.room(end) for end in ("high", "middle", "low"))
    expected: list[tuple[int, Word, bool]] = [
        (low, "fits", True),
        (low + 1, "tight", True),
        (middle, "tight", True),
        (middle + 1, "tight", False),
        (high, "tight", False),
        (high + 1, "does not fit", False),
    ]
    assert [(n, filled(n).word, filled(n).fits) for n, *_ in expected] == expected
    assert filled(low).margins.low == 0
    assert filled(high).margins.high == 0


def test_exactly_full_fits_and_one_byte_more_does_not() -> None:
    found = served("k25", load=Load(context=CONTEXT, overhead=0), tp=8)
    full = served("k25", load=Load(context=CONTEXT, overhead=found.free), tp=8)
    assert (full.free, full.word) == (0, "fits")
    assert served("k25", load=Load(context=CONTEXT, overhead=found.free + 1), tp=8).word == "does not fit"


def test_no_room_is_zero_and_not_negative() -> None:
    found = served("k25", "h100", tp=8)
    assert (found.kv_budget, found.max_tokens, found.max_batch, found.fits) == (0, 0, 0, False)
    assert found.word == "does not fit"
    assert found.kv_bounds == Bounds(0, 0)
    assert found.free < 0


# ------------------------------------------------------------------------------------- what is outside the share

GRAPHS = Bounds(214_748_364 + 102 * 61 * 120_000, 483_183_820 + 102 * 61 * 250_000)
"""k25's under vllm-0.8, 102 sizes of 61 layers: 0.2 GiB + 120 kB to 0.45 GiB + 250 kB each [bytes]."""


@pytest.mark.parametrize(
    ("utilization", "beside", "word"),
    [
        # an H200 has 150,121,545,728 B; 2 % are more than the most, 2,038,683,820
        (0.98, 3_002_430_915, "fits"),
        # 1 % is more than the least, 961,388,364, and less than the most
        (0.99, 1_501_215_458, "tight"),
        # half a per cent is less than the least
        (0.995, 750_607_729, "does not fit"),
    ],
)
def test_graphs_need_room_beside_the_share(utilization: float, beside: int, word: Word) -> None:
    # one short sequence: the pool itself has room at every end
    found = served("k25", by="vllm-0.8", load=Load(context=1024, utilization=utilization), tp=8)
    (device,) = found.devices
    assert device.room("high") > GIB + device.kv_bytes
    assert [device.beyond(end) for end in ENDS] == [GRAPHS.at(end) - beside for end in ENDS]
    assert found.word == word
    assert found.fits == (word != "does not fit")
    if word == "fits":
        assert found.margin == found.free
        assert found.margins.low == device.room("high") - device.kv_bytes
    elif word == "tight":
        assert found.margin == found.free  # the least has room: the verdict is of the pool
        assert found.margins.low == beside - GRAPHS.high == -537_468_362
        assert found.margins.high == device.room("low") - device.kv_bytes
    else:
        assert found.margin == beside - GRAPHS.low == -210_780_635
        assert found.margins == Bounds(beside - GRAPHS.high, beside - GRAPHS.low)
        assert found.free > 0  # the pool it asked for would do


@pytest.mark.parametrize(
    ("fraction", "low", "high", "word"),
    [
        # what the fraction leaves of 148,296,184,628 B free at the least of non-torch memory, 1.7 GiB, and of
        # 147,329,816,986 at the most of it, 2.6 GiB: 0.02, 0.015 and 0.01 of them, each rounded up
        (0.98, 2_965_923_693, 2_946_596_340, "fits"),
        (0.985, 2_224_442_770, 2_209_947_255, "tight"),
        (0.99, 1_482_961_847, 1_473_298_170, "does not fit"),
    ],
)
def test_sglangs_step_and_graphs_need_room_beside_its_fraction(
    fraction: float, low: int, high: int, word: Word
) -> None:
    # a step: 5 hidden states and the caches of Marlin's kernel, 8192·(5·7168 + 8·(7168 + 256))·2 B; 51 graphs of 61
    # layers: 0.1 GiB + 60 kB to 0.5 GiB + 250 kB each
    step = 8192 * (5 * 7168 + 8 * (7168 + 256)) * 2
    least, most = step + 107_374_182 + 51 * 61 * 60_000, step + 536_870_912 + 51 * 61 * 250_000
    found = served("k25", by="sglang", load=Load(context=1024, utilization=fraction), tp=8)
    (device,) = found.devices
    assert (device.beyond("low"), device.beyond("high")) == (least - low, most - high)
    assert found.word == word
    assert found.fits == (word != "does not fit")
    if word == "does not fit":
        assert found.margin == low - least == -371_353_423


def alone(low: int, high: int, cached: int, share: Fraction = Fraction(9, 10)) -> Device:
    """A device of 1000 bytes with a term outside the share and a cache of 1 byte a token."""
    cache = SequenceCache(stages=(((ALL, 1),),), mesh=Mesh())
    return Device(
        stage=range(1),
        weights=(),
        terms=(Term("cuda_graphs", Bounds(low, high), outside=True),),
        visible=1000,
        share=share,
        share_of_free=False,
        sequences=1,
        cache=cache,
        sequence_bytes=cached,
    )


def together(*devices: Device) -> Serving:
    return Serving(where=Deployment(), devices=devices, load=Load(context=1), pool=Pool(), padded=())


@pytest.mark.parametrize(
    ("low", "high", "cached", "margin", "margins", "word"),
    [
        # a pool of 900, and 100 beside it
        (0, 100, 900, 0, (0, 0), "fits"),
        (100, 101, 900, 0, (-1, 0), "tight"),
        (101, 101, 900, -1, (-1, -1), "does not fit"),
        # the larger lack counts: of the pool, 50, or beside it
        (0, 101, 950, -50, (-50, -50), "does not fit"),
        (0, 180, 950, -50, (-80, -50), "does not fit"),
        (180, 200, 950, -80, (-100, -80), "does not fit"),
        # what there is beside it is nothing to the pool: 40 are left of it
        (0, 0, 860, 40, (40, 40), "fits"),
    ],
)
def test_a_margin_is_of_the_pool_or_of_what_stands_beside_it(
    low: int, high: int, cached: int, margin: int, margins: tuple[int, int], word: Word
) -> None:
    found = together(alone(low, high, cached))
    assert (found.margin, found.margins, found.word) == (margin, margins, word)
    assert found.fits == (margin >= 0)


def test_the_worst_device_is_the_one_with_the_least_margin_and_each_end_has_its_own() -> None:
    pool, beside = alone(0, 0, 890), alone(90, 130, 800)
    found = together(pool, beside)
    assert found.worst is pool  # 10 are left of one pool, 100 of the other
    assert found.margins == Bounds(-30, 10)  # 130 where 100 have room; 10 of the first pool
    assert found.word == "tight"
    full = alone(110, 130, 800)
    assert together(pool, full).worst is full
    assert together(pool, full).margin == -10


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(["k25", "llama-3.1-70b", "gemma-3-27b"]),
    by=st.sampled_from(ENGINES),
    tp=st.sampled_from([4, 8]),
    utilization=st.floats(0.5, 1),
)
def test_what_is_called_a_fit_never_takes_more_than_there_is(name: str, by: str, tp: int, utilization: float) -> None:
    found = served(name, by=by, load=Load(context=8192, batch=4, utilization=utilization), tp=tp)
    for device in found.devices:
        all_of_it = {end: device.weights_bytes + taken(device, end) + device.kv_bytes for end in ENDS}
        if found.word == "fits":
            assert all(all_of_it[end] <= device.usable(end) <= device.visible for end in ENDS)
        if found.fits:
            assert all_of_it["middle"] <= device.usable()
            assert device.usable("low") <= device.visible


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(["k25", "llama-3.1-70b", "gemma-3-27b"]),
    by=st.sampled_from(ENGINES),
    context=st.integers(1, 200_000),
    more=st.integers(0, 200_000),
    batch=st.integers(1, 64),
    tp=st.sampled_from([2, 4, 8]),
)
def test_a_longer_context_or_a_larger_batch_never_fits_better(
    name: str, by: str, context: int, more: int, batch: int, tp: int
) -> None:
    # V0 cuts prompts into short steps where the context is above this, and takes less for them than for whole ones
    assume(by != "vllm-v0" or (context <= 32_768) == (context + more <= 32_768))
    few = served(name, by=by, load=Load(context=context, batch=batch), tp=tp)
    longer = served(name, by=by, load=Load(context=context + more, batch=batch), tp=tp)
    larger = served(name, by=by, load=Load(context=context, batch=batch + 1), tp=tp)
    words: tuple[Word, ...] = ("does not fit", "tight", "fits")
    for other in (longer, larger):
        assert other.free <= few.free
        assert words.index(other.word) <= words.index(few.word)
        assert other.margin <= few.margin
        for a, b in zip(few.devices, other.devices, strict=True):
            assert all(b.margin(end) <= a.margin(end) for end in ENDS)
    for found in (few, longer, larger):
        assert found.margins.low <= found.margin <= found.margins.high
        for device in found.devices:
            assert device.margin("high") <= device.margin() <= device.margin("low")
            assert device.margin() <= device.free


# ------------------------------------------------------------------------------------------ what it can serve


@settings(max_examples=30, deadline=None)
@given(
    name=st.sampled_from(["k25", "llama-3.1-70b", "gemma-3-27b"]),
    by=st.sampled_from(["vllm", "vllm-0.8", "sglang"]),
    tp=st.sampled_from([4, 8]),
    dp=st.sampled_from([1, 2]),
    utilization=st.floats(0.5, 1),
)
def test_the_longest_context_and_the_largest_batch_fit_and_no_more_do(
    name: str, by: str, tp: int, dp: int, utilization: float
) -> None:
    # a context as long as eight of it hold all the latents that are expanded
    base = 10_000
    found = served(name, "mi300x", by, Load(context=base, utilization=utilization), tp=tp, dp=dp)

    def fits(context: int, batch: int = 1) -> bool:
        how = Load(context=context, batch=batch, utilization=utilization)
        return served(name, "mi300x", by, how, tp=tp, dp=dp).fits

    longest = found.max_context
    assert longest is not None
    if longest > base:
        assert fits(longest)
        assert not fits(longest + 1)
    assert found.max_batch is not None
    if found.max_batch:
        assert fits(base, found.max_batch)
    assert not fits(base, found.max_batch + 1)


def test_decode_context_parallelism_serves_eight_times_the_tokens() -> None:
    one, eight = served("k25", tp=8), served("k25", tp=8, dcp=8)
    assert one.max_tokens
    assert eight.max_tokens == 8 * one.max_tokens
    assert eight.kv_bytes == one.kv_bytes // 8  # 131,072 tokens divide into pages


def test_pages_are_the_profiles_for_what_is_cached() -> None:
    assert [served(name, tp=8).block_size for name in ("k25", "llama-3.1-70b")] == [64, 16]
    assert served("k25", by="vllm-v0", tp=8).block_size == 16
    assert served("k25", by="sglang", tp=8).block_size == 1
    assert served("k25", load=Load(context=CONTEXT, block_size=128), tp=8).block_size == 128


def test_heads_must_divide_over_tp() -> None:
    with pytest.raises(InputError, match="num_attention_heads 64 can't be divided over tp 7"):
        served("k25", tp=7)


# ------------------------------------------------------------------------------------ data parallel, pipelines


def test_data_parallel_groups_hold_different_sequences_and_none_a_longer_one() -> None:
    found = served("k25", dp=8, ep=8)
    assert found.max_context
    assert found.max_tokens == 8 * found.max_context
    alone = served("k25", load=Load(context=CONTEXT, batch=8), dp=8, ep=8)
    assert alone.kv_bytes == found.kv_bytes  # one sequence a group
    nine = served("k25", load=Load(context=CONTEXT, batch=9), dp=8, ep=8)
    assert (nine.devices[0].sequences, nine.kv_bytes) == (2, 2 * found.kv_bytes)  # two of them somewhere
    assert found.max_batch is not None
    assert found.max_batch % 8 == 0


def test_every_layer_is_on_one_stage_and_nothing_else_twice() -> None:
    found = served("llama-3.1-70b", load=Load(context=1024), pp=8)
    assert [device.stage for device in found.devices] == [range(n, n + 10) for n in range(0, 80, 10)]
    # layers of q and o 8192², k and v 8192·1024, three of 8192·28,672, two norms
    layer = 2 * (2 * 8192**2 + 2 * 8192 * 1024 + 3 * 8192 * 28_672 + 2 * 8192)
    table = 2 * 128_256 * 8192
    assert [device.weights_bytes for device in found.devices] == [
        10 * layer + table,
        *[10 * layer] * 6,
        10 * layer + table + 2 * 8192,
    ]
    assert sum(device.weights_bytes for device in found.devices) == 141_107_412_992


def test_a_tied_embedding_counts_on_both_ends_of_a_pipeline() -> None:
    whole = served("gemma-3-27b", load=Load(context=1024)).weights_bytes
    found = served("gemma-3-27b", load=Load(context=1024), pp=2)
    assert sum(device.weights_bytes for device in found.devices) == whole + 2 * 262_208 * 5376


def test_the_worst_stage_decides() -> None:
    # stages of 7, 7, 8, 8, 8, 8, 8 and 7 layers; the last one samples and has the head
    found = served("k25", load=Load(context=8192), pp=8)
    rooms = [device.room() for device in found.devices]
    caches = [8192 * 1152 * n for n in (7, 7, 8, 8, 8, 8, 8, 7)]
    assert [device.sequence_bytes for device in found.devices] == caches
    assert found.free == min(room - nbytes for room, nbytes in zip(rooms, caches, strict=True)) == found.worst.free
    # tokens in whole pages of 64
    tokens = [room // (1152 * n) // 64 * 64 for room, n in zip(rooms, (7, 7, 8, 8, 8, 8, 8, 7), strict=True)]
    assert found.max_context == found.max_tokens == min(tokens)
    assert found.max_batch == min(room // nbytes for room, nbytes in zip(rooms, caches, strict=True))


def test_stages_multiply_with_groups() -> None:
    found = served("k25", load=Load(context=8192, batch=3), tp=2, pp=2, dp=2, ep=4)
    assert found.where.devices == 8
    assert found.max_context
    assert found.max_tokens == 2 * found.max_context
    assert {device.sequences for device in found.devices} == {2}


def test_more_stages_than_layers_are_refused() -> None:
    with pytest.raises(InputError, match="pp 62 is more than the 61 layers"):
        served("k25", pp=62)
