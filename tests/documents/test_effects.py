"""What each changed field does by itself, and which fields a limit is laid to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from archcalc.documents.compare import effects
from archcalc.documents.compare.effects import applied
from archcalc.documents.compare.fields import MISSING, FieldChange, field_changes
from archcalc.documents.diff import diff_report, exceeded
from archcalc.documents.document import Report
from archcalc.errors import InputError
from tests.support import ROOT

K25 = (ROOT / "specs" / "k25.yaml").read_text()
LAYERS = (("num_hidden_layers: 61", "num_hidden_layers: 62"), ("{count: 60,", "{count: 61,"))
TOWER = ("vt_num_hidden_layers: 27", "vt_num_hidden_layers: 30")
LATENT = ("kv_lora_rank: 512", "kv_lora_rank: 480")

TOWER_LAYER = 4 * (1152 * 1152 + 1152) + 2 * 1152 * 4304 + 4304 + 1152 + 4 * 1152
"""Of MoonViT: q, k, v and out with bias, both matrices of its MLP with bias, two LayerNorms."""


@pytest.fixture
def edited(tmp_path: Path) -> Callable[..., str]:
    """A copy of k25.yaml with replacements; each must match exactly once."""

    def edit(*changes: tuple[str, str], name: str = "edited.yaml") -> str:
        text = K25
        for old, new in changes:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return edit


def fields(report: Report) -> dict[str, dict[str, Any]]:
    (found,) = [table for table in report.tables if table.name == "fields"]
    return {row["field"]: dict(row) for row in found.rows}


def alone(report: Report, name: str) -> dict[str, Any]:
    """By how much a field changes each quantity by itself."""
    return {row["quantity"]: row["delta"] for row in fields(report)[name]["alone"]}


def test_each_field_is_applied_alone(edited: Callable[..., str]) -> None:
    report = diff_report("k25", edited(TOWER, LATENT))
    tower = alone(report, "vision.vt_num_hidden_layers")
    assert tower["params.vision"] == tower["params.total"] == 3 * TOWER_LAYER
    assert not [name for name in tower if name.startswith("kv.")]
    latent = alone(report, "backbone.attention.mla.kv_lora_rank")
    assert latent["kv.bytes_per_token"] == -32 * 2 * 61  # 32 elements of bf16 in 61 layers
    # down to the latent from 7168, its norm, up from it to keys and values of 64 heads (128 + 128), in 61 layers
    assert latent["params.total"] == -32 * (7168 + 1 + 64 * 256) * 61
    assert "params.vision" not in latent


def test_effects_of_a_field_alone_are_those_of_a_spec_with_that_field_alone(edited: Callable[..., str]) -> None:
    both, one = edited(TOWER, LATENT), edited(LATENT, name="one.yaml")
    (quantities,) = [table for table in diff_report("k25", one).tables if table.name == "quantities"]
    assert fields(diff_report("k25", both))["backbone.attention.mla.kv_lora_rank"]["alone"] == list(quantities.rows)


def test_fields_that_make_no_spec_alone_are_applied_together_and_say_so(edited: Callable[..., str]) -> None:
    found = fields(diff_report("k25", edited(*LAYERS, TOWER)))
    count, depth = "backbone.layers[1].count", "backbone.num_hidden_layers"
    assert (list(found[count]["with"]), list(found[depth]["with"])) == ([depth], [count])
    assert found[count]["alone"] == found[depth]["alone"]
    assert found["vision.vt_num_hidden_layers"]["with"] == ()
    assert {row["quantity"]: row["delta"] for row in found[count]["alone"]}["kv.bytes_per_token"] == (512 + 64) * 2


def test_no_more_fields_are_taken_together_than_are_needed() -> None:
    # A tower needs a way into the backbone, and a scheme of another kind its own keys and none of the other's.
    found = fields(diff_report("kimi-k2", "k25"))
    assert (found["vision"]["with"], found["projector"]["with"]) == (("projector",), ("vision",))
    scheme = "storage.routed_expert."
    assert set(found[f"{scheme}scheme"]["with"]) == {
        f"{scheme}{key}" for key in ("num_bits", "group_size", "block_size")
    }


def test_a_field_that_changes_no_number_has_no_effect(edited: Callable[..., str]) -> None:
    report = diff_report("k25", edited(("rope_theta: 50000.0\n", "rope_theta: 60000.0\n")))
    assert alone(report, "backbone.rope_theta") == {}


def test_the_work_is_bounded_and_what_was_left_out_is_said(
    edited: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(effects, "MOST_FIELDS", 1)
    report = diff_report("k25", edited(TOWER, LATENT))
    found = fields(report)
    assert found["backbone.attention.mla.kv_lora_rank"]["alone"]
    assert found["vision.vt_num_hidden_layers"]["alone"] is None
    assert "the first 1 changed fields were applied to BASE, 1 others were not" in report.notes[-1]


def test_no_more_specs_are_made_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(effects, "MOST_SPECS", 3)
    made = Mock(side_effect=applied)
    monkeypatch.setattr(effects, "applied", made)
    found = fields(diff_report("kimi-k2", "k25"))
    assert made.call_count == 3
    assert found["projector"]["alone"] is None


def test_changes_are_applied_to_lists_and_sections() -> None:
    before = {"a": [{"n": 1}, {"n": 2}, {"n": 3}], "b": {"c": 1, "d": 2}, "e": None}
    after = {"a": [{"n": 1}, {"n": 5}], "b": {"c": 1, "f": 3}, "e": {"g": 1}}
    for one, other in ((before, after), (after, before)):
        assert applied(one, field_changes(one, other, ())) == other
    assert applied(after, [FieldChange(("a", 2), MISSING, {"n": 9})])["a"][-1] == {"n": 9}
    assert before["b"] == {"c": 1, "d": 2}


# ------------------------------------------------------------------------------------------------ limits


def test_a_limit_is_laid_to_the_fields_that_move_its_quantity_that_way(edited: Callable[..., str]) -> None:
    limits = ["params.vision:+0", "kv.bytes_per_token:±0", "params.total:±0", "params[vision_tower]:+0"]
    report = diff_report("k25", edited(TOWER, LATENT, *LAYERS), limits=limits)
    moved = {finding["quantity"]: [each["field"] for each in finding["moved_by"]] for finding in report.findings}
    assert moved["params.vision"] == moved["params[vision_tower]"] == ["vision.vt_num_hidden_layers"]
    # a smaller latent takes 32 x 2 bytes from each of 61 layers; a layer more adds (512 + 64) x 2: together less
    assert moved["kv.bytes_per_token"] == ["backbone.attention.mla.kv_lora_rank"]
    # a layer of experts outweighs three of the tower; the latent goes the other way
    assert moved["params.total"] == ["backbone.num_hidden_layers", "vision.vt_num_hidden_layers"]


# ------------------------------------------------------------------------------------ what is compared too


def test_serving_and_training_are_compared_where_they_are_asked_for(edited: Callable[..., str]) -> None:
    head = edited(("n_routed_experts: 384", "n_routed_experts: 512"))
    flags: dict[str, Any] = {"gpu": "h200", "gpus": 8, "plan": "k2-pretrain", "context": 8192}
    limits = ["serve.fits:-0", "serve.margin_bytes:-1GiB", "train.peak_bytes:+1%", "kv.total_bytes:±0"]
    report = diff_report("k25", head, limits=limits, **flags)
    (table,) = [table for table in report.tables if table.name == "quantities"]
    found = {row["quantity"]: row for row in table.rows}
    # 128 more experts of 60 layers, whose three matrices take 4 bits and a bf16 scale for each 32 weights; a GPU of 8
    # holds an eighth of each, and the router, in bf16, whole
    experts = 128 * 60 * 3 * 2048 * 7168
    held = experts // 8 * 9 // 16 + 128 * 60 * (7168 * 2 + 4)
    assert abs(found["serve.weights_bytes"]["delta"] - held) < 1 << 20  # shapes of packed tensors beside them
    assert found["train.params_bytes"]["delta"] > 0
    assert report.extra["unchanged"]["kv.total_bytes"] == 8192 * 70_272
    assert [finding["verdict"] for finding in report.findings][1:] == ["exceeded", "exceeded", "kept"]
    assert all(
        finding["moved_by"][0]["field"] == "backbone.ffn.moe.n_routed_experts" for finding in report.findings[1:3]
    )
    for words in ("8 x h200", "k2-pretrain", "8,192 tokens"):
        assert words in report.notes[0]
    assert {name: report.inputs[name] for name in flags} == flags


def test_a_limit_on_whether_it_fits_is_exceeded_where_it_no_longer_does(edited: Callable[..., str]) -> None:
    report = diff_report(
        "k25",
        edited(("n_routed_experts: 384", "n_routed_experts: 4096")),
        gpu="h200",
        gpus=8,
        limits=["serve.fits:-0", "serve.gpus:±0"],
    )
    assert [finding["verdict"] for finding in report.findings] == ["exceeded", "kept"]
    assert (report.findings[0]["before"], report.findings[0]["after"]) == (1, 0)
    assert [each["field"] for each in report.findings[0]["moved_by"]] == ["backbone.ffn.moe.n_routed_experts"]
    failed = exceeded(report)
    assert failed is not None
    assert "serve.fits:-0: 1 → 0" in failed.lines[0]
    assert ": 1 of 2 limits exceeded; serve.fits yes → no, " in report.title


def test_the_workload_names_a_tower_only_where_a_side_has_one() -> None:
    assert "a vision tower that is shown an image" in diff_report("kimi-k2", "k25").notes[0]
    for image in ([], [(448, 448)]):
        (note,) = diff_report("kimi-k2", "deepseek-v3", image=image).notes
        assert note.startswith(
            "Compared at a fixed workload: FLOPs of a prefill of 4,096 text tokens, batch 1, causal; "
        )


def test_images_are_seen_by_the_side_that_has_a_tower() -> None:
    report = diff_report("kimi-k2", "k25", image=[(448, 448)], seq=1000)
    (table,) = [table for table in report.tables if table.name == "quantities"]
    found = {row["quantity"]: row for row in table.rows}
    assert (found["vision.tokens"]["before"], found["vision.tokens"]["after"]) == (0, 16 * 16)  # 448 / 28 a side
    assert "1,000 text tokens and an image of 448 x 448" in report.notes[0]


@pytest.mark.parametrize(
    ("limit", "hint"), [("serve.fits:-0", "add --gpu NAME"), ("train.peak_bytes:+1%", "add --plan PLAN")]
)
def test_a_limit_on_what_was_not_asked_says_how_to_ask(limit: str, hint: str) -> None:
    with pytest.raises(InputError, match="not among the quantities compared here") as caught:
        diff_report("k25", "kimi-k2", limits=[limit])
    assert caught.value.hint == hint


@pytest.mark.parametrize(("flags", "message"), [({"set": ["parallel.pp=8"]}, "--set"), ({"gpus": 8}, "--gpus")])
def test_a_flag_that_says_nothing_alone_is_refused(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"{message} says nothing without"):
        diff_report("k25", "kimi-k2", **flags)


@pytest.mark.parametrize("flag", ["gpu", "plan"])
def test_an_unknown_plan_or_gpu_is_no_fault_of_a_side(flag: str) -> None:
    asked: dict[str, Any] = {flag: "nowhere"}
    with pytest.raises(InputError, match='is named "nowhere"') as caught:
        diff_report("k25", "kimi-k2", **asked)
    assert caught.value.problems[0].source is None


def test_a_side_that_does_not_fit_the_plan_is_named() -> None:
    with pytest.raises(InputError) as caught:
        diff_report("k25", "llama-3.1-8b", plan="k2-pretrain")
    (problem,) = caught.value.problems
    assert problem.message.startswith("llama-3.1-8b: ep needs routed experts")
    assert (problem.source or "").endswith("k2-pretrain.yaml")
