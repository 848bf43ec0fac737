"""`archcalc diff`: exit codes, formats, what goes to which stream, and hostile names in every format."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import NamedTuple

import pytest

from archcalc.cli import main

ROOT = Path(__file__).resolve().parents[2]
K25 = (ROOT / "specs" / "k25.yaml").read_text()
HOSTILE = "=<script>x</script>|`a`\n::error::b\x1b[31m\u202e"


class Ran(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def plain_output(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GITHUB_STEP_SUMMARY", "GITHUB_WORKSPACE", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def diff(capsys: pytest.CaptureFixture[str]):
    def run(*arguments: str) -> Ran:
        code = main(["diff", *arguments])
        return Ran(code, *capsys.readouterr())

    return run


@pytest.fixture
def more_experts(tmp_path: Path) -> str:
    path = tmp_path / "more.yaml"
    path.write_text(K25.replace("n_routed_experts: 384", "n_routed_experts: 512"))
    return str(path)


def test_nothing_changed_is_one_line(diff) -> None:
    assert diff("k25", "k25", "--exit-code") == (0, "k25 → k25: nothing changed\n", "")


def test_a_change_exits_0_unless_asked_otherwise(diff, more_experts: str) -> None:
    assert diff("k25", more_experts).code == 0
    assert diff("k25", more_experts, "--exit-code").code == 1


def test_exceeded_limits_exit_1_after_the_document(diff, more_experts: str) -> None:
    ran = diff("k25", more_experts, "--fail-on", "params.total:+1%", "--fail-on", "params.active:±0")
    assert ran.code == 1
    assert "exceeded" in ran.out
    # 128 experts, 60 layers, three matrices of 2048 x 7168, and 128 router rows of 7168; the latter alone is active
    total, active = 128 * 60 * (3 * 2048 * 7168 + 7168), 128 * 60 * 7168
    assert f"{total:+,}" in ran.err
    assert f"{active:+,}" in ran.err
    kept = diff("k25", more_experts, "--fail-on", "kv.bytes_per_token:+1%", "--fail-on", "params.total:+50%")
    assert kept.code == 0
    assert kept.err == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["k25", "k26.yaml"], "no such file"),
        (
            ["git:nowhere:specs/k25.yaml", "k25"],
            "git:nowhere:specs/k25.yaml: error: ",
        ),  # in any folder, a repository or not
        (["k25", "kimi-k2", "--fail-on", "params.totl:+1%"], "did you mean params.total?"),
        (["k25", "kimi-k2", "--fail-on", "params.total:1%"], "does not say in which direction"),
        (["k25", "kimi-k2", "--format", "tble"], "did you mean table?"),
        (["k25", "kimi-k2", "--units", "mib"], "unknown units"),
        (["k25", "kimi-k2", "--units", "mib", "--format", "markdown"], "unknown units"),
    ],
)
def test_what_can_not_be_answered_exits_2_and_prints_nothing(diff, arguments: list[str], message: str) -> None:
    ran = diff(*arguments)
    assert ran.code == 2
    assert ran.out == ""
    assert message in ran.err


def test_a_comparison_may_ask_for_serving_training_and_images(diff, more_experts: str) -> None:
    flags = ["--gpu", "h200", "--gpus", "8", "--plan", "k2-pretrain", "--set", "parallel.zero=3", "--seq", "1k"]
    ran = diff("k25", more_experts, *flags, "--image", "448x448", "--context", "8k", "--format", "json")
    assert ran.code == 0
    data = json.loads(ran.out)
    names = {row["quantity"] for row in data["tables"]["quantities"]} | data["unchanged"].keys()
    assert {"serve.fits", "serve.margin_bytes", "serve.max_tokens", "train.peak_bytes", "train.fits"} <= names
    assert {"flops.vision", "flops.projector", "vision.tokens"} <= names
    assert data["inputs"]["seq"] == 1024
    assert data["inputs"]["set"] == ["parallel.zero=3"]
    limited = diff("k25", more_experts, *flags, "--fail-on", "serve.margin_bytes:-1GiB")
    assert limited.code == 1
    assert "serve.margin_bytes" in limited.err


def test_a_report_of_a_newer_version_exits_2(diff, tmp_path: Path) -> None:
    path = tmp_path / "new.json"
    path.write_text('{"tool": "archcalc", "format_version": 99}')
    ran = diff(str(path), "k25")
    assert ran.code == 2
    assert "format_version 99" in ran.err


def test_nothing_is_half_written(diff, tmp_path: Path) -> None:
    good, bad = tmp_path / "a.md", tmp_path / "b.xyz"
    assert diff("kimi-k2", "k25", "-o", str(good), "-o", str(bad)).code == 2
    assert list(tmp_path.iterdir()) == []
    assert diff("kimi-k2", "k25", "-o", str(tmp_path / "none" / "a.md")).code == 2


def test_each_file_gets_the_form_of_its_ending(diff, tmp_path: Path) -> None:
    names = ["a.md", "a.json", "a.csv", "a.txt"]
    ran = diff("kimi-k2", "k25", *(word for name in names for word in ("-o", str(tmp_path / name))))
    assert (ran.code, ran.out) == (0, "")
    found = {name: (tmp_path / name).read_text() for name in names}
    assert found["a.md"].startswith("## kimi-k2 → k25")
    assert json.loads(found["a.json"])["command"] == "diff"
    assert found["a.csv"].startswith("kind,name,change,")
    assert found["a.txt"].startswith("kimi-k2 → k25")


def test_json_holds_raw_numbers_by_path_quantity_and_field(diff, more_experts: str) -> None:
    ran = diff("k25", more_experts, "--format", "json", "--fail-on", "params.total:+1%")
    data = json.loads(ran.out)
    assert data["format_version"] == 1
    assert data["changed"] is True
    by_name = {row["quantity"]: row for row in data["tables"]["quantities"]}
    assert by_name["params.total"]["before"] == 1_026_879_353_328
    assert data["tables"]["fields"][0]["field"] == "backbone.ffn.moe.n_routed_experts"
    assert {"path", "change", "before", "after", "delta", "percent", "was"} <= set(data["rows"][0])
    assert data["findings"][0]["verdict"] == "exceeded"
    assert data["unchanged"]["kv.bytes_per_token"] == 70_272


def test_csv_holds_every_kind_of_row_with_raw_numbers(diff, more_experts: str) -> None:
    ran = diff("k25", more_experts, "--format", "csv", "--fail-on", "params.total:+1%")
    rows = list(csv.DictReader(io.StringIO(ran.out)))
    assert {row["kind"] for row in rows} == {"quantity", "path", "field", "limit"}
    (total,) = [row for row in rows if row["name"] == "params.total"]
    assert int(total["after"]) - int(total["before"]) == int(total["delta"])


def test_deltas_have_their_sign_and_every_number_its_rows_unit(diff) -> None:
    lines = {line.split()[0]: line for line in diff("kimi-k2", "k25").out.splitlines() if line.strip()}
    assert re.search(r"958\.49 GiB +554\.27 GiB +-404\.22 GiB +-42\.17 %", lines["weights.bytes"])
    assert re.search(r" 0 +416,866,032 +\+416,866,032 +from 0", lines["params.vision"])
    assert re.search(r"none +4,608 +\+4,608 +new", lines["projector.merged_hidden_size"])
    in_gb = diff("kimi-k2", "k25", "--units", "gb").out
    assert "595.15 GB" in in_gb  # 595,148,192,736 bytes
    assert diff("kimi-k2", "k25", "--units", "bytes").out.count("595,148,192,736 B") == 1


# --------------------------------------------------------------------------------------- hostile names


@pytest.fixture
def hostile(tmp_path: Path) -> str:
    """A spec with a hostile path, name, title, section name, source and claim."""
    quoted = json.dumps(HOSTILE)
    text = (
        K25.replace("name: k25", f"name: {quoted}")
        .replace("title: Kimi K2.5", f"title: {quoted}")
        .replace("sources:\n", f"sources:\n  {quoted}: {quoted}\n")
        .replace("ffn: moe}", f"ffn: {quoted}}}")
        .replace("    moe:\n", f"    {quoted}:\n")
        .replace(
            "claims:\n", f"claims:\n  - {{claim: {quoted}, quantity: params.total, value: null, source: {quoted}}}\n"
        )
    )
    folder = tmp_path / HOSTILE.replace("/", "_")
    folder.mkdir()
    path = folder / "spec.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("form", ["table", "json", "csv", "markdown", "github"])
def test_hostile_names_are_harmless_in_every_format(diff, hostile: str, form: str) -> None:
    ran = diff("k25", hostile, "--format", form, "--fail-on", "params.total:+1%")
    assert ran.code == 0
    assert "\x1b" not in ran.out
    assert "\u202e" not in ran.out
    lines = ran.out.splitlines()
    assert not [line for line in lines if line.lstrip().startswith("::error::")]
    if form in ("markdown", "github"):
        shown = [line for line in lines if not line.startswith("::notice ")]
        assert not [line for line in shown if "<script" in line]
        assert not [line for line in shown if re.search(r"(?<!\\)`", line)]
        cells = [len(re.findall(r"(?<!\\)\|", line)) for line in shown if line.startswith("|")]
        assert set(cells) <= {6, 7, 8, 9}  # four numbers and one to four more cells, between bars
    if form == "csv":
        rows = list(csv.reader(io.StringIO(ran.out)))
        assert {len(row) for row in rows} == {11}
        assert not [cell for row in rows for cell in row if cell.startswith("=")]
    if form == "json":
        fields = {row["field"]: row for row in json.loads(ran.out)["tables"]["fields"]}
        assert fields["title"]["after"] == HOSTILE


def test_hostile_names_are_harmless_in_errors(diff, hostile: str) -> None:
    path = Path(hostile)
    path.write_text(path.read_text().replace("kv_lora_rank: 512", "kv_lora_rank: 0"))
    ran = diff("k25", hostile)
    assert ran.code == 2
    assert "\x1b" not in ran.err
    assert not [line for line in ran.err.splitlines() if line.startswith("::")]
    named = diff("k25", "kimi-k2", "--fail-on", f"{HOSTILE}:+1%")
    assert named.code == 2
    assert "\x1b" not in named.err
