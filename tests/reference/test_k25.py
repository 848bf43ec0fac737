"""The twin of Kimi K2.5 at full size, on meta, against figures from outside."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from archcalc.reference import measure
from archcalc.reference.model import Model, build, text_of

pytestmark = pytest.mark.twin


@pytest.fixture(scope="module")
def spec() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(
        (Path(__file__).parents[2] / "specs" / "k25.yaml").read_text(encoding="utf-8")
    )
    return loaded


@pytest.fixture(scope="module")
def twin(spec: dict[str, Any]) -> Model:
    return build(spec)


def test_parameters_and_buffers_are_those_of_the_checkpoint(twin: Model) -> None:
    totals: Counter[str] = Counter()
    for row in measure.parameters(twin):
        totals[row["kind"]] += row["count"] * row["elements"]
    # the shard headers of the release (moonshotai/Kimi-K2.5) hold 1,026,879,376,368 elements, 60 x 384 of
    # them router biases: tests/published/parameters.yaml, k25-checkpoint-elements
    assert totals == {"params": 1_026_879_353_328, "buffers": 23_040}
    assert totals.total() == 1_026_879_376_368


def test_rows_are_unfolded_with_experts_as_a_count(twin: Model) -> None:
    rows = {row["path"]: row for row in measure.parameters(twin)}
    assert len(rows) == len(measure.parameters(twin))
    expert = rows["language_model.model.layers.3.mlp.experts.*.gate_proj.weight"]
    assert (expert["count"], expert["elements"], expert["dtype"]) == (384, 2048 * 7168, "bfloat16")
    bias = rows["language_model.model.layers.3.mlp.gate.e_score_correction_bias"]
    assert (bias["elements"], bias["dtype"], bias["kind"]) == (384, "float32", "buffers")
    assert rows["vision_tower.patch_embed.pos_emb.weight"]["elements"] == 64 * 64 * 1152
    assert rows["mm_projector.pre_norm.bias"]["elements"] == 1152  # before the merge: 1152 features, not 4608
    assert not [path for path in rows if "time" in path or "frequencies" in path]


def test_forward_flops_with_full_scores(spec: dict[str, Any], twin: Model) -> None:
    counted = measure.flops(spec, seq=4096, backward=True, model=twin)
    # 73,606,234,112 a token for Kimi K2 at 4096 with full scores; 61 x 2 x 4096^2 x 64 x (192 + 128) in scores
    assert 301_491_134_922_752 == 4096 * 73_606_234_112
    assert sum(forward for forward, _ in counted.values()) == 301_491_134_922_752
    assert {backward / forward for forward, backward in counted.values()} == {2}
    cores = [forward for path, (forward, _) in counted.items() if path.endswith(".self_attn.core")]
    assert cores == [2 * 4096**2 * 64 * (192 + 128)] * 61


def test_absorbed_decode_adds_34_8_gflop_for_4096_cached_tokens(spec: dict[str, Any], twin: Model) -> None:
    counted = measure.flops(spec, seq=1, context=4095, mla="absorbed", model=twin)
    # 2 x 61 layers x 64 heads x (2 x 512 + 64) a row, 4096 rows with the new one
    assert sum(n for path, (n, _) in counted.items() if path.endswith("core")) == 34_795_945_984


def test_cache_is_70272_bytes_a_token_in_bf16(spec: dict[str, Any], twin: Model) -> None:
    # 61 layers x (512 + 64) x 2 bytes, the same for every head
    held = measure.kv_bytes(spec, batch=3, context=1000, model=twin)
    assert sum(held.values()) == 70_272 * 3 * 1000
    assert held["language_model.model.layers.60.self_attn"] == 576 * 2 * 3 * 1000
    assert sum(measure.kv_bytes(spec, batch=1, context=7, dtype="fp8", model=twin).values()) == 35_136 * 7


def test_a_plain_checkpoint_has_two_bytes_a_parameter_and_four_a_router_bias(twin: Model) -> None:
    assert measure.state_dict_bytes(twin) == 2 * 1_026_879_353_328 + 4 * 23_040
    assert measure.state_dict_bytes(twin, "float32") == 4 * 1_026_879_376_368


def test_cache_layers_are_the_decoder_layers(twin: Model) -> None:
    assert text_of(twin).model.depth == 61
