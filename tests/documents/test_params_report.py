"""The `params` report: rows that add up, under every flag."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archcalc.documents.params import params_report
from archcalc.errors import InputError
from archcalc.files.loader import load_spec
from tests.support import BUNDLED, data, spec_of, tiny


def rows(name: str, **flags: Any) -> list[dict[str, Any]]:
    table = params_report(load_spec(name), **flags).rows
    assert table is not None
    return [dict(row) for row in table.rows]


def leaves(found: list[dict[str, Any]]) -> int:
    return sum(row["parameters"] for row in found if row["leaf"])


K25 = 1_026_879_353_328
DEEPSEEK, DEEPSEEK_MTP = 671_026_404_352, 11_610_067_968


@pytest.mark.parametrize("name", BUNDLED)
@pytest.mark.parametrize(
    "flags", [{}, {"depth": 1}, {"depth": 3}, {"top": 4}, {"top": 2, "depth": 2}, {"by": "role"}], ids=str
)
def test_the_total_is_the_sum_of_the_leaf_rows(name: str, flags: dict[str, Any]) -> None:
    report = params_report(load_spec(name), **flags)
    found = report.quantities
    assert leaves(rows(name, **flags)) == found["params.total"] + found["params.mtp"]


@pytest.mark.parametrize("name", BUNDLED)
def test_every_group_is_the_sum_of_the_rows_right_below_it(name: str) -> None:
    found = rows(name)
    for i, row in enumerate(found):
        if not row["leaf"]:
            below = []
            for other in found[i + 1 :]:
                if other["depth"] <= row["depth"]:
                    break
                if other["depth"] == row["depth"] + 1:
                    below.append(other)
            assert row["parameters"] == sum(r["parameters"] for r in below), row["path"]
            assert row["buffers"] == sum(r["buffers"] for r in below), row["path"]
            assert all(r["path"].startswith(row["path"] + ".") for r in below)


def test_repeated_layers_are_folded_and_say_how_often_they_stand() -> None:
    found = {row["path"]: row for row in rows("k25")}
    assert found["language_model.model.layers.1-60"]["label"] == "layers.1-60 x60"
    assert found["language_model.model.layers.1-60.mlp.experts.0-383"]["label"] == "experts.0-383 x384"
    up = found["language_model.model.layers.1-60.mlp.experts.0-383.up_proj.weight"]
    assert (up["shape"], up["copies"]) == ([2048, 7168], 23_040)  # 60 x 384
    assert found["vision_tower.encoder.blocks.0-26"]["label"] == "blocks.0-26 x27"


def test_a_buffer_is_listed_with_its_size_and_counts_nothing() -> None:
    (row,) = (row for row in rows("k25") if row["path"].endswith("e_score_correction_bias"))
    assert (row["parameters"], row["buffers"], row["dtype"]) == (0, 23_040, "float32")
    assert row["label"] == "e_score_correction_bias (buffer of 23,040)"


def test_shares_of_the_leaves_add_up_to_one() -> None:
    for name in ("k25", "deepseek-v3"):
        assert sum(row["share"] for row in rows(name) if row["leaf"] and row["share"] is not None) == pytest.approx(1)


def test_multi_token_prediction_is_a_tree_of_its_own_without_shares() -> None:
    found = rows("deepseek-v3")
    (top,) = (row for row in found if row["path"] == "model.layers.61")
    assert (top["parameters"], top["share"], top["depth"]) == (DEEPSEEK_MTP, None, 0)
    (model,) = (row for row in found if row["path"] == "model")
    assert model["parameters"] == DEEPSEEK - 926_679_040  # all but the head; the module is not in
    assert any(
        "model.layers.61 is multi-token prediction" in note for note in params_report(load_spec("deepseek-v3")).notes
    )


def test_depth_cuts_the_tree_and_makes_leaves_of_what_is_cut() -> None:
    found = rows("k25", depth=1)
    assert [(row["path"], row["parameters"], row["leaf"]) for row in found] == [
        ("language_model", 1_026_408_209_408, True),
        ("vision_tower", 416_866_032, True),
        ("mm_projector", 54_277_888, True),
    ]
    assert max(row["depth"] for row in rows("k25", depth=3)) == 2


def test_a_depth_beyond_the_tree_shows_all_of_it() -> None:
    assert rows("k25", depth=99) == rows("k25")


def test_top_shows_the_largest_and_counts_the_others() -> None:
    found = rows("k25", top=3)
    assert [row["parameters"] for row in found[:3]] == [338_228_674_560] * 3  # 60 x 384 x 2048 x 7168
    assert found[3]["path"] == f"[{sum(row['leaf'] for row in rows('k25')) - 3} others]"
    assert found[3]["parameters"] == K25 - 3 * 338_228_674_560


def test_top_takes_the_leaves_of_the_tree_as_cut() -> None:
    found = rows("k25", depth=2, top=1)
    assert [(row["path"], row["parameters"]) for row in found] == [
        ("language_model.model", 1_026_408_209_408 - 1_174_405_120),  # all but the head
        ("[5 others]", 1_174_405_120 + 416_866_032 + 54_277_888),  # head, two of the tower, two of the projector
    ]


def test_top_beyond_the_number_of_rows_leaves_nothing_over() -> None:
    assert not [row for row in rows("k25", top=999) if "other" in row["path"]]


@pytest.mark.parametrize(
    ("by", "some"),
    [
        ("component", {"backbone": DEEPSEEK, "multi-token prediction": DEEPSEEK_MTP}),
        ("role", {"routed_expert": 653_908_770_816, "embedding": 926_679_040, "multi-token prediction": DEEPSEEK_MTP}),
        ("dtype", {"bfloat16": DEEPSEEK, "float32": 0, "multi-token prediction": DEEPSEEK_MTP}),
    ],
)
def test_groups_keep_multi_token_prediction_apart(by: str, some: dict[str, int]) -> None:
    found = {row["path"]: row["parameters"] for row in rows("deepseek-v3", by=by)}
    assert some.items() <= found.items()
    assert sum(found.values()) == DEEPSEEK + DEEPSEEK_MTP


def test_by_and_top_go_together() -> None:
    found = rows("k25", by="role", top=1)
    assert [row["path"] for row in found] == ["routed_expert", "[10 others]"]


@pytest.mark.parametrize(
    ("by", "hint"), [("rol", "did you mean role?"), ("foo", "one of component, role, dtype"), ("", "one of")]
)
def test_an_unknown_group_is_an_error_with_the_choices(by: str, hint: str) -> None:
    with pytest.raises(InputError) as caught:
        params_report(load_spec("k25"), by=by)
    assert hint in (caught.value.hint or "")


def test_by_and_depth_exclude_each_other() -> None:
    with pytest.raises(InputError, match="--depth cuts the tree"):
        params_report(load_spec("k25"), by="role", depth=1)


@given(st.permutations(sorted(data("k25"))), st.randoms(use_true_random=False))
@settings(max_examples=15, deadline=None)
def test_the_order_of_keys_changes_nothing(order: list[str], random: Any) -> None:
    def shuffled(node: Any) -> Any:
        if isinstance(node, dict):
            keys = list(node)
            random.shuffle(keys)
            return {key: shuffled(node[key]) for key in keys}
        return [shuffled(item) for item in node] if isinstance(node, list) else node

    content = data("k25")
    mixed = spec_of({key: shuffled(content[key]) for key in order})
    assert params_report(mixed) == params_report(load_spec("k25"))


def test_a_single_layer_is_not_called_a_range() -> None:
    one = tiny(num_hidden_layers=1, layers=[{"count": 1, "attention": "gqa", "ffn": "dense"}])
    del one["backbone"]["ffn"]["moe"]
    table = params_report(spec_of(one)).rows
    assert table is not None
    assert "model.layers.0" in [row["path"] for row in table.rows]
