"""`params --explain`: a sentence, a formula, numbers, a result, a source."""

from __future__ import annotations

from typing import Any

import pytest

from archcalc.documents.document import Report
from archcalc.documents.explain import explain_report
from archcalc.documents.paths import places, starred
from archcalc.errors import InputError
from archcalc.files.loader import load_spec
from archcalc.workload import Workload
from tests.support import spec_of, tiny


def explain(path: str, spec: str = "k25") -> Report:
    return explain_report(load_spec(spec), path)


def rows(report: Report) -> list[Any]:
    assert report.rows is not None
    return list(report.rows.rows)


def test_the_layer_norm_of_the_projector() -> None:
    report = explain("pre_norm")
    assert report.quantities == {"params[mm_projector.pre_norm]": 2304}  # 2 x 1152
    weight, bias = rows(report)
    assert (weight["formula"], weight["numeric"]) == ("mm_hidden_size", "1152")
    assert "mean 0 and variance 1" in weight["about"]
    assert bias["parameters"] == 1152
    assert "result: 1,152 + 1,152 = 2,304 parameters" in report.notes
    assert any(note.startswith("sizes from: moonshotai/Kimi-K2.5 config.json") for note in report.notes)


def test_the_gelu_of_the_projector_has_no_parameters_but_a_purpose() -> None:
    report = explain("mm_projector.proj.1")
    (row,) = rows(report)
    assert (row["parameters"], row["formula"]) == (0, "no weights")
    assert "without it they would collapse into one matrix" in row["about"]


def test_the_second_linear_shows_names_and_then_numbers() -> None:
    weight, _ = rows(explain("proj.2"))
    assert weight["formula"] == "text_hidden_size·(merge_kernel_size²·mm_hidden_size)"
    assert weight["numeric"] == "7168·4608 = 33,030,144"


@pytest.mark.parametrize(
    ("asked", "full", "parameters"),
    [
        ("mm_projector", "mm_projector", 54_277_888),
        ("language_model", "language_model", 1_026_408_209_408),
        ("layers.0", "language_model.model.layers.0", 497_500_160),
        ("layers.60", "language_model.model.layers.60", 17_059_364_864),
        ("layers.1-60", "language_model.model.layers.1-60", 60 * 17_059_364_864),
        (
            "layers.5.mlp.experts.7.up_proj",
            "language_model.model.layers.5.mlp.experts.7.up_proj",
            14_680_064,
        ),  # 2048 x 7168
        ("layers.5.mlp.experts.7", "language_model.model.layers.5.mlp.experts.7", 44_040_192),  # 3 x 2048 x 7168
        (
            "experts.383.down_proj.weight",
            "language_model.model.layers.*.mlp.experts.383.down_proj.weight",
            880_803_840,
        ),  # x 60
        ("experts", "language_model.model.layers.*.mlp.experts", 1_014_686_023_680),
        ("layers.*.mlp", "language_model.model.layers.*.mlp", 1_017_889_947_648),  # 396,361,728 + 60 MoE feed-forwards
        ("blocks.26.wqkv", "vision_tower.encoder.blocks.26.wqkv", 3_984_768),  # 3456 x 1152 + 3456
        ("lm_head", "language_model.lm_head", 1_174_405_120),
    ],
)
def test_the_end_of_a_path_is_enough(asked: str, full: str, parameters: int) -> None:
    assert explain(asked).quantities == {f"params[{full}]": parameters}


def test_each_layer_kind_tells_its_own_purpose() -> None:
    assert explain("layers.0.mlp").notes[0].startswith("Dense feed-forward network")
    assert explain("layers.1.mlp").notes[0].startswith("Mixture of experts")
    assert explain("layers.61", "deepseek-v3").notes[0].startswith("Multi-token prediction")
    assert not any("Multi-token" in note for note in explain("layers.1", "deepseek-v3").notes)


def test_a_buffer_says_that_it_is_none_of_the_parameters() -> None:
    report = explain("e_score_correction_bias")
    assert "result: 0 parameters" in report.notes
    assert "buffers: 23,040 elements, not trained, so not counted" in report.notes


def test_a_buffer_is_no_summand() -> None:
    assert "result: 165,150,720 parameters" in explain("mlp.gate").notes


def test_a_long_sum_is_not_written_out() -> None:
    assert "result: the sum of 31 rows, 1,026,408,209,408 parameters" in explain("language_model").notes


def test_a_tied_head_points_to_the_embedding() -> None:
    report = explain_report(spec_of(tiny(tie_word_embeddings=True)), "lm_head")
    (row,) = rows(report)
    assert (row["parameters"], row["formula"]) == (0, "tied: uses model.embed_tokens.weight, which is counted there")


def test_the_shortest_of_several_is_taken_and_the_others_are_named() -> None:
    report = explain("gate_proj")
    assert report.inputs["explain"] == "language_model.model.layers.*.mlp.gate_proj"
    assert report.notes[-1].startswith("other parts end so: ")
    assert "experts.*.gate_proj" in report.notes[-1]


@pytest.mark.parametrize(
    ("path", "message", "hint"),
    [
        ("pre_nrom", "no part is named", "did you mean pre_norm?"),
        ("layers.5.mpl", "no part is named", "did you mean layers.*.mlp?"),
        ("mm_projectr.proj.0", "no part is named", "did you mean mm_projector.proj.0?"),
        ("layers.61", "no part is named", "language_model.model.layers.1-60"),
        ("experts.384.up_proj", "no part is named", "experts.0-383.up_proj"),
        ("", "no part is named", "lists all parts"),
        (".", "no part is named", "lists all parts"),
        ("act", "could be any of", "give more of the path"),
        ("weight", "could be any of", "give more of the path"),
        ("\x1b[31m", "no part is named", "lists all parts"),
        ("9" * 5000, "no part is named", "lists all parts"),
        ("a." * 5000, "no part is named", "lists all parts"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_part_that_is_not_there_is_an_error_with_a_hint(path: str, message: str, hint: str) -> None:
    with pytest.raises(InputError) as caught:
        explain(path)
    assert message in str(caught.value)
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize("spec", ["k25", "deepseek-v3", "llama-3.1-70b"])
def test_every_part_of_a_model_can_be_explained(spec: str) -> None:
    loaded = load_spec(spec)
    for place in places(loaded.trace(Workload())):
        report = explain_report(loaded, starred(place.template))
        assert all(row["formula"] for row in rows(report))
