"""Pages that layers share which cache different stretches of a sequence: groups, padding, and what they hold."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archcalc.calc.kv_cache import Mesh, SequenceCache, sequence_cache
from archcalc.serving.deployment import Deployment
from archcalc.serving.engine import Engine
from archcalc.serving.memory import Device, Serving, layers_by_span
from archcalc.serving.overhead import Load
from archcalc.serving.pools import Pool, pooled
from archcalc.tape import ALL, SEQUENCE, Span
from tests.serving.deployed import engine, served, tape

LAYER = 2 * 16 * 128 * 2  # Gemma 3 27B: keys and values of 16 heads of 128 in bf16, a token [bytes]
PAGE = 16
WINDOW = Span("window", 1024)


def gemma(by: Engine | None = None, tokens: int = 8192) -> tuple[SequenceCache, Pool]:
    """Gemma 3 27B's cache on one device as an engine pages it, whose step has so many tokens."""
    found = sequence_cache(tape("gemma-3-27b"), "bf16", Mesh(block_size=PAGE))
    return pooled(found, layers_by_span(tape("gemma-3-27b"), range(62)), by or engine("vllm-0.8"), tokens)


def alike(*layers: tuple[Span, int]) -> tuple[SequenceCache, Pool]:
    """Layers of 1 byte a token each, so many of each span, in pages of 4 tokens and steps of 8."""
    cache = SequenceCache(stages=(tuple(layers),), mesh=Mesh(block_size=4))
    return pooled(cache, dict(layers), engine(), 8)


# ---------------------------------------------------------------------------------------------------- groups


def test_gemma_3_27b_has_seven_groups_of_ten_layers_and_eight_of_padding() -> None:
    # 10 layers cache all tokens, 52 a window: one group, and six of which the last has two layers
    assert layers_by_span(tape("gemma-3-27b"), range(62)) == {Span("window", 1024, "sliding_window"): 52, ALL: 10}
    assert gemma()[1] == Pool(hybrid=True, group=10, groups=7, padding=8, windows=True)


@pytest.mark.parametrize(
    ("full", "windows", "pool"),
    [
        # vLLM's logs: Gemma 3 12B and 4B
        (8, 40, Pool(hybrid=True, group=8, groups=6, windows=True)),
        (5, 29, Pool(hybrid=True, group=5, groups=7, padding=1, windows=True)),
        # fewer than half as many more: groups of the commonest, and the rarer one is padded
        (10, 14, Pool(hybrid=True, group=14, groups=2, padding=4, windows=True)),
        (10, 15, Pool(hybrid=True, group=10, groups=3, padding=5, windows=True)),
        (12, 12, Pool(hybrid=True, group=12, groups=2, windows=True)),
    ],
)
def test_groups_have_the_rarest_sorts_size_unless_all_are_about_as_common(full: int, windows: int, pool: Pool) -> None:
    assert alike((WINDOW, windows), (ALL, full))[1] == pool


def test_layers_that_are_all_alike_need_no_groups() -> None:
    cache, pool = alike((ALL, 12))
    assert (cache.stages, pool) == ((((ALL, 12),),), Pool())
    # windows hold the 8 tokens of a step and a page of 4 more, whether all layers have them or some
    cache, pool = alike((WINDOW, 12))
    assert (cache.stages, pool) == ((((WINDOW._replace(size=1023 + 8 + 4), 12),),), Pool())


# ----------------------------------------------------------------------------------------- what a sequence takes


@pytest.mark.parametrize(
    ("tokens", "pages"),
    [
        (1, 7),  # one page of each group
        (16, 7),
        (17, 14),
        (8192, 7 * 512),
        # a window holds 1023 tokens and the 8192 of a step, 9215 in 576 pages, and one page more
        (131_072, 8192 + 6 * 577),
    ],
)
def test_a_page_serves_ten_layers_and_windows_hold_a_step_more(tokens: int, pages: int) -> None:
    assert gemma()[0].at(tokens) == pages * PAGE * 10 * LAYER


def test_a_smaller_step_leaves_smaller_windows() -> None:
    # 1023 + 512 = 1535 tokens in 96 pages, and one more
    assert gemma(tokens=512)[0].at(131_072) == (8192 + 6 * 97) * PAGE * 10 * LAYER


def test_chunks_are_held_as_windows_are_and_a_state_in_a_page() -> None:
    # 2 layers of each: windows of 1023 + 8 tokens in 258 pages of 4 and one more; chunks of 16 + 8 in 6 pages, which
    # begin where a page does; 2000 tokens in 500; a state of a byte a layer in a page of 4
    cache, pool = alike((WINDOW, 2), (Span("chunk", 16), 2), (ALL, 2), (SEQUENCE, 2))
    assert cache.at(2000) == 2 * 4 * 259 + 2 * 4 * 6 + 2 * 2000 + 2 * 4
    assert (pool.windows, pool.states) == (True, True)


def test_a_page_has_as_many_tokens_as_make_it_hold_a_state() -> None:
    # vllm-project/vllm#32492: Qwen3-Next "uses non-standard block size (544)". A token has 2 x 2 x 256 elements in each
    # of 12 layers; a state, which vLLM keeps in bf16, 32 x 128 x 128 and 3 columns of 8192 channels in each of 36
    token, state = 2 * 2 * 256 * 2, (32 * 128 * 128 + 3 * 8192) * 2
    stage = ((ALL, 12 * token), (SEQUENCE, 36 * state))
    cache = SequenceCache(stages=(stage,), mesh=Mesh(block_size=16))
    found, pool = pooled(cache, {ALL: 12, SEQUENCE: 36}, engine(), 8192)
    assert found.mesh.block_size == 544
    assert pool == Pool(hybrid=True, group=12, groups=4, states=True)
    # three groups of states and 2 pages of tokens, of 12 layers each
    assert found.at(545) == 12 * (3 + 2) * 544 * token


def test_an_engine_without_groups_keeps_windows_whole() -> None:
    cache, pool = gemma(engine("vllm-v0"))
    assert pool == Pool(whole=True)
    assert cache.at(131_072) == 131_072 * 62 * LAYER
    for by in ("sglang", "vllm-v0"):
        assert served("gemma-3-27b", by=by, load=Load(context=16_384)).kv_bytes == 16_384 * 62 * LAYER


def test_an_engine_without_groups_still_keeps_a_state_as_it_is() -> None:
    cache = SequenceCache(stages=(((SEQUENCE, 5), (ALL, 3)),), mesh=Mesh())
    kept, pool = pooled(cache, {SEQUENCE: 5, ALL: 3}, engine("vllm-v0"), 8)
    assert (kept.at(100), pool) == (305, Pool())


@settings(max_examples=60, deadline=None)
@given(
    full=st.integers(1, 40),
    windows=st.integers(1, 40),
    tokens=st.integers(1, 10_000),
    size=st.integers(1, 3000),
)
def test_groups_never_hold_less_than_their_layers_cache(full: int, windows: int, tokens: int, size: int) -> None:
    layers = ((Span("window", size), windows), (ALL, full))
    found, pool = alike(*layers)
    assert found.at(tokens) >= SequenceCache(stages=(layers,), mesh=Mesh(block_size=4)).at(tokens)
    assert pool.group * pool.groups == full + windows + pool.padding
    assert pool.padding < 2 * pool.group


# ------------------------------------------------------------------------------------------------------ log


def with_room(room: int, context: int) -> Serving:
    """A device of Gemma 3 27B whose whole memory is for the cache."""
    cache, pool = gemma()
    device = Device(
        stage=range(62),
        weights=(),
        terms=(),
        visible=room,
        share=Fraction(1),
        share_of_free=False,
        sequences=1,
        cache=cache,
        sequence_bytes=cache.at(context),
    )
    return Serving(where=Deployment(), devices=(device,), load=Load(context=context), pool=pool, padded=())


@pytest.mark.parametrize("context", [1024, 4096, 8192])
def test_gemma_3_27b_caches_what_vllm_logs(context: int) -> None:
    # vLLM 0.19: 19.53 GiB are 15,997 pages of 10 layers of 16 tokens, and 36,560 tokens: 15,997 // 7 groups = 2285
    # pages of 16. Contexts are no longer than a window and a step, so that every group holds all of them.
    room = 15_997 * 10 * PAGE * LAYER
    assert room / 2**30 == pytest.approx(19.53, abs=0.005)
    assert 15_997 // 7 * 16 == 36_560
    found = with_room(room, context).max_tokens
    assert found is not None
    assert 0 <= found - 36_560 < PAGE


def test_windows_serve_more_tokens_of_longer_sequences() -> None:
    # one of 131,072 tokens takes 8192 pages of the full group and 577 of each of the six others: 11,654
    room = 15_997 * 10 * PAGE * LAYER
    assert with_room(room, 131_072).max_tokens == 15_997 * 131_072 // 11_654
