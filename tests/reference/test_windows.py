"""A sliding window: as many products as it leaves, a cache that rolls, and the values of a masked dense core."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch

from archcalc.errors import InputError
from archcalc.reference import measure
from archcalc.reference.flops import flops
from archcalc.reference.guards import TwinError
from archcalc.reference.kernels.cores import View, counted, windows
from archcalc.reference.model import Model, build, new_cache
from tests.reference import tiny

pytestmark = pytest.mark.twin

# tiny.py: 4 query heads and 2 key heads of 10 features, hidden 40; the window of LOCAL is 7
W = 7
CORE = "model.layers.0.self_attn.core"


def spec_with(**attention: Any) -> dict[str, Any]:
    return tiny.text(tiny.GQA | {"sliding_window": W} | attention, [tiny.DENSE, tiny.DENSE])


@pytest.mark.parametrize(
    ("seq", "context", "pairs"),
    [
        (5, 0, 5 * 5),  # nothing is hidden: all keys
        (7, 0, 7 * 7),
        (8, 0, 8 * W),  # one row too many: each query has the window's keys, those before the first masked
        (30, 0, 30 * W),
        (1, 6, 7),  # the seventh row
        (1, 7, W),
        (1, 30, W),
        (4, 30, 4 * W),
        (4, 2, 4 * 6),
    ],
)
def test_a_core_multiplies_the_pairs_that_a_window_leaves(seq: int, context: int, pairs: int) -> None:
    counted = flops(spec_with(), seq=seq, context=context, batch=3)
    assert counted[CORE][0] == 2 * 3 * pairs * 4 * (10 + 10)
    assert counted["model.layers.1.self_attn.core"] == counted[CORE]


def test_backward_through_a_window_is_twice_the_forward() -> None:
    counted = flops(spec_with(), seq=30, backward=True)
    assert counted[CORE] == (2 * 30 * W * 4 * 20, 4 * 30 * W * 4 * 20)
    assert {backward / forward for forward, backward in counted.values()} == {2}


def test_a_window_of_one_sees_the_row_itself() -> None:
    counted = flops(spec_with(sliding_window=1), seq=9, backward=True)
    assert counted[CORE] == (2 * 9 * 4 * 20, 4 * 9 * 4 * 20)


@torch.no_grad()
@pytest.mark.parametrize("cached", [0, 3, 20])
def test_the_windowed_core_is_the_dense_core_with_a_window_mask(cached: int) -> None:
    generator = torch.Generator().manual_seed(0)
    rows, keys = 11, cached + 11
    q = torch.randn(2, rows, 4, 10, generator=generator)
    k, v = (torch.randn(2, keys, 2, width, generator=generator) for width in (10, 6))
    query, key = torch.arange(cached, keys)[:, None], torch.arange(keys)
    seen = (key <= query) & (key > query - W)  # itself and the W - 1 before it
    assert seen.sum(-1).tolist() == [min(cached + row + 1, W) for row in range(rows)]
    heads_first = [tensor.transpose(1, 2) for tensor in (q, k, v)]
    attention = torch.nn.functional.scaled_dot_product_attention
    dense = attention(*heads_first, attn_mask=seen, scale=0.3, enable_gqa=True).transpose(1, 2)
    assert torch.allclose(counted(q, k, v, 0.3, View(window=W)), dense, atol=1e-6)


def parted(twin: Model, ids: torch.Tensor, cuts: list[int]) -> torch.Tensor:
    """Logits of `ids` in pieces that end at `cuts`, with a cache."""
    cache = new_cache(twin, len(ids), cuts[-1])
    return torch.cat([twin(ids[:, start:end], cache=cache) for start, end in pairwise([0, *cuts])], dim=1)


@torch.no_grad()
@pytest.mark.parametrize(
    "cuts",
    [list(range(1, 25)), [3, 5, 24], [20, 21, 22, 23, 24], [7, 8, 24], [6, 20, 24], [24]],
    ids=["row by row", "a short start", "a long prompt", "a full window first", "one less", "at once"],
)
def test_steps_with_a_rolling_cache_are_one_full_pass(cuts: list[int]) -> None:
    twin, ids = tiny.randomised(tiny.gemma()), tiny.ids(2, 24)
    whole = twin(ids)
    stepped = parted(twin, ids, cuts)
    assert (stepped - whole).abs().max() <= 1e-5 * whole.abs().max()


@torch.no_grad()
def test_a_row_beyond_the_window_changes_nothing_in_one_layer() -> None:
    twin = tiny.randomised(tiny.text(tiny.GQA | {"sliding_window": W}, [tiny.DENSE]))
    ids, other = tiny.ids(1, 20), tiny.ids(1, 20)
    other[:, 5] += 1
    changed = [(row, bool(difference)) for row, difference in enumerate((twin(ids) != twin(other)).any(-1)[0])]
    assert [row for row, difference in changed if difference] == list(range(5, 5 + W))


def test_a_window_keeps_no_more_rows_than_it_sees() -> None:
    spec = tiny.gemma()  # layers: two local, one global, twice, one local
    for context, kept in ((5, 5), (7, 7), (40, W)):
        held = measure.kv_bytes(spec, batch=3, context=context)
        row = 3 * 2 * 2 * 10 * 2  # sequences, keys and values, heads, features, bf16
        expected = [kept, kept, context, kept, kept, context, kept]
        assert list(held.values()) == [rows * row for rows in expected]
        assert list(held) == [f"model.layers.{layer}.self_attn" for layer in range(7)]


@torch.no_grad()
def test_a_rolling_cache_ends_at_its_capacity_too() -> None:
    twin = tiny.randomised(spec_with())
    cache = new_cache(twin, 1, 9)
    twin(tiny.ids(1, 9), cache=cache)
    assert cache.layers[0]["key"].shape[1] == W
    with pytest.raises(ValueError, match="room is for"):
        twin(tiny.ids(1, 1), cache=cache)


def test_a_core_that_ignores_its_window_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    cores = "archcalc.reference.kernels.cores"
    monkeypatch.setattr(f"{cores}.windows", lambda x, rows, window: windows(x, rows, window + 1))
    monkeypatch.setattr(f"{cores}.window_mask", lambda rows, _, window, like: like.new_zeros(rows, window + 1))
    flops(spec_with(), seq=W)
    with pytest.raises(TwinError, match="halved, or not all"):
        flops(spec_with(), seq=W + 1)


def test_a_prediction_modules_window_does_not_see_the_cache() -> None:
    spec = tiny.text(tiny.GQA | {"sliding_window": W}, [tiny.DENSE], num_nextn_predict_layers=1)
    counted = flops(spec, seq=3, context=30, mtp=True)
    assert counted[CORE][0] == 2 * 3 * W * 4 * 20
    assert counted["model.layers.1.self_attn.core"][0] == 2 * 3 * 3 * 4 * 20


def test_a_window_of_no_rows_is_refused() -> None:
    with pytest.raises(InputError, match="sliding_window must be at least 1"):
        build(spec_with(sliding_window=0))


def test_rotation_is_the_sections_own_the_backbones_or_none() -> None:
    own = {"rope_theta": 100.0, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}
    spec = tiny.text(
        tiny.GQA,
        [tiny.DENSE],
        attention={
            "own": tiny.GQA | {"rope_parameters": own},
            "plain": tiny.GQA,
            "still": tiny.GQA | {"rope_parameters": {"rope_theta": None}, "head_dim": 5},  # odd: nothing turns in pairs
        },
        layers=[{"count": 1, "attention": name, "ffn": "dense"} for name in ("own", "plain", "still")],
        num_hidden_layers=3,
    )
    ropes = build(spec, device="cpu").get_submodule("model.ropes")
    frequencies: dict[str, Any] = {name: rope.frequencies for name, rope in ropes.named_children()}
    exponents = torch.arange(0, 10, 2) / 10  # five pairs of a head of 10
    assert frequencies.keys() == {"own", "plain"}
    assert torch.allclose(frequencies["own"], 100.0**-exponents / 2)
    assert torch.allclose(frequencies["plain"], 50000.0**-exponents)


@torch.no_grad()
def test_without_a_theta_nothing_rotates_and_a_head_may_be_odd() -> None:
    still = tiny.randomised(tiny.text(tiny.GQA | {"head_dim": 5}, [tiny.DENSE], rope_theta=None))
    ids = tiny.ids(1, 9)
    swapped = ids[:, [1, 0, *range(2, 9)]]
    assert torch.allclose(still(ids)[:, 2:], still(swapped)[:, 2:], atol=1e-5)  # the order of others is not seen
    turned = tiny.randomised(tiny.text(tiny.GQA, [tiny.DENSE]))
    assert not torch.allclose(turned(ids)[:, 2:], turned(swapped)[:, 2:], atol=1e-3)
    latent = tiny.randomised(tiny.text(tiny.MLA, [tiny.DENSE], rope_theta=None))
    assert torch.allclose(latent(ids)[:, 2:], latent(swapped)[:, 2:], atol=1e-5)


@pytest.mark.parametrize(
    ("attention", "more", "message"),
    [
        (tiny.GQA | {"rope_parameters": "off"}, {}, "rope_parameters must be a mapping"),
        (tiny.GQA | {"rope_parameters": {"rope_theta": None, "rope_scaling": tiny.LLAMA3}}, {}, "stretches nothing"),
        (tiny.GQA | {"rope_parameters": {"rope_theta": 1e4, "factor": 8.0}}, {}, r"rope_parameters\.factor is unknown"),
        (tiny.MLA | {"rope_parameters": {"rope_theta": None}}, {}, r"only\.rope_parameters is unknown"),
        (tiny.MLA | {"sliding_window": 7}, {}, r"only\.sliding_window is unknown"),
        (tiny.GQA, {"rope_theta": None, "rope_scaling": tiny.LLAMA3}, "stretches nothing"),
    ],
)
def test_what_rotates_nothing_or_wrongly_is_refused(
    attention: dict[str, Any], more: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        build(tiny.text(attention, [tiny.DENSE], **more))
