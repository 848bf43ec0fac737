"""The twin is built from a plain mapping and refuses what it doesn't know; its rows are plain data."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from archcalc.errors import InputError
from archcalc.reference import measure
from archcalc.reference.model import build, new_cache
from tests.reference import tiny

pytestmark = pytest.mark.twin


def backbone_with(**more: Any) -> dict[str, Any]:
    return tiny.text(tiny.MLA, [tiny.DENSE, tiny.MOE], **more)


def test_a_missing_size_is_named() -> None:
    spec = backbone_with()
    del spec["backbone"]["attention"]["only"]["kv_lora_rank"]
    with pytest.raises(InputError, match=r"spec\.backbone\.attention\.only\.kv_lora_rank is missing"):
        build(spec)


def test_a_size_of_another_type_is_named() -> None:
    spec = backbone_with(hidden_size="40")
    with pytest.raises(InputError, match=r"spec\.backbone\.hidden_size must be an integer"):
        build(spec)
    with pytest.raises(InputError, match=r"rms_norm_eps must be a number"):
        build(backbone_with(rms_norm_eps=True))


@pytest.mark.parametrize(("side", "name"), [("attention", "only"), ("ffn", "moe"), ("ffn", "dense")])
def test_a_key_that_the_twin_does_not_know_is_refused_unless_null(side: str, name: str) -> None:
    spec = backbone_with()
    spec["backbone"][side][name]["sliding_window"] = None
    build(spec)
    spec["backbone"][side][name]["sliding_window"] = 4096
    with pytest.raises(InputError, match=rf"{side}\.{name}\.sliding_window is unknown to the torch twin"):
        build(spec)


def test_unknown_kinds_are_refused() -> None:
    for kind in ("mha", None):
        spec = backbone_with()
        spec["backbone"]["attention"]["only"]["kind"] = kind
        with pytest.raises(InputError, match="must be one of mla, gqa"):
            build(spec)
    with pytest.raises(InputError, match="must be one of default, linear, yarn, llama3"):
        build(backbone_with(rope_scaling={"type": "ntk", "factor": 2.0}))
    with pytest.raises(InputError, match=r"rope_scaling\.truncate is unknown"):
        build(backbone_with(rope_scaling=tiny.YARN | {"truncate": False}))


def test_layer_counts_must_add_up() -> None:
    with pytest.raises(InputError, match="num_hidden_layers is 3, but the rest makes it 2"):
        build(backbone_with(num_hidden_layers=3))


def totals(spec: dict[str, Any]) -> Counter[str]:
    counted: Counter[str] = Counter()
    for row in measure.parameters(build(spec)):
        counted[row["kind"]] += row["count"] * row["elements"]
    return counted


def test_a_tied_head_is_counted_once() -> None:
    tied = build(backbone_with(tie_word_embeddings=True))
    assert "lm_head.weight" not in {row["path"] for row in measure.parameters(tied)}
    untied = totals(backbone_with())
    assert untied["params"] - totals(backbone_with(tie_word_embeddings=True))["params"] == 50 * 40
    assert measure.state_dict_bytes(tied) == 2 * (untied["params"] - 50 * 40) + 4 * 8


def test_prediction_modules_are_counted_apart() -> None:
    plain, predicting = totals(backbone_with()), totals(backbone_with(num_nextn_predict_layers=1))
    assert predicting["params"] == plain["params"]
    assert predicting["buffers"] == plain["buffers"] == 8
    # one more layer like the last, enorm, hnorm, shared_head.norm, and eh_proj of 40 x 80; a router bias too
    rows = measure.parameters(build(backbone_with()))
    last = sum(r["count"] * r["elements"] for r in rows if ".layers.1." in r["path"] and r["kind"] == "params")
    assert predicting["mtp"] == last + 3 * 40 + 40 * 80
    assert predicting["mtp_buffers"] == 8


def test_without_noaux_tc_there_is_no_bias() -> None:
    greedy = tiny.MOE | {"topk_method": "greedy", "scoring_func": "softmax"}
    assert "buffers" not in totals(tiny.text(tiny.MLA, [greedy]))
    assert totals(tiny.text(tiny.MLA, [greedy]))["params"] == totals(tiny.text(tiny.MLA, [tiny.MOE]))["params"]


@pytest.mark.parametrize(
    ("attention", "width"),
    [(tiny.MLA, 16 + 4), (tiny.GQA, 2 * 2 * 10)],  # latent and rope key; keys and values of two heads
)
def test_cache_bytes_are_those_of_the_allocated_cache(attention: dict[str, Any], width: int) -> None:
    spec = tiny.text(attention, [tiny.DENSE, tiny.DENSE])
    for dtype, item in (("bf16", 2), ("fp8", 1), ("fp32", 4), ("int8", 1)):
        held = measure.kv_bytes(spec, batch=3, context=11, dtype=dtype)
        assert held == {f"model.layers.{layer}.self_attn": width * item * 3 * 11 for layer in (0, 1)}
    with pytest.raises(InputError, match="fp4"):
        measure.kv_bytes(spec, batch=1, context=1, dtype="fp4")


def test_a_prefill_fills_the_cache_to_the_last_row_and_not_past_it() -> None:
    twin = tiny.randomised(tiny.text(tiny.GQA, [tiny.DENSE]))
    cache = new_cache(twin, 2, 6)
    with torch.no_grad():
        twin(tiny.ids(2, 6), cache=cache)
        assert all((rows.abs().amax(dim=(0, 2, 3)) > 0).all() for rows in cache.layers[0].values())
        with pytest.raises(ValueError, match="room is for"):
            twin(tiny.ids(2, 1), cache=cache)


def test_a_cache_takes_the_rows_that_it_was_made_for_alone() -> None:
    cache = new_cache(build(tiny.text(tiny.MLA, [tiny.DENSE])), 2, 6)
    rows = torch.empty(2, 1, 4, device="meta")
    cache.extend(0, {"rope_key": rows})
    with pytest.raises(ValueError, match=r"layer 0 caches \['latent', 'rope_key'\], not \['key'\]"):
        cache.extend(0, {"key": rows})


def test_query_and_key_norms_over_the_whole_projection() -> None:
    twin = tiny.randomised(tiny.text(tiny.GQA | {"qk_norm": "full"}, [tiny.DENSE]))
    rows = {row["path"]: row["elements"] for row in measure.parameters(twin)}
    assert rows["model.layers.0.self_attn.q_norm.weight"] == 4 * 10
    assert rows["model.layers.0.self_attn.k_norm.weight"] == 2 * 10
    assert twin(tiny.ids(1, 5)).shape == (1, 5, 50)


def test_an_mlp_without_a_gate_has_two_matrices() -> None:
    plain = tiny.DENSE | {"gated": False, "mlp_bias": True, "hidden_act": "gelu"}
    rows = [row["path"] for row in measure.parameters(build(tiny.text(tiny.GQA, [plain]))) if ".mlp." in row["path"]]
    assert rows == [f"model.layers.0.mlp.{m}_proj.{p}" for m in ("up", "down") for p in ("weight", "bias")]
