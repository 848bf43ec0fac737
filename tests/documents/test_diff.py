"""Diffs of specs, saved reports and git revisions: what changed, what moved, and what limits say about it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archcalc.calc.kv_cache import Mesh
from archcalc.documents.claims import claims
from archcalc.documents.compare.change import change
from archcalc.documents.compare.limits import judge, parse_limit
from archcalc.documents.compare.parts import NO_INDEX, Part
from archcalc.documents.compare.tree import path_rows
from archcalc.documents.diff import changed, diff_report, exceeded
from archcalc.documents.document import FORMAT_VERSION, Report
from archcalc.documents.flops import flops_report
from archcalc.documents.kv import kv_report
from archcalc.documents.params import params_report
from archcalc.documents.weights import weights
from archcalc.errors import CheckFailed, InputError, SpecError
from archcalc.files.loader import load_spec
from archcalc.render import renderer
from archcalc.workload import Workload

ROOT = Path(__file__).resolve().parents[2]
K25 = (ROOT / "specs" / "k25.yaml").read_text()

# One routed expert of Kimi K2.5: gate, up and down projection, each 2048 x 7168 (config.json: moe_intermediate_size,
# hidden_size); 60 layers have experts, and the router has a row of 7168 for each.
EXPERT = 3 * 2048 * 7168
LAYERS = 60
MORE_EXPERTS = 128 * LAYERS * EXPERT
MORE_ROUTER = 128 * LAYERS * 7168


@pytest.fixture
def edited(tmp_path: Path) -> Callable[..., str]:
    """A copy of k25.yaml with replacements; each must match exactly once."""

    def edit(*changes: tuple[str, str], name: str = "edited.yaml", text: str = K25) -> str:
        for old, new in changes:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return edit


@pytest.fixture
def more_experts(edited: Callable[..., str]) -> str:
    return edited(("n_routed_experts: 384", "n_routed_experts: 512"))


@pytest.fixture
def one_more_layer(edited: Callable[..., str]) -> str:
    return edited(("num_hidden_layers: 61", "num_hidden_layers: 62"), ("{count: 60,", "{count: 61,"))


def table(report: Report, name: str) -> dict[str, dict[str, Any]]:
    """Rows of a table by their first column."""
    (found,) = [t for t in report.tables if t.name == name]
    return {row[found.columns[0].key]: dict(row) for row in found.rows}


def paths(report: Report) -> dict[tuple[str, str, str], dict[str, Any]]:
    rows = report.rows.rows if report.rows else []
    return {(row["change"], row["measure"], row["path"]): dict(row) for row in rows}


def weight(template: str, each: int, traits: Iterable[tuple[str, str]], layers: frozenset[int] = NO_INDEX) -> Part:
    """A part of so many parameters in each of its layers."""
    return Part(template=tuple(template.split(".")), indices=layers, each=each, traits=tuple(traits))


def four(row: dict[str, Any]) -> tuple[Any, Any, Any, Any]:
    return row["before"], row["after"], row["delta"], row["percent"]


# ------------------------------------------------------------------------------------------------- specs


@pytest.mark.parametrize("name", ["k25", "kimi-k2", "deepseek-v3", "llama-3.1-70b"])
def test_a_spec_does_not_differ_from_itself(name: str) -> None:
    report = diff_report(name, name)
    assert not changed(report)
    assert report.title == f"{name} → {name}: nothing changed"
    assert report.rows is None
    assert [row for t in report.tables for row in t.rows] == []
    assert report.notes == ()


def test_128_more_experts_are_counted_where_they_are(more_experts: str) -> None:
    report = diff_report("k25", more_experts)
    found = table(report, "quantities")
    before = 1_026_879_353_328  # the published checkpoint's 1.026T: tests/published/checkpoints.yaml
    more = MORE_EXPERTS + MORE_ROUTER
    assert four(found["params.total"]) == (before, before + more, more, pytest.approx(100 * more / before))
    assert found["params.routed_experts"]["delta"] == MORE_EXPERTS
    # A token still uses 8 experts, but every row of the router.
    assert found["params.active"]["delta"] == MORE_ROUTER
    # 2 FLOPs a multiply-add, and one more row of the router for each expert.
    assert found["flops.per_token"]["delta"] == 2 * MORE_ROUTER
    assert found["moe.activation_ratio"]["percent"] == pytest.approx(-25)  # 8/512 against 8/384
    assert "kv.bytes_per_token" not in found
    assert report.extra["unchanged"]["kv.bytes_per_token"] == 70_272  # (512 + 64) x 2 bytes x 61 layers


def test_paths_that_changed_say_how(more_experts: str) -> None:
    found = paths(diff_report("k25", more_experts))
    base = "language_model.model.layers.1-60.mlp"
    assert {(kind, path) for kind, _, path in found} == {
        ("changed", f"{base}.experts.0-511.gate_proj.weight"),
        ("changed", f"{base}.experts.0-511.up_proj.weight"),
        ("changed", f"{base}.experts.0-511.down_proj.weight"),
        ("changed", f"{base}.gate.weight"),
        ("changed", f"{base}.gate.e_score_correction_bias"),
    }
    up = found["changed", "parameters", f"{base}.experts.0-511.up_proj.weight"]
    one = LAYERS * 2048 * 7168
    assert four(up) == (384 * one, 512 * one, 128 * one, pytest.approx(100 / 3))
    assert up["note"] == "384 → 512 experts"
    bias = found["changed", "buffers", f"{base}.gate.e_score_correction_bias"]
    assert four(bias)[:3] == (384 * LAYERS, 512 * LAYERS, 128 * LAYERS)
    assert bias["note"] == "shape [384] → [512]"


def test_the_line_of_a_changed_field_is_the_heads_line(edited: Callable[..., str]) -> None:
    head = edited(("n_routed_experts: 384", "n_routed_experts: 512"), ("backbone:\n", "# a comment\n\nbackbone:\n"))
    (row,) = table(diff_report("k25", head), "fields").values()
    text = Path(head).read_text().splitlines()
    assert text[row["line"] - 1].strip() == "n_routed_experts: 512"
    assert K25.splitlines()[row["base_line"] - 1].strip() == "n_routed_experts: 384"
    assert row["field"] == "backbone.ffn.moe.n_routed_experts"
    assert four(row) == (384, 512, 128, pytest.approx(100 / 3))


def test_a_backbone_under_another_name_moved_and_did_not_change() -> None:
    report = diff_report("kimi-k2", "k25")
    found = paths(report)
    moved = {path: row for (kind, _, path), row in found.items() if kind == "moved"}
    assert {path: row["was"] for path, row in moved.items()} == {
        "language_model.model": "model",
        "language_model.lm_head": "lm_head",
    }
    # Kimi K2's total, 1,026,408,209,408, is the backbone of K2.5: nothing of it is lost or counted twice.
    assert sum(row["before"] for row in moved.values()) == 1_026_408_209_408
    assert all(row["delta"] == 0 and row["percent"] == 0 for row in moved.values())
    assert not [kind for kind, _, _ in found if kind in ("changed", "removed")]


def test_a_module_that_came_as_a_whole_is_one_row() -> None:
    found = paths(diff_report("kimi-k2", "k25"))
    added = {path: row for (kind, _, path), row in found.items() if kind == "added"}
    assert set(added) == {"vision_tower", "mm_projector"}
    # LayerNorm of 1152, then 4608 x 4608 and 7168 x 4608, all with bias (modeling_kimi_k25.py, PatchMergerMLP)
    projector = 2 * 1152 + (4608 * 4608 + 4608) + (7168 * 4608 + 7168)
    row = added["mm_projector"]
    assert four(row) == (None, projector, projector, None)
    assert [member["path"] for member in row["members"]][:2] == [
        "mm_projector.pre_norm.weight",
        "mm_projector.pre_norm.bias",
    ]
    assert sum(member["parameters"] for member in row["members"]) == projector


def test_what_moved_and_changed_says_both(more_experts: str) -> None:
    found = paths(diff_report("kimi-k2", more_experts))
    row = found["changed", "parameters", "language_model.model.layers.1-60.mlp.experts.0-511.up_proj.weight"]
    assert row["was"] == "model.layers.1-60.mlp.experts.0-383.up_proj.weight"
    assert row["delta"] == 128 * LAYERS * 2048 * 7168
    moved = found["moved", "parameters", "language_model.model"]
    assert moved["was"] == "model"
    assert not [kind for kind, _, _ in found if kind == "removed"]


def test_one_more_layer_is_one_row(one_more_layer: str) -> None:
    report = diff_report("k25", one_more_layer)
    found = paths(report)
    assert {(kind, measure, path) for kind, measure, path in found} == {
        ("added", "parameters", "language_model.model.layers.61"),
        ("added", "buffers", "language_model.model.layers.61"),
    }
    total = table(report, "quantities")["params.total"]["delta"]
    assert found["added", "parameters", "language_model.model.layers.61"]["delta"] == total


def test_a_layer_that_turns_dense_changes_its_mlp_alone(edited: Callable[..., str]) -> None:
    head = edited(("{count: 1,", "{count: 2,"), ("{count: 60,", "{count: 59,"))
    found = paths(diff_report("k25", head))
    mlp = "language_model.model.layers.1.mlp"
    assert set(found) == {("added", "parameters", mlp), ("removed", "parameters", mlp), ("removed", "buffers", mlp)}
    assert found["added", "parameters", mlp]["after"] == 3 * 18432 * 7168  # gate, up, down of the dense layer
    # 384 experts and a shared one, and the router
    assert found["removed", "parameters", mlp]["before"] == 385 * EXPERT + 384 * 7168


def test_a_renamed_part_is_told_from_a_changed_one() -> None:
    traits = (("shape", "[384, 7168]"), ("dtype", "bfloat16"), ("role", "router"))
    layers = frozenset(range(1, 61))
    base = [weight("model.layers.{i}.mlp.gate.weight", 384 * 7168, traits, layers)]
    head = [weight("model.layers.{i}.mlp.router.weight", 384 * 7168, traits, layers)]
    (row,) = path_rows(base, head)
    assert (row["change"], row["was"]) == ("renamed", "model.layers.1-60.mlp.gate")
    assert row["path"] == "model.layers.1-60.mlp.router"


@pytest.mark.parametrize("other", [("shape", "[7168, 384]"), ("dtype", "float32"), ("role", "dense_ffn")])
def test_a_part_of_other_shape_dtype_or_role_did_not_move(other: tuple[str, str]) -> None:
    traits = {"shape": "[384, 7168]", "dtype": "bfloat16", "role": "router"}
    base = [weight("a.mlp.gate.weight", 10, traits.items())]
    head = [weight("b.mlp.gate.weight", 10, (traits | dict([other])).items())]
    assert sorted(row["change"] for row in path_rows(base, head)) == ["added", "removed"]


def test_two_modules_of_equal_shape_are_not_taken_for_one_that_moved() -> None:
    traits = (("shape", "[128]"), ("dtype", "bfloat16"), ("role", "norm"))
    base, head = [weight("a.b.q_norm.weight", 128, traits)], [weight("c.k_norm.weight", 128, traits)]
    assert sorted(row["change"] for row in path_rows(base, head)) == ["added", "removed"]


def test_a_default_that_is_written_out_is_no_change(edited: Callable[..., str]) -> None:
    text = (ROOT / "specs" / "llama-3.1-70b.yaml").read_text()
    head = edited(text=text + "\nvision: null\nprojector: null\n")
    assert diff_report("llama-3.1-70b", head).title.endswith("nothing changed")


def test_a_new_title_is_shown_but_does_not_matter(edited: Callable[..., str]) -> None:
    report = diff_report("k25", edited(("title: Kimi K2.5", "title: Kimi")))
    assert not changed(report)
    assert report.title.endswith("only descriptions changed")
    assert table(report, "fields")["title"]["after"] == "Kimi"


def test_a_field_that_changes_no_number_still_matters(edited: Callable[..., str]) -> None:
    report = diff_report("k25", edited(("rope_theta: 50000.0\n", "rope_theta: 60000.0\n")))
    assert changed(report)
    assert report.rows is None
    assert table(report, "quantities") == {}


def test_one_more_claim_does_not_shift_the_others(edited: Callable[..., str]) -> None:
    claim = 'claims:\n  - {claim: one more, quantity: params.total, value: "1T", source: somewhere}\n'
    fields = table(diff_report("k25", edited(("claims:\n", claim))), "fields")
    assert list(fields) == ['claims["one more"]']


def test_a_deeper_tower_shows_its_flops(edited: Callable[..., str]) -> None:
    head = edited(("vt_num_hidden_layers: 27", "vt_num_hidden_layers: 54"))
    report = diff_report("k25", head)
    found = table(report, "quantities")
    # 27 layers more over 4 x 37 x 28 patches of the standard image, which all see one another: q, k, v and out, two
    # matrices of the MLP, and 2 FLOPs a multiply-add of scores and of values (2 x 2 x N x N x 1152)
    patches = 4 * 37 * 28
    linear = 2 * patches * (4 * 1152 * 1152 + 2 * 1152 * 4304)
    assert found["flops.vision"]["delta"] == 27 * (linear + 4 * patches * patches * 1152)
    assert "flops.projector" not in found
    assert "1,024 x 768" in report.notes[0]


def test_without_a_tower_nothing_is_said_of_one() -> None:
    report = diff_report("llama-3.1-8b", "llama-3.1-70b")
    assert not {"flops.vision", "flops.projector", "vision.tokens"} & report.extra["unchanged"].keys()


def test_from_zero_there_is_no_percentage() -> None:
    row = table(diff_report("kimi-k2", "k25"), "quantities")["params.vision"]
    assert (row["before"], row["percent"]) == (0, None)
    assert change(0, 0) == (0, 0, 0, None)
    assert change(-4, -2) == (-4, -2, 2, 50.0)
    assert change(5, None) == (5, None, -5, -100.0)
    assert change(True, False) == (True, False, None, None)


def test_a_new_spec_is_a_diff_from_nothing() -> None:
    report = diff_report("/dev/null", "llama-3.1-70b")
    assert report.title.startswith("llama-3.1-70b (new)")
    total = table(report, "quantities")["params.total"]
    assert four(total) == (None, 70_553_706_496, 70_553_706_496, None)  # Llama 3 herd, arXiv:2407.21783: 70.6B
    with pytest.raises(InputError, match="both sides are nothing"):
        diff_report("/dev/null", "/dev/null")


# ---------------------------------------------------------------------------------------- saved reports

WORKLOAD = Workload(phase="train", batch=2, seq=8192, images=((448, 448),))
SAVED: dict[str, Callable[[str], Report]] = {
    "params": lambda name: params_report(load_spec(name)),
    "params --depth": lambda name: params_report(load_spec(name), depth=2),
    "params --by": lambda name: params_report(load_spec(name), by="role"),
    "flops": lambda name: flops_report(load_spec(name), WORKLOAD, tokens=10**12),
    "kv": lambda name: kv_report(load_spec(name), Workload(context=1000), kv_dtype="fp8", mesh=Mesh(tp=8, dcp=2)),
    "weights": lambda name: weights(load_spec(name), as_="bf16"),
    "claims": lambda name: claims(load_spec(name)),
}


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., str]:
    """Path of a report saved as JSON, changed by `edits`."""

    def save(what: Report | str, name: str = "saved.json", **edits: Any) -> str:
        text = renderer("json")(what, "gib") if isinstance(what, Report) else what
        path = tmp_path / name
        path.write_text(json.dumps(json.loads(text) | edits) if edits else text)
        return str(path)

    return save


@pytest.mark.parametrize("what", SAVED)
def test_a_saved_report_equals_its_spec_under_the_reports_own_inputs(what: str, saved: Callable[..., str]) -> None:
    path = saved(SAVED[what]("k25"))
    assert diff_report(path, "k25").title.endswith("nothing changed")
    assert diff_report("k25", path).title.endswith("nothing changed")
    assert diff_report(path, path).title.endswith("nothing changed")


def test_a_saved_flops_report_is_compared_at_its_own_workload(saved: Callable[..., str], more_experts: str) -> None:
    report = diff_report(saved(SAVED["flops"]("k25")), more_experts)
    found = table(report, "quantities")
    # The router is a linear of every text and vision token; backward twice forward: 448 x 448 makes 32 x 32 patches of
    # 14, merged 2 x 2 to 256 tokens, so 2 sequences of 8448 tokens.
    assert found["flops.forward"]["delta"] == 2 * MORE_ROUTER * 2 * (8192 + 256)
    assert found["flops.backward"]["delta"] == 2 * found["flops.forward"]["delta"]


def test_saved_params_reports_tell_moves_too(saved: Callable[..., str]) -> None:
    base = saved(SAVED["params"]("kimi-k2"), "base.json")
    found = paths(diff_report(base, saved(SAVED["params"]("k25"), "head.json")))
    assert {(kind, path) for kind, _, path in found} == {
        ("moved", "language_model.model"),
        ("moved", "language_model.lm_head"),
        ("added", "vision_tower"),
        ("added", "mm_projector"),
    }


def test_inputs_of_two_saved_reports_are_fields(saved: Callable[..., str]) -> None:
    spec = load_spec("k25")
    short, long = (kv_report(spec, Workload(context=n), mesh=Mesh()) for n in (1000, 2000))
    report = diff_report(saved(short, "a.json"), saved(long, "b.json"))
    assert four(table(report, "fields")["context"]) == (1000, 2000, 1000, 100.0)
    assert four(table(report, "quantities")["kv.total_bytes"]) == (70_272_000, 140_544_000, 70_272_000, 100.0)


def test_a_verdict_that_changed_is_a_field(saved: Callable[..., str]) -> None:
    text = renderer("json")(SAVED["claims"]("k25"), "gib")
    base = saved(text.replace('"verdict": "refuted"', '"verdict": "confirmed"', 1))
    for again in ("k25", saved(text, "again.json")):
        (row,) = table(diff_report(base, again), "fields").values()
        assert (row["before"], row["after"]) == ("confirmed", "refuted")


def test_reports_on_different_questions_share_only_what_nothing_changes(saved: Callable[..., str]) -> None:
    with pytest.raises(InputError, match="kv report and a weights report have nothing in common"):
        diff_report(saved(SAVED["kv"]("k25"), "a.json"), saved(SAVED["weights"]("k25"), "b.json"))
    whole = saved(SAVED["params"]("k25"), "whole.json", command="plot")
    report = diff_report(whole, "kimi-k2")
    assert table(report, "quantities")["params.vision"]["after"] == 0
    assert "compared is only what no workload or plan changes" in report.notes[0]


@pytest.fixture
def earlier(saved: Callable[..., str]) -> Callable[[str, str], str]:
    """A report as versions saved it whose rows had no `template`, `indices` and `experts`."""

    def save(what: str, spec: str) -> str:
        data = json.loads(renderer("json")(SAVED[what](spec), "gib"))
        gone = ("template", "indices", "experts")
        rows = [{key: value for key, value in row.items() if key not in gone} for row in data["rows"]]
        return saved(json.dumps(data | {"rows": rows}), f"earlier-{Path(spec).stem}.json")

    return save


@pytest.mark.parametrize("what", SAVED)
def test_a_report_of_an_earlier_version_still_equals_its_spec(what: str, earlier: Callable[[str, str], str]) -> None:
    path = earlier(what, "k25")
    for base, head in ((path, "k25"), ("k25", path), (path, path)):
        assert diff_report(base, head).title.endswith("nothing changed")


@pytest.mark.parametrize("what", [name for name in SAVED if name not in ("params --by", "claims")])
def test_paths_of_an_earlier_version_are_compared_as_printed_and_a_note_says_so(
    what: str, earlier: Callable[[str, str], str], saved: Callable[..., str], more_experts: str
) -> None:
    base = earlier(what, "k25")
    for head in (more_experts, saved(SAVED[what](more_experts)), earlier(what, more_experts)):
        report = diff_report(base, head)
        assert len([note for note in report.notes if "earlier version" in note]) == (1 if changed(report) else 0)
        assert not [row for row in paths(report).values() if "→ 512 experts" in row["note"]]
    fresh = diff_report(saved(SAVED[what]("k25"), "fresh.json"), more_experts)
    assert not [note for note in fresh.notes if "earlier version" in note]


def test_an_earlier_versions_layers_are_not_split(earlier: Callable[[str, str], str], one_more_layer: str) -> None:
    found = paths(diff_report(earlier("params", "k25"), one_more_layer))
    assert {(kind, path) for kind, measure, path in found if measure == "parameters"} == {
        ("removed", "language_model.model.layers.1-60"),
        ("added", "language_model.model.layers.1-61"),
    }


def test_a_row_over_one_more_layer_is_the_same_row(saved: Callable[..., str], one_more_layer: str) -> None:
    found = paths(diff_report(saved(SAVED["flops"]("k25")), one_more_layer))
    row = found["changed", "forward", "language_model.model.layers.1-61.self_attn.q_a_proj"]
    # 2 FLOPs a multiply-add, 1536 x 7168 (q_lora_rank, hidden_size), 2 sequences of 8192 + 256 tokens
    one = 2 * 1536 * 7168 * 2 * (8192 + 256)
    assert four(row)[:3] == (60 * one, 61 * one, one)


def test_a_number_in_a_name_is_no_layer(saved: Callable[..., str]) -> None:
    def of(name: str, path: str, n: int) -> str:
        rows = [{"path": at, "template": at, "indices": [], "experts": 0} for at in ("proj.0", path)]
        return saved(SAVED["flops"]("k25"), name, rows=[rows[0] | {"forward": 1}, rows[1] | {"forward": n}])

    found = paths(diff_report(of("a.json", "proj.1", 5), of("b.json", "proj.2", 7)))
    assert set(found) == {("removed", "forward", "proj.1"), ("added", "forward", "proj.2")}


def test_a_report_of_tables_alone_is_compared_by_them(saved: Callable[..., str]) -> None:
    def of(name: str, count: int) -> str:
        tables = {"serving": [{"path": "h200", "gpus": count}], "training": [{"path": "h200", "gpus": 7}]}
        return saved(SAVED["params"]("k25"), name, command="report", rows=[], tables=tables)

    (row,) = paths(diff_report(of("a.json", 4), of("b.json", 8))).values()
    assert (row["path"], row["measure"], row["kind"]) == ("h200", "gpus", "serving")
    assert four(row) == (4, 8, 4, 100.0)


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ({"tables": {"a": 1}}, "a is no list"),
        ({"format_version": FORMAT_VERSION + 1}, f"format_version {FORMAT_VERSION + 1}; this archcalc reads up to"),
        ({"format_version": "1"}, "format_version is"),
        ({"format_version": None}, "format_version is"),
        ({"tool": "other"}, "no report of archcalc"),
        ({"quantities": {"params.total": "many"}}, "params.total is"),
        ({"quantities": {"params.total": 2**300}}, "params.total is"),
        ({"quantities": {"params.total": 1e300}}, "params.total is"),  # less -1e300 it would be infinite
        ({"quantities": {"params.total": 5e-324}}, "params.total is"),  # and of this, 1 is infinitely many percent
        ({"rows": [{"path": "a", "parameters": 5e-324}]}, "parameters is"),
        ({"rows": [{"path": "a", "parameters": 2**300}]}, "parameters is"),
        ({"quantities": []}, "quantities is"),
        ({"rows": {"path": 1}}, "rows is no list"),
        ({"rows": [1]}, "rows is no list"),
        ({"inputs": {"depth": "x" * 10}}, "can't be used again"),
    ],
)
def test_a_damaged_report_is_refused(edits: dict[str, Any], message: str, saved: Callable[..., str]) -> None:
    path = saved(SAVED["params"]("k25"), **edits)
    with pytest.raises(InputError, match=message):
        diff_report(path, "k25")


PLACE = {"path": "a.1-2.w", "template": "a.{i}.w", "indices": [[1, 2]], "experts": 0, "leaf": True, "parameters": 2}


@pytest.mark.parametrize(
    "edits",
    [
        {"template": 7},
        {"indices": None},
        {"indices": "1-2"},
        {"indices": [1, 2]},
        {"indices": [[1, 2, 3]]},
        {"indices": [[1, "2"]]},
        {"indices": [[1, True]]},
        {"indices": [[2, 1]]},
        {"indices": [[5, 6], [1, 2]]},
        {"indices": [[-1, 2]]},
        {"indices": [[0, 10**9]]},
        {"experts": -1},
        {"experts": 1.5},
        {"experts": 10**30},
        {"template": "{e}", "experts": 3},
        {"template": ""},
        {"indices": []},
        {"indices": [[1, 2], [2, 2]]},
        {"experts": 3},
    ],
    ids=str,
)
def test_a_row_that_names_no_place_is_refused(edits: dict[str, Any], saved: Callable[..., str]) -> None:
    base = saved(SAVED["params"]("k25"), "base.json", rows=[PLACE])
    head = saved(SAVED["params"]("k25"), rows=[PLACE | edits])
    assert not changed(diff_report(base, base))
    with pytest.raises(InputError, match="template, indices and experts of"):
        diff_report(base, head)


def test_layers_without_end_are_refused_before_they_are_listed(saved: Callable[..., str]) -> None:
    head = saved(SAVED["params"]("k25"), rows=[PLACE | {"indices": [[0, 10**9 - 1]]}])
    with pytest.raises(InputError, match="more than 1,000,000 layers"):
        diff_report("k25", head)


@pytest.mark.parametrize(
    "edits",
    [{"path": "a"}, {"path": 7}, {"template": "a.{i}.{i}"}, {"parameters": 3}, {"parameters": "2"}],
    ids=str,
)  # fmt: skip
def test_a_row_whose_keys_contradict_each_other_is_compared_all_the_same(
    edits: dict[str, Any], saved: Callable[..., str]
) -> None:
    base, head = (saved(SAVED["params"]("k25"), name, rows=[PLACE | more]) for name, more in (("a", {}), ("b", edits)))
    more = {3: 1, "2": -2}.get(edits.get("parameters", 2), 0)  # than the 2 of the base; text is no number
    assert sum(row["delta"] for row in paths(diff_report(base, head)).values()) == more


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "7",
        '{"quantities": NaN}',
        '{"tool": "archcalc", "format_version": 1, "inputs": {"seq": 1e999}}',
        "[" * 100_000,
        '{"a": ' + "9" * 5000 + "}",
        "\x00\xff",
    ],
    ids=["empty", "open", "list", "number", "nan", "infinite", "deep", "long", "binary"],
)
def test_what_is_no_report_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(InputError):
        diff_report(str(path), "k25")


def test_inputs_of_any_size_are_compared_without_a_percentage(saved: Callable[..., str]) -> None:
    base, head = (saved(SAVED["flops"]("k25"), name, inputs={"seq": n}) for name, n in (("a", 5e-324), ("b", 1e308)))
    row = table(diff_report(base, head), "fields")["seq"]
    assert (row["before"], row["after"], row["percent"]) == (5e-324, 1e308, None)


def test_yes_is_not_the_number_one(saved: Callable[..., str]) -> None:
    base, head = (saved(SAVED["kv"]("k25"), name, quantities={"x": n}) for name, n in (("a", True), ("b", 1)))
    assert changed(diff_report(base, head))
    with pytest.raises(InputError, match="x is yes or no on one side and a number on the other"):
        diff_report(base, head, limits=["x:+1%"])


def test_a_missing_file_and_an_invalid_spec_are_said_so(tmp_path: Path, edited: Callable[..., str]) -> None:
    with pytest.raises(InputError, match="no such file"):
        diff_report("k25", str(tmp_path / "none.yaml"))
    with pytest.raises(InputError, match="no file and no bundled spec"):
        diff_report("k26", "k25")
    with pytest.raises(SpecError, match="kv_lora_rank"):
        diff_report("k25", edited(("kv_lora_rank: 512", "kv_lora_rank: 0")))


# -------------------------------------------------------------------------------------------------- git


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """An own repository, and a function that runs git in it."""
    folder = tmp_path / "repo"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    for key, value in {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}.items():
        monkeypatch.setenv(key, value)

    def git(*arguments: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@example.invalid")
        return subprocess.run(["git", *who, *arguments], check=True, capture_output=True, text=True).stdout

    git("init", "--quiet", "--initial-branch=main")
    (folder / "specs").mkdir()
    (folder / "specs" / "a.yaml").write_text(K25)
    git("add", ".")
    git("commit", "--quiet", "-m", "one")
    return git


def test_a_revision_is_read_as_committed(repository: Callable[..., str]) -> None:
    Path("specs/a.yaml").write_text(K25.replace("n_routed_experts: 384", "n_routed_experts: 512"))
    report = diff_report("git:HEAD:specs/a.yaml", "specs/a.yaml")
    assert table(report, "quantities")["params.routed_experts"]["delta"] == MORE_EXPERTS
    assert report.inputs["head_file"] == "specs/a.yaml"
    assert report.title.startswith("specs/a.yaml at HEAD → specs/a.yaml: ")


def test_a_path_in_a_revision_may_count_from_here(
    repository: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("specs")
    assert not changed(diff_report("git:main:./a.yaml", "git:HEAD~0:specs/a.yaml"))


def test_a_saved_report_is_read_from_a_revision(repository: Callable[..., str]) -> None:
    Path("a.json").write_text(renderer("json")(SAVED["params"]("k25"), "gib"))
    repository("add", ".")
    repository("commit", "--quiet", "-m", "two")
    assert not changed(diff_report("git:HEAD:a.json", "specs/a.yaml"))


@pytest.mark.parametrize(
    ("side", "message"),
    [
        ("git:none:specs/a.yaml", "git knows no revision none"),
        ("git:--all:specs/a.yaml", "git knows no revision --all"),
        ("git:-h:specs/a.yaml", "git knows no revision -h"),
        ("git:$(touch pwned):specs/a.yaml", "git knows no revision"),
        ("git:HEAD:specs/b.yaml", "has no file specs/b.yaml"),
        ("git:HEAD:specs", "specs is no file"),
        ("git:HEAD:../a.yaml", "has no file"),
        ("git:HEAD", "git:REV:path"),
        ("git::specs/a.yaml", "git:REV:path"),
        ("git:HEAD:", "git:REV:path"),
        ("git:HEAD:a\0b", "not a usable revision or path"),
    ],
)
def test_what_git_does_not_have_is_said_so(side: str, message: str, repository: Callable[..., str]) -> None:
    with pytest.raises(InputError) as caught:
        diff_report(side, "k25")
    assert message in str(caught.value)
    assert not Path("pwned").exists()


def test_outside_a_repository_git_has_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(InputError, match="not inside a git repository"):
        diff_report("git:HEAD:specs/k25.yaml", "k25")


def test_a_link_in_a_revision_is_not_followed(repository: Callable[..., str], tmp_path: Path) -> None:
    secret = tmp_path / "secret.yaml"
    secret.write_text("password: sesame\n")
    Path("specs/link.yaml").symlink_to(secret)
    repository("add", ".")
    repository("commit", "--quiet", "-m", "link")
    with pytest.raises(InputError) as caught:
        diff_report("git:HEAD:specs/link.yaml", "k25")
    assert "sesame" not in caught.value.render()


# ------------------------------------------------------------------------------------------------ limits


@pytest.mark.parametrize(
    ("limit", "before", "after", "verdict"),
    [
        ("params.total:+1%", 1000, 1010, "kept"),  # exactly one percent is not more than one
        ("params.total:+1%", 1000, 1011, "exceeded"),
        ("params.total:+1%", 1000, 10, "kept"),
        ("params.total:-1%", 1000, 989, "exceeded"),
        ("params.total:-1%", 1000, 5000, "kept"),
        ("params.total:±1%", 1000, 989, "exceeded"),
        ("params.total:+-1%", 1000, 1011, "exceeded"),
        ("params.total:+0.1%", 10**18, 10**18 + 10**15, "kept"),  # exact where a float would round
        ("params.total:+0.1%", 10**18, 10**18 + 10**15 + 1, "exceeded"),
        ("params.total:+1B", 5, 5 + 10**9, "kept"),
        ("params.total:+1B", 5, 6 + 10**9, "exceeded"),
        ("params.total:+100000", 0, 100_001, "exceeded"),
        ("params.total:+0", 7, 8, "exceeded"),
        ("params.total:±0", 7, 7, "kept"),
        ("params.vision:+500%", 0, 1, "exceeded"),  # from nothing, every rise is beyond any percentage
        ("weights.bytes:+2GiB", 0, 2 << 30, "kept"),
        ("weights.bytes:+2GB", 0, 2 << 30, "exceeded"),
        ("weights.bytes:+5", 0, 6, "exceeded"),
        ("weights.bits_per_parameter:+0.5", 4.0, 4.5, "kept"),
        ("weights.bits_per_parameter:+0.5", 4.0, 4.5625, "exceeded"),
        ("flops.forward:+1T", 0, 10**12, "kept"),
    ],
)
def test_a_limit_holds_up_to_its_bound(limit: str, before: float, after: float, verdict: str) -> None:
    assert judge(parse_limit(limit), before, after)["verdict"] == verdict


@pytest.mark.parametrize(
    "limit",
    ["", "params.total", ":+1%", "params.total:", "params.total:1%", "params.total:+", "params.total:+%",
     "params.total:+x%", "params.total:++1%", "params.total:+1 %%", "params.total:+-", "params.total:+1e9%"],
)  # fmt: skip
def test_what_is_no_limit_is_refused(limit: str) -> None:
    with pytest.raises(InputError):
        parse_limit(limit)


@pytest.mark.parametrize(
    ("limit", "message", "hint"),
    [
        ("params.totl:+1%", "no quantity is named params.totl", "did you mean params.total?"),
        ("nonsense:+1%", "no quantity is named nonsense", "compared are params.total"),
        ("flops.run_6nd:+1%", "flops.run_6nd is not among", "compared are params.total"),
        ("projector.merged_hidden_size:+1%", "is in HEAD only", "leave this limit out"),
        ("params.total:+2GiB", "params.total is measured in counts", "write a whole number"),
        ("weights.bytes:+2G", "weights.bytes is measured in bytes", "GiB"),
        ("params.total:+0.5", "params.total is measured in counts", "write a whole number"),
        ("params[nowhere]:+1%", "kimi-k2: no part is at nowhere", ""),
    ],
)
def test_a_limit_that_can_not_be_held_is_an_error(limit: str, message: str, hint: str) -> None:
    with pytest.raises(InputError) as caught:
        diff_report("kimi-k2", "k25", limits=[limit])
    assert message in str(caught.value)
    assert hint in (caught.value.hint or "")


def test_every_exceeded_limit_is_listed_with_all_digits(more_experts: str) -> None:
    limits = ["params.total:+1%", "kv.bytes_per_token:+1%", "params.routed_experts:±0"]
    failed = exceeded(diff_report("k25", more_experts, limits=limits))
    assert isinstance(failed, CheckFailed)
    assert failed.exit_code == 1
    lines = failed.render().splitlines()
    assert lines[0] == "error: 2 of 3 limits exceeded"
    assert f"+{MORE_EXPERTS + MORE_ROUTER:,}" in lines[1]
    assert f"+{MORE_EXPERTS:,}" in lines[2]
    assert exceeded(diff_report("k25", more_experts, limits=limits[1:2])) is None


def test_a_limit_may_be_on_a_part(more_experts: str) -> None:
    report = diff_report(
        "k25", more_experts, limits=["params[language_model.model.layers.5]:+0", "params[vision_tower]:±0"]
    )
    assert [finding["verdict"] for finding in report.findings] == ["exceeded", "kept"]
    assert report.findings[0]["delta"] == 128 * EXPERT + 128 * 7168


# --------------------------------------------------------------------------------------- laws of the join

names = st.sampled_from(["a.q.weight", "a.k.weight", "b.q.weight", "c.a.q.weight", "head.weight"])
runs = st.sets(st.integers(0, 9), min_size=1, max_size=6)


@st.composite
def part_lists(draw: st.DrawFn) -> list[Part]:
    """Parts with and without layers; no layer of a path stands twice."""
    found = []
    for name in draw(st.lists(names, unique=True, max_size=4)):
        shapes = st.sampled_from(["[2]", "[3]"])
        if draw(st.booleans()):
            found.append(weight(name, draw(st.integers(1, 4)), [("shape", draw(shapes))]))
            continue
        left = set(range(10))
        for run in draw(st.lists(runs, max_size=2)):
            if run & left:
                layers = frozenset(run & left)
                found.append(weight(f"layers.{{i}}.{name}", draw(st.integers(1, 4)), [("shape", draw(shapes))], layers))
                left -= run
    return found


@settings(max_examples=200, deadline=None)
@given(part_lists(), part_lists())
def test_the_rows_add_up_to_what_changed_and_the_way_back_is_the_negative(base: list[Part], head: list[Part]) -> None:
    there, back = path_rows(base, head), path_rows(head, base)
    whole = sum(p.value for p in head) - sum(p.value for p in base)
    assert sum(row["delta"] for row in there) == whole
    assert sum(row["delta"] for row in back) == -whole


@settings(max_examples=50, deadline=None)
@given(part_lists())
def test_nothing_differs_from_itself_in_any_order(parts: list[Part]) -> None:
    assert path_rows(parts, parts[::-1]) == []
