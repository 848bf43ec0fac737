"""DeepSeek-V3.2's sparse attention: what the indexer costs, picks, caches and lets through; values are compared with
transformers in test_numbers.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from archcalc.errors import InputError
from archcalc.reference import measure
from archcalc.reference.flops import flops
from archcalc.reference.guards import TwinError, refuse_gradient
from archcalc.reference.indexer import IndexCore
from archcalc.reference.kernels.cores import chosen_keys
from archcalc.reference.model import build
from archcalc.reference.saved import measure as measure_saved
from tests.reference import tiny

pytestmark = pytest.mark.twin

# tiny.py: hidden 40, query latent 24, key latent 16, 4 heads of 8 + 4 query and 6 value features;
# the indexer has J 8 heads of D 10 features and picks K 9 rows
K, J, D = 9, 8, 10
SPEC = tiny.text(tiny.SPARSE, [tiny.DENSE, tiny.MOE])
PLAIN = tiny.text(tiny.MLA, [tiny.DENSE, tiny.MOE])
PATH = "model.layers.0.self_attn"


def indexer_of(rows: int, pairs: int) -> dict[str, int]:
    """Forward FLOPs by hand: rows and pairs of all sequences."""
    return {
        "wq_b": 2 * rows * 24 * J * D,
        "wk": 2 * rows * 40 * D,
        "weights_proj": 2 * rows * 40 * J,
        "core": 2 * pairs * J * D + 2 * pairs * J,  # q k of every head, then their weighted sum
    }


@pytest.mark.parametrize("absorbed", [False, True])
@pytest.mark.parametrize(("seq", "context"), [(5, 0), (9, 0), (10, 0), (30, 0), (1, 8), (1, 9), (3, 30)])
def test_the_indexer_scores_every_pair_and_the_core_the_picked_ones(seq: int, context: int, absorbed: bool) -> None:
    counted = flops(SPEC, seq=seq, context=context, batch=2, mla="absorbed" if absorbed else "expanded")
    every = context + seq
    expected = {f"{PATH}.indexer.{name}": n for name, n in indexer_of(2 * seq, 2 * seq * every).items()}
    features = (16 + 4) + 16 if absorbed else (8 + 4) + 6
    expected[f"{PATH}.core"] = 2 * (2 * seq * min(every, K)) * 4 * features
    # latents are expanded again, all of them; absorbed, the new rows' queries and values alone
    expected[f"{PATH}.kv_b_proj"] = 2 * 2 * (seq if absorbed else every) * 16 * 4 * (8 + 6)
    assert {path: counted[path][0] for path in expected} == expected


def test_one_index_head_counts_too() -> None:
    one = tiny.MLA | {"indexer": tiny.INDEXER | {"index_n_heads": 1}}
    counted = flops(tiny.text(one, [tiny.DENSE]), seq=20)
    assert counted[f"{PATH}.indexer.core"][0] == 2 * 400 * D + 2 * 400


def test_all_else_counts_as_without_an_indexer() -> None:
    sparse, plain = flops(SPEC, seq=30, backward=True), flops(PLAIN, seq=30, backward=True)
    assert {path for path in sparse if ".indexer." not in path} == plain.keys()
    assert {path for path in plain if plain[path] != sparse[path]} == {
        f"model.layers.{n}.self_attn.core" for n in (0, 1)
    }


def test_no_gradient_reaches_the_indexer_and_twice_the_forward_all_others() -> None:
    counted = flops(SPEC, seq=30, backward=True)
    assert {backward for path, (_, backward) in counted.items() if ".indexer." in path} == {0}
    assert {backward / forward for path, (forward, backward) in counted.items() if ".indexer." not in path} == {2}


def test_a_gradient_into_an_indexer_is_refused() -> None:
    refuse_gradient({"a.indexer.wk": 0})
    with pytest.raises(TwinError, match=r"a gradient reaches b\.indexer\.wk: 7 backward FLOPs"):
        refuse_gradient({"a.indexer.wk": 0, "b.indexer.wk": 7})


def test_a_core_that_ignores_the_picks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("archcalc.reference.indexer.Indexer.forward", lambda *_: None)
    model = build(PLAIN | {"backbone": SPEC["backbone"]})
    with pytest.raises(TwinError, match=r"0 forward FLOPs for model\.layers\.0\.self_attn\.indexer"):
        flops(SPEC, seq=30, model=model)
    monkeypatch.setattr("archcalc.reference.flops.refuse_zero", lambda *_: None)
    flops(SPEC, seq=K, model=model)
    with pytest.raises(TwinError, match="halved, or not all"):
        flops(SPEC, seq=K + 1, model=model)


def test_parts_have_the_checkpoints_names_and_a_layer_norm() -> None:
    rows = {row["path"]: row["elements"] for row in measure.parameters(build(SPEC))}
    inside = {
        path.removeprefix(f"{PATH}.indexer."): n for path, n in rows.items() if path.startswith(f"{PATH}.indexer.")
    }
    assert inside == {
        "wq_b.weight": 24 * J * D,
        "wk.weight": 40 * D,
        "k_norm.weight": D,
        "k_norm.bias": D,
        "weights_proj.weight": 40 * J,
    }


def test_the_index_key_is_cached_under_the_indexers_path() -> None:
    for dtype, item in (("bf16", 2), ("fp8", 1)):
        held = measure.kv_bytes(SPEC, batch=3, context=11, dtype=dtype)
        assert held == {
            f"model.layers.{layer}.self_attn{part}": width * item * 3 * 11
            for layer in (0, 1)
            for part, width in (("", 16 + 4), (".indexer", D))
        }


@torch.no_grad()
def test_only_picked_rows_are_seen() -> None:
    twin: Any = tiny.randomised(tiny.text(tiny.SPARSE, [tiny.DENSE]))
    picks: list[torch.Tensor] = []
    twin.model.layers[0].self_attn.indexer.register_forward_hook(lambda _m, _x, out: picks.append(out))
    ids = tiny.ids(1, 20)
    before = twin(ids)
    last = set(picks[0][0, -1].tolist())
    assert picks[0].shape == (1, 20, K)
    assert all(len(set(row.tolist())) == K for row in picks[0][0])
    for row in range(19):
        # replace a row's latent alone, index key left as it is: it matters to the last row if it was picked
        layer = twin.model.layers[0].self_attn
        handle = layer.kv_a_layernorm.register_forward_hook(lambda _m, _x, out, row=row: _shifted(out, row))
        changed = not torch.equal(twin(ids)[:, -1], before[:, -1])
        handle.remove()
        assert changed == (row in last)


def _shifted(latent: torch.Tensor, row: int) -> torch.Tensor:
    latent = latent.clone()
    latent[:, row] += 1.0
    return latent


@torch.no_grad()
def test_index_scores_are_weighted_sums_of_positive_parts() -> None:
    generator = torch.Generator().manual_seed(2)
    q, k = torch.randn(2, 3, J, D, generator=generator), torch.randn(2, 5, D, generator=generator)
    weights = torch.randn(2, 3, J, generator=generator)
    by_hand = torch.zeros(2, 3, 5)
    for sequence in range(2):
        for row in range(3):
            for key in range(5):
                for head in range(J):
                    product = (q[sequence, row, head] * k[sequence, key]).sum().clamp(min=0)
                    by_hand[sequence, row, key] += weights[sequence, row, head] * product
    assert torch.allclose(IndexCore()(q, k, weights), by_hand, atol=1e-5)


def test_keys_are_gathered_query_by_query() -> None:
    rows = torch.arange(2 * 4 * 3.0).view(2, 4, 1, 3)
    picked = torch.tensor([[[3, 0], [1, 1]], [[2, 0], [0, 3]]])
    found = chosen_keys(rows, picked)
    assert found.shape == (2, 2, 2, 1, 3)
    assert torch.equal(found[0, 0, 0], rows[0, 3])
    assert torch.equal(found[1, 1, 1], rows[1, 3])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q_lora_rank": None}, r"only\.indexer reads the query latent, and q_lora_rank is null"),
        ({"indexer": tiny.INDEXER | {"index_head_dim": 3}}, "4 features turn, more than an index head has"),
        ({"indexer": tiny.INDEXER | {"index_topk": None}}, "index_topk must be an integer"),
        ({"indexer": tiny.INDEXER | {"rope": True}}, r"indexer\.rope is unknown"),
    ],
)
def test_an_indexer_that_cannot_be_is_refused(change: dict[str, Any], message: str) -> None:
    spec = tiny.text(tiny.SPARSE | change, [tiny.DENSE])
    with pytest.raises(InputError, match=message):
        build(spec)


def test_for_backward_only_the_picks_are_kept() -> None:
    # int32 numbers of K rows for each of 32 queries; a core that is recomputed keeps them as an input
    for options in (
        {},
        {"kernels": "eager"},
        {"recompute": frozenset({"mla_up_proj"})},
        {"recompute": frozenset({"core_attn"})},
    ):
        given: dict[str, Any] = {"seq": 32, "router_probs": "out", **options}
        sparse, plain = measure_saved(SPEC, **given), measure_saved(PLAIN, **given)
        more = {path: sparse[path] - plain[path] for path in plain}
        assert more == {path: 32 * K * 4 if ".layers." in path else 0 for path in plain}


def test_a_sequence_shorter_than_the_picks_keeps_as_many_as_there_are() -> None:
    sparse, plain = (measure_saved(each, seq=K - 2)["model.layers.0"] for each in (SPEC, PLAIN))
    assert sparse - plain == (K - 2) * (K - 2) * 4


def test_plain_code_masks_and_keeps_no_picks() -> None:
    sparse, plain = (measure_saved(each, seq=32, core="unfused")["model.layers.0"] for each in (SPEC, PLAIN))
    assert sparse == plain
