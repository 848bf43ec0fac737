"""Saved reports beside specs and beside each other: asked again under their own inputs, and never more believed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from archcalc.documents.ask import answer
from archcalc.documents.diff import changed, diff_report
from archcalc.documents.document import Report
from archcalc.errors import InputError
from archcalc.files.loader import load_spec, parse
from archcalc.files.model import Spec
from archcalc.render.json import render
from tests.support import ROOT

K25 = (ROOT / "specs" / "k25.yaml").read_text()
PLAN = (ROOT / "specs" / "plans" / "k2-pretrain.yaml").read_text()
GPU = (ROOT / "specs" / "hardware" / "h200.yaml").read_text()
LLAMA = (ROOT / "specs" / "llama-3.1-8b.yaml").read_text()
SMALL_PLAN = (ROOT / "specs" / "plans" / "llama-3-8b-fsdp2.yaml").read_text()
"""For reports of everything, which take some time."""
LARGER_GPU = GPU.replace("memory_visible_bytes: 1", "memory_visible_bytes: 2")
FEWER_EXPERTS = K25.replace("n_routed_experts: 384", "n_routed_experts: 256")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Somebody's repository: the working folder, with a copy of the spec, a plan and a GPU of their own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    write("models/kimi.yaml", K25)
    write("fewer.yaml", FEWER_EXPERTS)
    write("llama.yaml", LLAMA)
    write("wider.yaml", LLAMA.replace("intermediate_size: 14336", "intermediate_size: 16384"))
    write("small.yaml", SMALL_PLAN.replace("name: llama-3-8b-fsdp2", "name: small"))
    write("mine.yaml", PLAN.replace("name: k2-pretrain", "name: mine").replace("extra_warmup: 1", "extra_warmup: 2"))
    write(
        "gpu.yaml",
        GPU.replace("name: h200", "name: ours").replace("memory_visible_bytes: 1", "memory_visible_bytes: 2"),
    )
    return tmp_path


def write(path: str, text: str) -> str:
    Path(path).write_text(text)
    return path


def saved(path: str, command: str, spec: str = "models/kimi.yaml", /, **arguments: Any) -> str:
    """A report saved as JSON."""
    return write(path, render(answer(command, load_spec(spec), arguments), "gib"))


def rows(report: Report, name: str) -> dict[str, dict[str, Any]]:
    (found,) = [table for table in report.tables if table.name == name]
    return {row[found.columns[0].key]: dict(row) for row in found.rows}


# ------------------------------------------------------------------------------------------------ claims


def test_a_claims_report_tells_what_a_changed_spec_does_to_its_claims(folder: Path) -> None:
    report = diff_report(saved("claims.json", "claims"), "fewer.yaml")
    fields, quantities = rows(report, "fields"), rows(report, "quantities")
    # 8 of 384 experts are 2.08 % and print as 2.1 %; 8 of 256 are 3.125 %
    ratio = 'findings["MoE activation ratio 2.1 % moe.activa..."]'
    assert (fields[f"{ratio}.verdict"]["before"], fields[f"{ratio}.verdict"]["after"]) == ("rounded", "refuted")
    assert fields[f"{ratio}.computed"]["after"] == 0.03125
    # 128 experts of three matrices of 2048 x 7168 in 60 layers, and their rows of the router
    assert quantities["params.backbone"]["delta"] == -128 * 60 * (3 * 2048 * 7168 + 7168)
    assert quantities["moe.activation_ratio"]["percent"] == pytest.approx(50)


def test_a_claims_report_equals_its_own_spec(folder: Path) -> None:
    path = saved("claims.json", "claims")
    assert diff_report(path, "models/kimi.yaml").title.endswith(": nothing changed")
    assert diff_report("models/kimi.yaml", path).title.endswith(": nothing changed")


def test_a_spec_without_claims_still_answers_the_numbers_of_a_claims_report(folder: Path) -> None:
    write("silent.yaml", FEWER_EXPERTS[: FEWER_EXPERTS.index("\nclaims:")])
    report = diff_report(saved("claims.json", "claims"), "silent.yaml")
    assert rows(report, "quantities")["params.backbone"]["delta"] == -128 * 60 * (3 * 2048 * 7168 + 7168)
    assert {row["change"] for name, row in rows(report, "fields").items() if name != "spec_sha256"} == {"removed"}


# ----------------------------------------------------------------------------------- another repository


def test_the_bundled_report_equals_a_copy_of_its_spec_in_another_repository(folder: Path) -> None:
    report = diff_report(str(ROOT / "reports" / "k25.json"), "models/kimi.yaml")
    assert not changed(report)
    assert report.title.endswith("nothing changed")


def test_a_weight_that_changes_shape_changes_as_a_weight_and_as_no_buffer(folder: Path) -> None:
    report = diff_report(str(ROOT / "reports" / "k25.json"), "fewer.yaml")
    rows = report.rows.rows if report.rows else ()
    router = "language_model.model.layers.1-60.mlp.gate"
    assert {row["path"]: row["note"] for row in rows if row["delta"] and row["note"].startswith("shape")} == {
        f"{router}.weight": "shape [384, 7168] → [256, 7168]",
        f"{router}.e_score_correction_bias": "shape [384] → [256]",
    }
    assert all(row["delta"] for row in rows), "of nothing on either side nothing changed"


def test_a_copy_under_another_name_is_the_same_spec(folder: Path) -> None:
    write("ours.yaml", LLAMA.replace("name: llama-3.1-8b", "name: ours").replace("title: Llama", "title: Our Llama"))
    path = saved("report.json", "report", "llama.yaml", plan=["llama-3-8b-fsdp2"], gpu=["h200"])
    assert diff_report(path, "ours.yaml").title.endswith(": nothing changed")
    other = saved("other.json", "report", "ours.yaml", plan=["llama-3-8b-fsdp2"], gpu=["h200"])
    assert diff_report(path, other).title.endswith(": nothing changed")


@pytest.mark.parametrize(
    ("command", "bundled", "copied"),
    [
        ("report", {"plan": ["llama-3-8b-fsdp2"], "gpu": ["h200"]}, {"plan": ["small.yaml"], "gpu": ["copy.yaml"]}),
        ("train", {"plan": "llama-3-8b-fsdp2"}, {"plan": "small.yaml"}),
        ("serve", {"gpu": "h200"}, {"gpu": "copy.yaml"}),
    ],
    ids=["report", "train", "serve"],
)
def test_a_plan_and_a_gpu_are_what_is_in_them_whatever_they_are_called(
    command: str, bundled: dict[str, Any], copied: dict[str, Any], folder: Path
) -> None:
    write("copy.yaml", GPU)
    ours = saved("a.json", command, "llama.yaml", **bundled)
    report = diff_report(ours, saved("b.json", command, "llama.yaml", **copied))
    assert report.title.endswith(": nothing changed")
    assert not report.notes


def test_reports_about_other_plans_differ_in_no_number_of_training(folder: Path) -> None:
    with_plan = saved("a.json", "report", "llama.yaml", plan=["llama-3-8b-fsdp2"])
    report = diff_report(with_plan, saved("b.json", "report", "llama.yaml"))
    assert not changed(report)
    said = 'The reports are about other plans, "llama-3-8b-fsdp2" and none: training is not compared.'
    assert report.notes == (said,)
    other = rows(diff_report(with_plan, saved("c.json", "report", "wider.yaml")), "quantities")
    assert "params.total" in other
    assert not [name for name in other if name.startswith("train.")]


def test_plans_of_one_name_and_other_content_are_told_apart(folder: Path) -> None:
    theirs = saved("a.json", "train", plan="mine.yaml")
    write("mine.yaml", Path("mine.yaml").read_text().replace("extra_warmup: 2", "extra_warmup: 3"))
    fields = rows(diff_report(theirs, saved("b.json", "train", plan="mine.yaml")), "fields")
    assert list(fields) == ["plan.schedule.extra_warmup"]
    assert fields["plan.schedule.extra_warmup"]["delta"] == 1


# ------------------------------------------------------------------------------ asked again, every command


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("train", {"plan": "k2-pretrain", "set": ["parallel.zero=3", "memory.fixed=1GB"], "rank": 2}),
        ("train", {"plan": "mine.yaml"}),
        ("serve", {"gpu": "gpu.yaml", "gpus": 16, "dp": 16, "ep": "all", "kv_dtype": "fp8", "context": 32768}),
        ("report", {"plan": ["small.yaml"], "gpu": ["gpu.yaml"]}),
    ],
    ids=["train --set", "train", "serve", "report"],
)
def test_a_saved_report_is_asked_again_though_its_files_are_gone(
    command: str, arguments: dict[str, Any], folder: Path
) -> None:
    spec, edited = ("llama.yaml", "wider.yaml") if command == "report" else ("models/kimi.yaml", "fewer.yaml")
    path = saved("saved.json", command, spec, **arguments)
    wanted = answer(command, load_spec(edited), arguments).quantities
    before = json.loads(Path(path).read_text())["quantities"]
    for gone in ("mine.yaml", "small.yaml", "gpu.yaml"):
        Path(gone).unlink()
    assert diff_report(path, spec).title.endswith(": nothing changed")
    found = rows(diff_report(path, edited), "quantities")
    moved = {name: n for name, n in wanted.items() if n != before.get(name)}
    assert {name: row["after"] for name, row in found.items()} == moved
    assert moved


def test_a_draft_and_an_engine_of_ones_own_are_held_too(folder: Path) -> None:
    engine = (ROOT / "specs" / "engines" / "vllm.yaml").read_text()
    write("engine.yaml", engine.replace("name: vllm", "name: ours"))
    write("draft.yaml", (ROOT / "specs" / "llama-3.1-8b.yaml").read_text())
    path = saved("saved.json", "serve", gpu="h200", gpus=16, engine="engine.yaml", draft="draft.yaml")
    assert set(json.loads(Path(path).read_text())["files"]) == {"engines", "specs"}
    for gone in ("engine.yaml", "draft.yaml"):
        Path(gone).unlink()
    assert diff_report(path, "models/kimi.yaml").title.endswith(": nothing changed")


def test_a_gpu_of_ones_own_that_is_called_like_a_bundled_one_is_not_taken_for_it(folder: Path) -> None:
    write("h200.yaml", LARGER_GPU)
    path = saved("saved.json", "serve", gpu="h200.yaml", gpus=8)
    Path("h200.yaml").unlink()
    assert diff_report(path, "models/kimi.yaml").title.endswith(": nothing changed")
    (row,) = rows(diff_report(path, saved("b.json", "serve", gpu="h200", gpus=8)), "fields").values()
    assert row["field"] == "gpu.memory_visible_bytes"


def without_files(path: str) -> str:
    """The report as earlier versions saved it, which held no files."""
    data = json.loads(Path(path).read_text())
    return write(path, json.dumps({key: data[key] for key in data if key not in ("files", "layout", "spec_sha256")}))


@pytest.mark.parametrize(
    ("command", "arguments", "named"),
    [
        ("train", {"plan": "small.yaml"}, "plan"),
        ("report", {"plan": ["small.yaml"]}, "plan"),
        ("serve", {"gpu": "gpu.yaml"}, "gpu"),
        ("report", {"gpu": ["gpu.yaml"]}, "gpu"),
    ],
)
def test_a_file_that_is_gone_is_named_and_can_be_lent(
    command: str, arguments: dict[str, Any], named: str, folder: Path
) -> None:
    path = without_files(saved("saved.json", command, "llama.yaml", **arguments))
    noun, own = {"plan": ("plan", "small.yaml"), "gpu": ("GPU", "gpu.yaml")}[named]
    with pytest.raises(InputError, match=f"names a {noun} that is neither bundled nor kept in it: ") as caught:
        diff_report(path, "llama.yaml")
    assert f"--{named}" in (caught.value.hint or "")
    lent: dict[str, Any] = {named: own}
    other: dict[str, Any] = {"plan": "k2-pretrain"} if named == "plan" else {"gpu": "h200"}
    assert diff_report(path, "llama.yaml", **lent).title.endswith(": nothing changed")
    with pytest.raises(InputError, match="it lacks"):
        diff_report(path, "llama.yaml", **other)


def test_limits_may_name_what_a_saved_report_was_asked(folder: Path) -> None:
    for command, limit, more in (
        ("train", "train.params_bytes:+0", {"plan": "mine.yaml"}),
        ("serve", "serve.margin_bytes:-0", {"gpu": "gpu.yaml", "gpus": 8}),
    ):
        path = saved("saved.json", command, "fewer.yaml", **more)  # HEAD has 128 experts more a layer
        (finding,) = diff_report(path, "models/kimi.yaml", limits=[limit]).findings
        assert finding["verdict"] == "exceeded"


@pytest.mark.parametrize(
    "flags",
    [{"seq": 100}, {"image": [(448, 448)]}, {"context": 100}, {"context": 0}, {"plan": "k2-pretrain"}, {"gpu": "h200"}],
    ids=lambda flags: "-".join(map(str, *flags.items())),
)
def test_a_flag_that_a_saved_report_has_no_use_for_is_refused(flags: dict[str, Any], folder: Path) -> None:
    path = saved("saved.json", "kv")
    for sides in ((path, "models/kimi.yaml"), (path, path)):
        with pytest.raises(InputError, match="under its own inputs"):
            diff_report(*sides, **flags)


@pytest.mark.parametrize("batch", [10**400, -(10**400), 1e300, 1e-320], ids=["huge", "below", "float", "tiny"])
def test_a_number_that_no_model_has_is_compared_without_a_percentage(batch: float, folder: Path) -> None:
    path = saved("saved.json", "kv", batch=2)
    data = json.loads(Path(path).read_text())
    data["inputs"]["batch"] = batch
    report = diff_report(write("other.json", json.dumps(data)), path)
    assert rows(report, "fields")["batch"]["percent"] is None


def test_a_file_that_a_held_plan_names_is_not_read(folder: Path) -> None:
    path = saved("saved.json", "train", plan="mine.yaml")
    data = json.loads(Path(path).read_text())
    data["files"]["plans"]["mine"]["hardware"] = "./gpu.yaml"
    write(path, json.dumps(data))
    with pytest.raises(InputError, match="names a GPU that is neither bundled nor kept in it"):
        diff_report(path, "models/kimi.yaml")


@pytest.mark.parametrize("files", [{"plans": {"mine": 3}}, {"plans": {"mine": {"kind": "spec"}}}, {"plans": 3}, [], 3])
def test_files_that_are_none_are_one_error(files: Any, folder: Path) -> None:
    path = saved("saved.json", "train", plan="mine.yaml")
    write(path, json.dumps(json.loads(Path(path).read_text()) | {"files": files}))
    with pytest.raises(InputError):
        diff_report(path, "models/kimi.yaml")


# -------------------------------------------------------------------------------------- digest and layout


def spec_of(text: str) -> Spec:
    return parse(text, "x.yaml", Spec)


DIGEST = spec_of(K25).sha256


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(load_spec("k25").model_dump()),  # another form, other order of keys, every default written out
        K25.replace("backbone:\n", "# a comment\n\nbackbone:\n"),
        K25.replace("name: k25", "name: ours").replace("title: Kimi K2.5", "title: Ours"),
        K25[: K25.index("\nclaims:")],
    ],
    ids=["form", "comment", "name", "claims"],
)
def test_what_changes_no_number_leaves_the_digest(text: str) -> None:
    assert text != K25
    assert spec_of(text).sha256 == DIGEST


def test_whatever_may_change_a_number_changes_the_digest() -> None:
    assert spec_of(FEWER_EXPERTS).sha256 != DIGEST
    assert spec_of(K25.replace("rope_theta: 50000.0", "rope_theta: 60000.0")).sha256 != DIGEST


@pytest.mark.parametrize("command", ["params", "claims", "flops", "kv", "weights", "serve", "train", "report"])
def test_every_saved_report_carries_the_digest(command: str, folder: Path) -> None:
    more = {"serve": {"gpu": "h200"}, "train": {"plan": "small.yaml"}}.get(command, {})
    data = json.loads(Path(saved("a.json", command, "llama.yaml", **more)).read_text())
    assert data["spec_sha256"] == spec_of(LLAMA).sha256


def test_a_serving_report_carries_its_layout(folder: Path) -> None:
    data = json.loads(Path(saved("a.json", "serve", gpu="h200")).read_text())
    laid = data["layout"]
    assert (laid["gpu"], laid["engine"]) == ("h200", "vllm")
    assert laid["gpus"] == laid["tp"] * laid["pp"] * laid["dp"] == data["quantities"]["serve.gpus"]
    assert {"ep", "dcp", "kv_dtype", "block_size", "vision"} < laid.keys()


def test_a_training_report_carries_its_layout_as_compiled(folder: Path) -> None:
    laid = json.loads(Path(saved("a.json", "train", plan="k2-pretrain")).read_text())["layout"]
    # 256 GPUs over 16 pipeline ranks of 16 data-parallel devices, which hold whole experts each
    assert [laid[name] for name in ("world", "pp", "vpp", "tp", "ep", "dp")] == [256, 16, 2, 1, 16, 16]
    assert [len(chunks) for chunks in laid["stages"]] == [2] * 16
    assert sum(sum(chunks) for chunks in laid["stages"]) == 61  # layers of the model


def test_a_change_that_no_number_shows_is_told_by_the_digest(folder: Path) -> None:
    write("theta.yaml", K25.replace("rope_theta: 50000.0", "rope_theta: 60000.0"))
    report = diff_report(saved("a.json", "kv"), "theta.yaml")
    assert changed(report)
    assert list(rows(report, "fields")) == ["spec_sha256"]


def test_other_numbers_of_the_same_spec_are_laid_to_the_version(folder: Path) -> None:
    path = saved("a.json", "kv")
    data = json.loads(Path(path).read_text())
    data["quantities"]["kv.total_bytes"] += 1
    write(path, json.dumps(data))
    report = diff_report(path, "models/kimi.yaml")
    assert rows(report, "quantities")["kv.total_bytes"]["delta"] == -1
    assert "another version of archcalc" in report.notes[-1]
    other = diff_report(path, "fewer.yaml")
    assert not [note for note in other.notes if "another version" in note]


def test_another_verdict_on_the_same_spec_is_laid_to_the_version(folder: Path) -> None:
    path = saved("a.json", "claims")
    data = json.loads(Path(path).read_text())
    data["findings"][0]["verdict"] = "confirmed"
    write(path, json.dumps(data))
    assert "another version of archcalc" in diff_report(path, "models/kimi.yaml").notes[-1]
