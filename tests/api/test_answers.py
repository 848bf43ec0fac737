"""What a function returns is what its command prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import archcalc
from archcalc.documents.document import Report as Document
from tests.hf.configs import of_class
from tests.support import TINY, data, run, tiny, written

CASES: list[tuple[str, dict[str, Any], str]] = [
    ("params", {}, ""),
    ("params", {"depth": 2, "top": 3}, "--depth 2 --top 3"),
    ("params", {"by": "role"}, "--by role"),
    ("card", {}, ""),
    ("claims", {}, ""),
    ("flops", {}, ""),
    (
        "flops",
        {"phase": "train", "seq": 8192, "image": (1024, 768), "video": ["9x448x448"], "tokens": 15.5e12, "batch": 2},
        "--phase train --seq 8k --image 1024x768 --video 9x448x448 --tokens 15.5T --batch 2",
    ),
    ("flops", {"phase": "decode", "context": "128k"}, "--phase decode --context 131072"),
    (
        "flops",
        {"attention": "full", "logits": "last", "mla": "absorbed"},
        "--attention full --logits last --mla absorbed",
    ),
    ("flops", {"lengths": [512, "1k", 1024]}, "--lengths 512,1024x2"),
    ("flops", {"lengths": "4096,1024x3", "phase": "train"}, "--lengths 4096,1024x3 --phase train"),
    ("kv", {"context": 262144}, "--context 256k"),
    (
        "kv",
        {"tp": 8, "dcp": 4, "dp": 2, "pp": 2, "kv_dtype": "fp8", "block_size": 64, "memory": "80GiB", "batch": 3},
        "--tp 8 --dcp 4 --dp 2 --pp 2 --kv-dtype fp8 --block-size 64 --memory 80GiB --batch 3",
    ),
    ("kv", {"memory": 80 << 30, "image": ["60x60", (90, 30)]}, "--memory 80GiB --image 60x60 --image 90x30"),
    ("weights", {}, ""),
    ("weights", {"as_": "fp8", "optimizer": "muon"}, "--as fp8 --optimizer muon"),
    (
        "serve",
        {"gpu": "h200", "gpus": 8, "context": "128k", "batch": 4, "utilization": 0.85, "kv_dtype": "fp8"},
        "--gpu h200 --gpus 8 --context 128k --batch 4 --utilization 0.85 --kv-dtype fp8",
    ),
    (
        "serve",
        {"gpu": "h100", "tp": 8, "pp": 2, "ep": "all", "as_": "bf16", "eager": True, "overhead": "8GiB"},
        "--gpu h100 --tp 8 --pp 2 --ep all --as bf16 --eager --overhead 8GiB",
    ),
    (
        "serve",
        {"gpu": "h200", "gpus": "auto", "language_only": True, "lora_rank": 16, "engine": "sglang"},
        "--gpu h200 --gpus auto --language-only --lora-rank 16 --engine sglang",
    ),
    ("serve", {"gpu": "h100", "gpus": 8, "offload_experts": 30}, "--gpu h100 --gpus 8 --offload-experts 30"),
    ("serve", {"gpu": "all", "price": {"h100": 2.1, "h200": 3}}, "--gpu all --price h100=2.1 --price h200=3"),
    ("train", {"plan": "k2-pretrain"}, "--plan k2-pretrain"),
    (
        "train",
        {"plan": "k2-pretrain", "set": {"parallel.pp": 8, "activations.recompute": []}, "rank": 3},
        "--plan k2-pretrain --set parallel.pp=8 --set activations.recompute=[] --rank 3",
    ),
    (
        "train",
        {"plan": "k2-pretrain", "set": ["parallel.vpp=1"], "explain": "activations"},
        "--plan k2-pretrain --set parallel.vpp=1 --explain activations",
    ),
]


@pytest.mark.parametrize(("name", "arguments", "flags"), CASES)
def test_a_function_answers_what_its_command_prints(name: str, arguments: dict[str, Any], flags: str) -> None:
    report = getattr(archcalc, name)("k25", **arguments)
    ran = run(name, "k25", *flags.split(), "--format", "json")
    assert ran.code == 0, ran.err
    assert report.to_json() == ran.out
    document = json.loads(ran.out)
    assert {name: float(n) for name, n in report.quantities.items()} == {
        name: float(n) for name, n in document["quantities"].items()
    }
    for key in ("command", "title", "notes", "assumptions", "conventions"):
        assert getattr(report, key) == document[key]
    assert json.loads(json.dumps(report.findings)) == document["findings"]
    assert {name: len(rows) for name, rows in report.tables.items()} == {
        name: len(rows) for name, rows in document["tables"].items()
    }
    assert len(report.rows) == len(document["rows"])


@pytest.mark.parametrize(
    ("kind", "arguments", "flags"),
    [
        ("memory", {"gpu": "h200", "gpus": 8, "context": "4k..64k"}, "--gpu h200 --gpus 8 --context 4k..64k"),
        (
            "memory",
            {"gpu": ["h200", "h100"], "tp": 8, "ep": "all", "block_size": 64, "as_": "fp8"},
            "--gpu h200 --gpu h100 --tp 8 --ep all --block-size 64 --as fp8",
        ),
        ("memory", {"plan": "k2-pretrain", "set": {"parallel.pp": 8}}, "--plan k2-pretrain --set parallel.pp=8"),
        (
            "kv",
            {"batch": [1, 8], "kv_dtype": ["bf16", "fp8"], "context": (4096, 65536), "tp": 2},
            "--batch 1,8 --kv-dtype bf16,fp8 --context 4k..64k --tp 2",
        ),
        ("flops", {"batch": 2}, "--batch 2"),
        ("train", {"plan": ["k2-pretrain"]}, "--plan k2-pretrain"),
    ],
)
def test_a_plot_is_that_of_its_command(kind: Any, arguments: dict[str, Any], flags: str) -> None:
    plot = archcalc.plot(kind, "k25", **arguments)
    assert plot.to_json() == run("plot", kind, "k25", *flags.split(), "--format", "json").out
    assert str(plot) == run("plot", kind, "k25", *flags.split()).out


def test_plots_compare_specs_however_they_are_handed_in(tmp_path: Path) -> None:
    path = written(tmp_path, TINY)
    assert archcalc.plot("kv", path, "k25", path).to_json() == run("plot", "kv", path, "k25", "--format", "json").out
    loaded = archcalc.load(path)
    changed = tiny(max_position_embeddings=128)
    several = archcalc.plot("kv", loaded, loaded, changed, Path(path))
    assert several.inputs["specs"] == ["tiny", "tiny'", path]


def test_a_diff_is_that_of_its_command(tmp_path: Path) -> None:
    report = archcalc.diff("k25", "kimi-k2", fail_on="params.total:+1%")
    ran = run("diff", "k25", "kimi-k2", "--fail-on", "params.total:+1%", "--format", "json")
    assert report.to_json() == ran.out
    for ending, form in (("md", "markdown"), ("csv", "csv"), ("txt", "table")):
        report.save(tmp_path / f"d.{ending}")
        assert (tmp_path / f"d.{ending}").read_text() == run(
            "diff", "k25", "kimi-k2", "--fail-on", "params.total:+1%", "--format", form
        ).out


def test_a_diff_may_be_asked_about_serving_and_training() -> None:
    report = archcalc.diff(
        "k25",
        "kimi-k2",
        gpu="h200",
        gpus=8,
        plan="k2-pretrain",
        set={"parallel.vpp": 1},
        seq="8k",
        image=(1024, 768),
        context=65536,
    )
    flags = "--gpu h200 --gpus 8 --plan k2-pretrain --set parallel.vpp=1 --seq 8k --image 1024x768 --context 64k"
    assert report.to_json() == run("diff", "k25", "kimi-k2", *flags.split(), "--format", "json").out


def test_a_limit_that_is_exceeded_is_a_finding_and_no_error() -> None:
    report = archcalc.diff("kimi-k2", "k25", fail_on=["params.total:±0", "params.mtp:±0"])
    assert [finding["verdict"] for finding in report.findings] == ["exceeded", "kept"]
    assert report.extra["changed"] is True


def test_sides_of_a_diff_may_be_loaded_changed_or_reports(tmp_path: Path) -> None:
    loaded = archcalc.load(written(tmp_path, TINY))
    changed = loaded.data
    changed["backbone"]["vocab_size"] += 2
    assert archcalc.diff(loaded, tmp_path / "s.yaml").extra["changed"] is False
    (field,) = archcalc.diff(loaded, changed).tables["fields"]
    # 2 rows more of 8 features, in the embedding and in the head
    (total,) = (row for row in archcalc.diff(loaded, changed).tables["quantities"] if row["quantity"] == "params.total")
    assert (field["field"], field["before"], field["after"], field["line"]) == ("backbone.vocab_size", 32, 34, None)
    assert total["delta"] == 2 * 2 * 8
    before, after = archcalc.params(loaded), archcalc.params(changed)
    (moved,) = (row for row in archcalc.diff(before, after).tables["quantities"] if row["quantity"] == "params.total")
    assert moved["delta"] == 2 * 2 * 8


def test_an_import_is_that_of_its_command(tmp_path: Path) -> None:
    folder = tmp_path / "Small"
    folder.mkdir()
    config = of_class("qwen3")
    (folder / "config.json").write_text(json.dumps(config))
    report = archcalc.import_config(folder)
    assert report.to_json() == run("import", str(folder), "--explain", "--format", "json").out
    assert report.text == run("import", str(folder)).out
    report.save(tmp_path / "mine.yaml")
    report.save(tmp_path / "mine.csv")
    assert (tmp_path / "mine.yaml").read_text() == report.text
    assert (tmp_path / "mine.csv").read_text() == run("import", str(folder), "--explain", "--format", "csv").out
    total = archcalc.params(folder)["params.total"]
    of_data = archcalc.import_config(config)
    for same in (report.spec, tmp_path / "mine.yaml", config, of_data.spec, str(folder / "config.json")):
        assert archcalc.params(same)["params.total"] == total


def test_what_was_imported_is_cross_checked_with_its_own_config(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def checked(spec: Any, **options: Any) -> Document:
        given.append(options["config"])
        return Document(command="crosscheck", title="", inputs={}, quantities={})

    monkeypatch.setattr("archcalc.proof.crosscheck", checked)
    config = of_class("qwen3")
    archcalc.crosscheck(archcalc.load(config), against="transformers")
    archcalc.crosscheck(TINY)
    assert given == [config, None]


@pytest.mark.twin
def test_a_cross_check_is_that_of_its_command(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    attention = {"gqa": TINY["backbone"]["attention"]["gqa"] | {"head_dim": 4}}
    path = written(tmp_path, tiny(attention=attention))
    report = archcalc.crosscheck(path, only="params,kv")
    assert report.to_json() == run("crosscheck", path, "--only", "params,kv", "--format", "json").out
    assert archcalc.crosscheck(path, only=["params", "kv"]).findings == report.findings
    assert {finding["difference"] for finding in report.findings} == {0}


def test_a_difference_of_the_cross_check_is_a_finding_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    finding = {"kind": "params", "path": "a", "count": 1, "ours": 2, "theirs": 1, "difference": 1}
    document = Document(command="crosscheck", title="1 differs", inputs={}, quantities={}, findings=[finding])
    monkeypatch.setattr("archcalc.proof.crosscheck", lambda *_, **__: document)
    assert archcalc.crosscheck(TINY).findings == [finding]


def test_what_does_not_fit_is_an_answer() -> None:
    served = archcalc.serve("k25", gpu="h100", gpus=8)
    assert served["serve.fits"] is False
    assert served.extra["verdict"] == "does not fit"
    assert archcalc.train("k25", plan="k2-pretrain", set={"parallel.pp": 8})["train.fits"] is False
    assert any(finding["verdict"] == "refuted" for finding in archcalc.claims("k25").findings)


def test_a_spec_may_be_a_name_a_path_loaded_or_plain_data(tmp_path: Path) -> None:
    path = written(tmp_path, data("k25"))
    loaded = archcalc.load("k25")
    wanted = archcalc.kv("k25").to_json()
    for spec in (path, Path(path), loaded, loaded.data, data("k25"), archcalc.load(loaded)):
        assert archcalc.kv(spec).to_json() == wanted


def test_a_loaded_spec_says_what_it_is() -> None:
    spec = archcalc.load("k25")
    assert (spec.name, spec.title) == ("k25", "Kimi K2.5")
    assert repr(spec) == "<archcalc.Spec k25: Kimi K2.5>"
    assert spec.source.endswith("k25.yaml")
    modeline, _, rest = spec.text.partition("\n")
    assert modeline.startswith("# yaml-language-server: ")
    assert rest == run("show", "k25").out  # nobody knows where that goes, and whether a schema lies beside it
    assert spec.data == data("k25")
    assert spec.backbone.hidden_size == data("k25")["backbone"]["hidden_size"]
    assert spec.vision is not None
    assert spec.projector is not None
    assert archcalc.load(TINY).vision is None
    assert [claim.quantity for claim in spec.claims] == [claim["quantity"] for claim in data("k25")["claims"]]
    assert spec.sources == data("k25")["sources"]
    assert spec.assumed == data("k25").get("assumed", [])
    assert set(spec.storage) >= {"default"}


def test_changing_the_data_of_a_spec_changes_no_other(tmp_path: Path) -> None:
    spec = archcalc.load(TINY)
    mine = spec.data
    mine["backbone"]["hidden_size"] = 16
    assert spec.backbone.hidden_size == TINY["backbone"]["hidden_size"] == 8
    assert spec.data["backbone"]["hidden_size"] == 8
    assert archcalc.load(mine).backbone.hidden_size == 16
    (tmp_path / "mine.yaml").write_text(archcalc.load(mine).text)  # JSON is YAML
    assert archcalc.load(tmp_path / "mine.yaml").data == mine
