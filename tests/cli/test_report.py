"""`archcalc report`: what it writes, what `--check` finds stale, and names that can do no harm."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import archcalc
from archcalc.documents.book import file_stem
from archcalc.documents.books_file import load_books
from archcalc.documents.document import FORMAT_VERSION
from archcalc.errors import InputError
from archcalc.files.model import Spec
from archcalc.proof import check as crosscheck_check
from archcalc.proof.check import our_sides
from archcalc.proof.record import Record, from_json, judged, key_of, record, to_json
from archcalc.proof.sides import joined
from archcalc.tape import Op, Tape, Term
from tests.support import ROOT, Ran, answered, data, run, spec_of, text, tiny, written

HOSTILE = "<script>alert(1)</script>|`a`\n## b\x1b[31m\u202e"


@pytest.fixture(autouse=True)
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the extra is not installed: a cross-check of each report takes seconds."""
    monkeypatch.setattr(crosscheck_check, "find_spec", lambda name: None)


BOOKS = sorted(load_books(ROOT / "reports"))
"""Specs of which the repository holds a report."""

WITH = ("--plan", "k2-pretrain", "--gpu", "h200")
"""What the committed report of K2.5 is about."""


def report(folder: Path, *arguments: str) -> Ran:
    return run("report", *arguments, "--dir", str(folder))


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def agreeing(spec: Spec) -> Record:
    """The record of a torch that says what archcalc says."""
    sides = our_sides(spec)
    return record(spec, joined(sides, sides))


# --------------------------------------------------------------------------------------------- the committed reports


def test_the_committed_reports_are_current(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sorted(path.stem for path in (ROOT / "reports").glob("*.md")) == BOOKS
    monkeypatch.chdir(ROOT)
    ran = run("report", *BOOKS, "--check")
    assert ran.code == 0, ran.err  # `make reports` writes them again
    assert (ran.out, ran.err) == ("", f"{len(BOOKS)} reports up to date in reports\n")


@pytest.mark.parametrize("name", BOOKS)
def test_the_committed_cross_checks_are_equal_in_every_kind(name: str) -> None:
    found = crosschecked(ROOT / "reports", name)
    assert {row["kind"] for row in found["rows"]} >= {"params", "flops", "kv", "weights", "activations", "schedule"}
    assert {row["result"] for row in found["rows"]} == {"equal"}


@pytest.mark.parametrize("name", BOOKS)
def test_the_pictures_of_committed_reports_are_there_and_are_svg(name: str) -> None:
    page = (ROOT / "reports" / f"{name}.md").read_text()
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]*)\)", page)
    assert len(pictures) >= 3
    for picture in pictures:
        assert (ROOT / "reports" / picture).read_text().lstrip().startswith("<?xml")


def test_a_check_needs_neither_torch_nor_matplotlib_and_takes_less_than_five_seconds() -> None:
    code = "import sys; from archcalc.cli import main; main(['report', 'k25', '--check']); print(*sys.modules)"
    before = os.times()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    after = os.times()
    loaded = set(done.stdout.split())
    assert "archcalc.documents.book" in loaded
    assert not loaded & {"torch", "transformers", "matplotlib", "numpy"}
    assert after.children_user - before.children_user < 5


# ------------------------------------------------------------------------------------------------- what is written


@pytest.fixture(scope="module")
def k25(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the report of K2.5 and its cross-check."""
    folder = tmp_path_factory.mktemp("k25")
    kept = agreeing(spec_of(data("k25")))
    (folder / "k25.crosscheck.json").write_text(to_json(kept, "k25"))
    assert report(folder, "k25", *WITH).code == 0
    return folder


def sections(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())["sections"]
    return found


def test_a_report_has_a_page_a_document_a_record_and_pictures(k25: Path) -> None:
    pictures = {"k25-flops.svg", "k25-kv.svg", "k25-memory.svg", "k25-train-k2-pretrain.svg"}
    assert files(k25) == {"k25.md", "k25.json", "k25.crosscheck.json", *pictures}


def test_the_page_has_every_section_in_order(k25: Path) -> None:
    page = (k25 / "k25.md").read_text()
    assert page.startswith("# Kimi K2.5\n")
    assert re.findall(r"^## (.*)", page, re.MULTILINE) == [
        "Parameters",
        "Parameters by module",
        "Published claims, judged",
        "FLOPs",
        "KV cache",
        "Weights",
        "Serving: the fewest GPUs that hold one sequence of full length",
        "Serving on h200",
        "Training under k2-pretrain: fits",
        "Cross-check",
        "What the numbers rest on",
    ]
    document = json.loads((k25 / "k25.json").read_text())
    names = ["parts", "params", "claims", "flops", "kv", "weights"]
    names += ["serve", "serve-h200", "train-k2-pretrain", "crosscheck"]
    assert document["order"] == names
    assert sorted(names) == list(document["sections"])


def test_the_page_holds_published_figures(k25: Path) -> None:
    page = (k25 / "k25.md").read_text()
    for figure in (
        "1,026,879,353,328",  # parameters
        "68,489,183,232",  # FLOPs of a token, causal
        "73,606,234,112",  # full scores
        "70,272",  # KV bytes a token
        "595,148,192,736",  # bytes of the release
        "5,549,129,220,096",  # FLOPs of the tower for an image of 1024 x 768
    ):
        assert figure in page


def test_the_document_is_a_report_with_the_quantities_of_all_sections(k25: Path) -> None:
    document = json.loads((k25 / "k25.json").read_text())
    assert (document["tool"], document["command"]) == ("archcalc", "report")
    assert document["format_version"] == FORMAT_VERSION
    for name in ("params", "flops", "kv", "weights", "serve", "train-k2-pretrain"):
        own = document["sections"][name]["asked"][0]["report"]["quantities"]
        assert own.items() <= document["quantities"].items()
    assert document["rows"] == document["sections"]["params"]["asked"][0]["report"]["rows"]
    assert len(document["findings"]) == 12  # the claims of the spec
    assert document["inputs"] == {"spec": "k25", "plan": ["k2-pretrain"], "gpu": ["h200"]}
    assert "parallel.vpp = 2" in document["assumptions"]
    assert "- train: parallel.vpp = 2" in (k25 / "k25.md").read_text()


def test_a_diff_reads_it(k25: Path) -> None:
    ran = run("diff", str(k25 / "k25.json"), str(k25 / "k25.json"), "--exit-code")
    assert ran.code == 0
    assert "nothing changed" in ran.out


def test_a_diff_asks_a_spec_for_the_same(k25: Path, tmp_path: Path) -> None:
    saved = str(k25 / "k25.json")
    assert run("diff", saved, "k25", "--exit-code").code == 0
    wider = written(tmp_path, text("k25").replace("kv_lora_rank: 512", "kv_lora_rank: 576"))
    ran = run("diff", saved, wider, "--format", "json")
    changed = {row["quantity"] for row in json.loads(ran.out)["tables"]["quantities"]}
    assert {"params.total", "flops.per_token", "kv.bytes_per_token", "weights.bytes"} <= changed


@pytest.mark.parametrize("name", BOOKS)
def test_each_command_line_of_a_committed_report_answers_what_stands_beside_it(name: str) -> None:
    whole = sections(ROOT / "reports", name)
    asked = [each for section, found in whole.items() if section != "crosscheck" for each in found["asked"]]
    assert len(asked) >= 12
    for each in asked:
        words = shlex.split(each["command"])
        assert words[0] == "archcalc"
        answer = answered(*words[1:])
        assert {key: answer[key] for key in each["report"]} == each["report"], each["command"]
        assert each["report"]["quantities"].keys() == answer["quantities"].keys()
    assert all(found["asked"][0]["report"].keys() >= {"rows", "tables", "findings"} for found in whole.values())
    assert whole["crosscheck"]["asked"][0]["command"] == f"archcalc crosscheck {name}"  # takes torch, and a minute


def test_the_commands_of_pictures_draw_the_same_picture(k25: Path, tmp_path: Path) -> None:
    pictures = [picture for section in sections(k25, "k25").values() for picture in section["pictures"]]
    assert len(pictures) == 4
    for picture in pictures:
        target = tmp_path / picture["file"]
        assert run(*shlex.split(picture["command"])[1:], "-o", str(target)).code == 0
        assert target.read_bytes() == (k25 / picture["file"]).read_bytes()


def test_a_title_too_long_for_a_picture_is_cut_as_the_command_cuts_it(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(text("llama-3.1-70b").replace("title: Llama 3.1 70B", "title: " + "Long " * 11 + "70B"))
    out = tmp_path / "out"
    assert report(out, str(mine)).code == 0
    (picture,) = sections(out, "llama-3.1-70b")["kv"]["pictures"]
    words = [str(mine) if word == "mine.yaml" else word for word in shlex.split(picture["command"])]
    assert run(*words[1:], "-o", str(tmp_path / "x.svg")).code == 0
    assert (tmp_path / "x.svg").read_bytes() == (out / picture["file"]).read_bytes()


def test_nothing_in_a_report_depends_on_the_day_the_version_or_the_folder(k25: Path, tmp_path: Path) -> None:
    (tmp_path / "k25.crosscheck.json").write_bytes((k25 / "k25.crosscheck.json").read_bytes())
    names = ("k25.yaml", "plans/k2-pretrain.yaml", "hardware/h200.yaml")
    spec, plan, gpu = (str(ROOT / "specs" / name) for name in names)
    assert report(tmp_path, spec, "--plan", plan, "--gpu", gpu).code == 0
    for name in files(k25):
        assert (tmp_path / name).read_bytes() == (k25 / name).read_bytes()
    for name in ("k25.md", "k25.json"):
        body = (k25 / name).read_text()
        assert str(ROOT) not in body
        assert not re.search(r"\b20[2-9]\d-\d\d-\d\d\b", body)
        assert f"archcalc {archcalc.__version__}" not in body


def test_a_model_without_claims_plan_or_a_long_context_has_fewer_sections(tmp_path: Path) -> None:
    path = written(tmp_path, tiny())
    out = tmp_path / "out"
    assert report(out, path).code == 0
    assert files(out) == {"tiny.md", "tiny.json"}  # a context of 64 tokens makes no curves
    assert list(sections(out, "tiny")) == sorted(["parts", "params", "flops", "kv", "weights", "serve", "crosscheck"])


def test_several_specs_make_several_reports(tmp_path: Path) -> None:
    assert report(tmp_path, "kimi-k2-thinking", "llama-3.1-70b").code == 0
    assert {"kimi-k2-thinking.md", "llama-3.1-70b.json"} <= files(tmp_path)
    assert report(tmp_path, "llama-3.1-70b", "kimi-k2-thinking", "--check").code == 0


def test_without_matplotlib_the_pictures_are_left_out_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [name for name in sys.modules if name.startswith(("matplotlib", "archcalc.render.plot"))]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delattr("archcalc.render.plot", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    ran = report(tmp_path, "llama-3.1-70b")
    assert ran.code == 0
    assert "pip install 'archcalc[plot]'" in ran.err
    assert files(tmp_path) == {"llama-3.1-70b.md", "llama-3.1-70b.json"}
    ran = report(tmp_path, "llama-3.1-70b", "--check")
    assert (ran.code, ran.err.count(".svg: missing")) == (1, 2)
    assert "(pictures need matplotlib: pip install 'archcalc[plot]')" in ran.err


# ------------------------------------------------------------------------------- the plans and GPUs that it is about


def books(folder: Path, *lines: str) -> Path:
    """A folder with a `books.yaml` of these entries."""
    folder.mkdir(exist_ok=True)
    (folder / "books.yaml").write_text("\n".join(["kind: books", "books:", *lines]) + "\n")
    return folder


def test_the_file_beside_the_reports_says_which_plans_and_gpus(tmp_path: Path) -> None:
    out = books(tmp_path / "out", "  kimi-k2: {plans: [k2-pretrain], gpus: [b200, h200]}", "  none: {gpus: [h100]}")
    assert report(out, "kimi-k2", "llama-3.1-70b").code == 0
    found = sections(out, "kimi-k2")
    assert {"train-k2-pretrain", "serve-b200", "serve-h200"} <= set(found)
    assert [picture["file"] for name in ("serve-b200", "serve-h200") for picture in found[name]["pictures"]] == [
        "kimi-k2-memory.svg",
        "kimi-k2-memory-h200.svg",
    ]
    assert not [name for name in sections(out, "llama-3.1-70b") if name.startswith(("train", "serve-"))]
    assert report(out, "kimi-k2", "llama-3.1-70b", "--check").code == 0


def test_a_spec_without_an_entry_is_told_so(tmp_path: Path) -> None:
    out = books(tmp_path / "out", "  llama-3.1-7Ob: {gpus: [h200]}")
    ran = report(out, "llama-3.1-70b")
    assert ran.code == 0
    assert f"llama-3.1-70b: no entry in {out / 'books.yaml'}, so that its report is about no plan and no GPU" in ran.err
    assert "no entry in" not in report(tmp_path / "none", "llama-3.1-70b").err


def test_flags_go_before_the_file(tmp_path: Path) -> None:
    out = books(tmp_path / "out", "  k25: {plans: [k2-pretrain], gpus: [h200]}")
    assert report(out, "k25", "--gpu", "h100").code == 0
    found = sections(out, "k25")
    assert {"train-k2-pretrain", "serve-h100"} <= set(found)  # each flag replaces its own key
    assert "serve-h200" not in found
    ran = report(out, "k25", "--check")
    assert ran.code == 1
    assert report(out, "k25", "--check", "--gpu", "h100").code == 0
    assert "archcalc report k25 --plan k2-pretrain --gpu h100\n" in (out / "k25.md").read_text()
    assert report(out, "k25", "--check", "--gpu", "b200").err.rstrip().endswith(f"--dir {out} --gpu=b200")


def test_plans_and_gpus_of_ones_own_are_found_from_the_folder_of_the_file(tmp_path: Path) -> None:
    plan = (ROOT / "specs" / "plans" / "k2-pretrain.yaml").read_text().replace("name: k2-pretrain", "name: mine")
    (tmp_path / "my plan.yaml").write_text(plan)
    (tmp_path / "gpu.yaml").write_text((ROOT / "specs" / "hardware" / "h100.yaml").read_text())
    out = books(tmp_path / "out", "  k25: {plans: [../my plan.yaml], gpus: [../gpu.yaml]}")
    assert report(out, "k25").code == 0
    found = sections(out, "k25")
    stem = file_stem("my plan")
    assert found[f"train-{stem}"]["asked"][0]["command"] == "archcalc train k25 --plan 'my plan.yaml'"
    assert found[f"train-{stem}"]["pictures"][0]["file"] == f"k25-train-{stem}.svg"
    assert found["serve-gpu"]["pictures"][0]["command"].endswith("--gpu gpu.yaml")
    body = (out / "k25.json").read_text() + (out / "k25.md").read_text()
    assert str(tmp_path) not in body  # nothing depends on where it was written
    path = out / "k25.json"
    assert run("diff", str(path), "k25").out == f"{path} → k25: nothing changed\n"  # it holds both files itself
    data = json.loads(path.read_text())
    path.write_text(json.dumps({key: data[key] for key in data if key != "files"}))  # as earlier versions wrote it
    ran = run("diff", str(path), "k25")
    assert (ran.code, ran.out) == (2, "")
    assert 'the saved report names a GPU that is neither bundled nor kept in it: "gpu.yaml"' in ran.err
    lent = ("--plan", str(tmp_path / "my plan.yaml"), "--gpu", str(tmp_path / "gpu.yaml"))
    assert run("diff", str(path), "k25", *lent).out == f"{path} → k25: nothing changed\n"


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("  k25: {plans: [k2-pretrian]}", 'books.yaml:3:17: error: no bundled plan is named "k2-pretrian"'),
        ("  x: {gpus: [h100, H200]}", 'books.yaml:3:20: error: no bundled GPU is named "H200"'),
        ("  x: {gpus: [nowhere/gpu.yaml]}", "there is no such file from"),
        ("  x: {gpu: [h100]}", "books.yaml:3:7: error: unknown key `gpu`"),
        ("  x: {plans: k2-pretrain}", "books.yaml:3:14: error: plans must be a list"),
        ("  x: {}\n  x: {}", "books.yaml:4:3: error: "),
        ("  x: [", "books.yaml:"),
    ],
)
def test_what_can_not_be_meant_in_the_file_exits_2_and_says_where(tmp_path: Path, entry: str, says: str) -> None:
    out = books(tmp_path / "out", entry)
    ran = report(out, "llama-3.1-70b")
    assert (ran.code, ran.out) == (2, "")
    assert says in ran.err
    assert files(out) == {"books.yaml"}
    if "no bundled" in says:
        assert "hint: did you mean" in ran.err


@pytest.mark.parametrize(
    "made", [lambda path: path.mkdir(), lambda path: os.mkfifo(path), lambda path: path.symlink_to("x")]
)
def test_what_is_no_file_is_not_taken_for_none(made: Callable[[Path], None], tmp_path: Path) -> None:
    made(tmp_path / "books.yaml")
    ran = report(tmp_path, "llama-3.1-70b")
    assert (ran.code, ran.out) == (2, "")
    assert "books.yaml: error: " in ran.err


def test_a_name_that_no_file_can_have_is_told_at_its_place(tmp_path: Path) -> None:
    ran = report(books(tmp_path / "out", f"  x: {{gpus: [{'x' * 500}]}}"), "llama-3.1-70b")
    assert ran.code == 2
    assert "books.yaml:3:14: error: no bundled GPU is named" in ran.err


def test_a_report_that_an_earlier_version_saved_loses_nothing_that_it_was_not_asked_about(
    k25: Path, tmp_path: Path
) -> None:
    """It named no plans among its inputs, and had the numbers of one; a change of the spec is still seen."""
    document = json.loads((k25 / "k25.json").read_text())
    document["inputs"] = {"spec": "k25"}
    for row in document["rows"]:
        row.pop("template", None)
    old = tmp_path / "old.json"
    old.write_text(json.dumps(document))
    assert "train.peak_bytes" in document["quantities"]
    ran = run("diff", str(old), "k25", "--exit-code")
    assert (ran.code, "nothing changed" in ran.out) == (0, True)
    document["quantities"]["params.total"] += 1
    old.write_text(json.dumps(document))
    ran = run("diff", str(old), "k25")
    assert "params.total" in ran.out
    assert "train.peak_bytes" not in ran.out
    assert "what only one side says is not compared" in ran.out + ran.err


def test_a_file_of_another_kind_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "books.yaml").write_text(text("k25"))
    ran = report(tmp_path, "k25")
    assert ran.code == 2
    assert "this file is of kind spec; one of kind books is wanted here" in ran.err


def test_a_plan_that_does_not_fit_names_the_spec(tmp_path: Path) -> None:
    ran = report(tmp_path / "out", "llama-3.1-70b", "--plan", "k2-pretrain")
    assert (ran.code, ran.out) == (2, "")
    assert "llama-3.1-70b: error: k2-pretrain: ep needs routed experts" in ran.err
    assert "hint: leave k2-pretrain out of this report" in ran.err
    ran = report(tmp_path / "out", "k25", "--plan", "k3")
    assert 'no file and no bundled plan is named "k3"' in ran.err
    assert "cross-check" not in ran.err  # told before anything slow


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    mine = tmp_path / "h200.yaml"
    mine.write_text((ROOT / "specs" / "hardware" / "h200.yaml").read_text())
    ran = report(tmp_path / "out", "llama-3.1-70b", "--gpu", "h200", "--gpu", str(mine))
    assert (ran.code, ran.out) == (2, "")
    assert f"h200 and {mine} are named alike" in ran.err


# ------------------------------------------------------------------------------------------------------ what is stale


def test_a_missing_report_is_stale(tmp_path: Path) -> None:
    ran = report(tmp_path / "none", "llama-3.1-70b", "--check")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.splitlines()[:5] == [
        "error: 4 stale report files",
        f"  {tmp_path}/none/llama-3.1-70b.md: missing",
        f"  {tmp_path}/none/llama-3.1-70b.json: missing",
        f"  {tmp_path}/none/llama-3.1-70b-flops.svg: missing",
        f"  {tmp_path}/none/llama-3.1-70b-kv.svg: missing",
    ]
    assert f"archcalc report llama-3.1-70b --dir {tmp_path}/none" in ran.err
    assert not (tmp_path / "none").exists()


def test_a_changed_spec_makes_its_report_stale(tmp_path: Path) -> None:
    path = written(tmp_path, text("llama-3.1-70b"))
    assert report(tmp_path, path).code == 0
    assert report(tmp_path, path, "--check").code == 0
    written(tmp_path, text("llama-3.1-70b").replace("intermediate_size: 28672", "intermediate_size: 28673"))
    ran = report(tmp_path, path, "--check")
    assert ran.code == 1
    assert "llama-3.1-70b.md: differs from line 5 on" in ran.err  # the first number
    assert "llama-3.1-70b.json: differs" in ran.err


@pytest.mark.parametrize("name", ["llama-3.1-70b.md", "llama-3.1-70b.json"])
def test_a_byte_changed_by_hand_is_found(tmp_path: Path, name: str) -> None:
    report(tmp_path, "llama-3.1-70b")
    path = tmp_path / name
    path.write_bytes(path.read_bytes() + b"\n")
    ran = report(tmp_path, "llama-3.1-70b", "--check")
    assert ran.code == 1
    assert ran.err.splitlines()[0] == "error: 1 stale report file"
    assert name in ran.err


def test_line_ends_of_windows_do_not_count(tmp_path: Path) -> None:
    report(tmp_path, "llama-3.1-70b")
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert report(tmp_path, "llama-3.1-70b", "--check").code == 0


@pytest.fixture
def copied(k25: Path, tmp_path: Path) -> Path:
    """A folder of its own with the report of K2.5."""
    for path in k25.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def stale(folder: Path, *arguments: str) -> list[str]:
    """What a check says of each file, by its name."""
    ran = report(folder, *(arguments or ("k25", *WITH)), "--check")
    lines = [line.strip().removeprefix(f"{folder}/") for line in ran.err.splitlines() if line.startswith("  ")]
    assert ran.code == bool(lines), ran.err
    return lines


def every_file(folder: Path) -> list[str]:
    return sorted(files(folder))


def test_a_check_finds_each_file_of_a_report_that_is_gone(copied: Path) -> None:
    assert stale(copied) == []
    names = every_file(copied)
    assert len(names) == 7
    record = copied / "k25.crosscheck.json"  # alone: it is missed where the page says that there was one
    whole = record.read_bytes()
    record.unlink()
    assert f"{record.name}: missing" in stale(copied)
    record.write_bytes(whole)
    others = [name for name in names if name != record.name]
    for name in others:
        (copied / name).unlink()
    assert sorted(stale(copied)) == [f"{name}: missing" for name in sorted(others)]


def test_a_check_finds_each_file_of_a_report_that_was_altered(copied: Path) -> None:
    record = "k25.crosscheck.json"  # alone: what it says stands in the others too
    whole = {name: (copied / name).read_bytes() for name in every_file(copied)}
    for names in ([record], [name for name in whole if name != record]):
        for last in (False, True):  # a letter inside, or the last line's end
            for name in names:
                place = len(whole[name]) - 1 if last else len(whole[name]) // 2
                (copied / name).write_bytes(whole[name][:place] + b"x" + whole[name][place + 1 :])
            assert set(names) <= {line.partition(": ")[0] for line in stale(copied)}
        for name in names:
            (copied / name).write_bytes(whole[name])
    assert stale(copied) == []


def test_a_picture_of_other_numbers_is_stale_though_nobody_altered_it(copied: Path) -> None:
    assert run("plot", "kv", "kimi-k2", "--context", "4096..262144", "-o", str(copied / "k25-kv.svg")).code == 0
    assert stale(copied) == ["k25-kv.svg: was drawn from other numbers"]
    (copied / "k25-kv.svg").write_text("<svg/>\n")
    assert stale(copied) == ["k25-kv.svg: does not say what it was drawn from"]
    picture = copied / "k25-flops.svg"
    picture.write_text(picture.read_text().replace("#", "# ", 1))
    assert "k25-flops.svg: was altered after it was drawn" in stale(copied)


def test_a_picture_that_is_no_longer_part_of_a_report_is_stale_and_goes_with_the_next_writing(copied: Path) -> None:
    other = copied / "k25-train-other.svg"
    other.write_bytes((copied / "k25-kv.svg").read_bytes())
    mine = copied / "k25-memory-mine.svg"
    mine.write_text("<svg/>")  # not ours: never deleted
    kept = [
        copied / name for name in ("k25-drawing.svg", "k25-memory-tuned-kv.svg", "k25-memory-tuned.md", "k2-kv.svg")
    ]
    for path in kept:
        path.write_text("<svg/>")
    lines = [f"{path.name}: no part of this report; delete it" for path in (mine, other)]
    assert stale(copied) == lines
    ran = report(copied, "k25", *WITH)
    assert ran.code == 0
    assert f"removed {other}, which is no part of the report any more" in ran.err
    assert f"{mine}: no part of the report, and not as archcalc drew it: it is left there" in ran.err
    assert not other.exists()
    assert mine.exists()
    assert all(path.exists() for path in kept)
    assert stale(copied) == lines[:1]


def test_a_report_that_is_about_fewer_plans_loses_their_pictures(copied: Path) -> None:
    assert report(copied, "k25", "--gpu", "h200").code == 0
    assert "k25-train-k2-pretrain.svg" not in files(copied)
    assert stale(copied, "k25", "--gpu", "h200") == []


@pytest.mark.parametrize(
    ("name", "target", "says"),
    [
        ("k25.md", ".", "a folder stands where"),
        ("k25-kv.svg", "/dev/zero", "the file is larger than"),
        ("k25.crosscheck.json", "/dev/zero", "the file is larger than"),
    ],
)
def test_a_link_to_something_endless_in_the_place_of_a_report_exits_2(
    copied: Path, name: str, target: str, says: str
) -> None:
    (copied / name).unlink()
    (copied / name).symlink_to(target)
    ran = run("report", "k25", "--dir", str(copied), "--check")
    assert ran.code == 2
    assert f"{copied / name}: error: {says}" in ran.err


def test_a_record_that_is_none_is_stale(copied: Path) -> None:
    (copied / "k25.crosscheck.json").write_text("{}")
    assert "k25.crosscheck.json: no record of a cross-check" in stale(copied)


# -------------------------------------------------------------------------------------------- what a report opens with


def glance(folder: Path, name: str) -> dict[str, dict[str, Any]]:
    """The headline table, by what each row is about."""
    document = json.loads((folder / f"{name}.json").read_text())
    return {row["path"]: row for row in document["tables"]["headline"]}


def test_the_headline_says_on_which_gpus_it_fits_and_what_training_peaks_at(k25: Path) -> None:
    rows = glance(k25, "k25")
    served = answered("serve", "k25", "--gpu", "h200")["quantities"]
    assert rows["serve-h200"]["value"] == f"{served['serve.gpus']} x h200"
    assert rows["serve-h200"]["margin_bytes"] == served["serve.margin_bytes"]
    assert rows["serve-h200"]["fits"] is served["serve.fits"] is True
    everywhere = answered("serve", "k25", "--gpu", "all")
    first = next(row for row in everywhere["rows"] if row["verdict"] == "fits")
    assert f"fits on {first['gpus']} x {first['title']}" in everywhere["title"]
    assert f"fits on {first['gpus']} x {first['title']}" in answered("card", "k25")["title"]
    assert rows["serve"]["value"] == f"{first['gpus']} x {first['path']}"
    assert rows["serve"]["margin_bytes"] == first["margin_bytes"]
    trained = answered("train", "k25", "--plan", "k2-pretrain")["quantities"]
    assert rows["train-k2-pretrain"]["value"] == trained["train.peak_bytes"]
    # what a program sees of an H800: 81,090 MiB, as its hardware file says
    assert rows["train-k2-pretrain"]["margin_bytes"] == 81_090 * 2**20 - trained["train.peak_bytes"]
    page = (k25 / "k25.md").read_text()
    top = page[: page.index("## Parameters")]
    for words in ("parameters that a token uses", "KV cache of one token more", "released weights"):
        assert words in top
    assert "| the same on h200 | 8 x h200 | fits, " in top
    assert re.search(r"\| peak of training under k2-pretrain \| [0-9.]+ GiB \| fits, [0-9.]+ GiB left on each", top)


def test_what_does_not_fit_says_so_in_the_headline(tmp_path: Path) -> None:
    assert report(tmp_path, "k25", "--gpu", "l4", "--gpus", "8").code == 0
    row = glance(tmp_path, "k25")["serve-l4"]
    assert (row["fits"], row["more"].startswith("does not fit, ")) == (False, True)
    assert "missing on each" in row["more"]


def test_a_report_about_no_plan_says_which_command_adds_one(tmp_path: Path) -> None:
    path = written(tmp_path, tiny())
    told = "This report is about no training plan and no GPU: archcalc report s.yaml --plan PLAN --gpu NAME adds them."
    ran = report(tmp_path / "out", path)
    assert f"s.yaml: {told}" in ran.err.splitlines()
    page = (tmp_path / "out" / "tiny.md").read_text()
    assert told in page.replace("\\", "")
    assert json.loads((tmp_path / "out" / "tiny.json").read_text())["notes"] == [told]
    assert report(tmp_path / "out", path, "--gpu", "h200").code == 0
    page = (tmp_path / "out" / "tiny.md").read_text().replace("\\", "")
    assert "about no training plan: archcalc report s.yaml --gpu h200 --plan PLAN adds it." in page


def test_a_spec_of_ones_own_gets_a_training_section(k25: Path, tmp_path: Path) -> None:
    mine = tmp_path / "my.yaml"
    mine.write_text(text("k25").replace("name: k25", "name: mine"))
    assert report(tmp_path / "out", str(mine), *WITH).code == 0
    found = sections(tmp_path / "out", "mine")
    theirs = sections(k25, "k25")["train-k2-pretrain"]["asked"][0]["report"]
    assert found["train-k2-pretrain"]["asked"][0]["report"]["quantities"] == theirs["quantities"]
    assert "about no training plan" not in (tmp_path / "out" / "mine.md").read_text()
    assert "mine-train-k2-pretrain.svg" in files(tmp_path / "out")
    assert report(tmp_path / "out", str(mine), *WITH, "--check").code == 0


SIZES = ("--gpus", "16", "--seq", "8k", "--image", "448x448", "--image", "1024x768", "--context", "128k")


@pytest.fixture(scope="module")
def sized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a report about sizes that were asked for."""
    folder = tmp_path_factory.mktemp("sized")
    (folder / "k25.crosscheck.json").write_text(to_json(agreeing(spec_of(data("k25"))), "k25"))
    assert report(folder, "k25", "--gpu", "h200", *SIZES).code == 0
    return folder


def test_a_report_is_about_the_sizes_that_were_asked_for(sized: Path) -> None:
    found = sections(sized, "k25")
    commands = {section: [each["command"] for each in what["asked"]] for section, what in found.items()}
    assert commands["flops"][0] == "archcalc flops k25 --seq 8192"
    assert commands["flops"][-1] == "archcalc flops k25 --seq 1 --image 448x448 --image 1024x768"
    assert commands["kv"][0] == "archcalc kv k25 --context 131072"
    assert commands["serve-h200"] == ["archcalc serve k25 --gpu h200 --gpus 16 --context 131072"]
    assert found["serve-h200"]["pictures"][0]["command"].endswith("--gpu h200 --gpus 16")
    document = json.loads((sized / "k25.json").read_text())
    inputs = {"gpus": 16, "seq": 8192, "context": 131072, "image": [[448, 448], [1024, 768]]}
    assert document["inputs"] == {"spec": "k25", "plan": [], "gpu": ["h200"], **inputs}
    words = "--gpu h200 --gpus 16 --seq 8192 --image 448x448 --image 1024x768 --context 131072"
    assert f"archcalc report k25 {words}\n" in (sized / "k25.md").read_text()
    for each in [each for section, what in found.items() if section != "crosscheck" for each in what["asked"]]:
        answer = answered(*shlex.split(each["command"])[1:])
        assert answer["quantities"] == each["report"]["quantities"], each["command"]
    for picture in (picture for what in found.values() for picture in what["pictures"]):
        assert run(*shlex.split(picture["command"])[1:], "-o", str(sized / "again.svg")).code == 0
        assert (sized / "again.svg").read_bytes() == (sized / picture["file"]).read_bytes()


def test_sizes_stand_in_the_file_beside_the_reports_too(sized: Path, tmp_path: Path) -> None:
    sizes = "gpu_count: 16, seq: 8k, image: [448x448, 1024x768], context: 128k"
    out = books(tmp_path / "out", f"  k25: {{gpus: [h200], {sizes}}}")
    (out / "k25.crosscheck.json").write_bytes((sized / "k25.crosscheck.json").read_bytes())
    assert report(out, "k25").code == 0
    assert files(out) - {"books.yaml"} <= files(sized)
    assert (out / "k25.json").read_bytes() == (sized / "k25.json").read_bytes()
    assert stale(sized, "k25", "--gpu", "h200", *SIZES) == []
    assert stale(sized, "k25", "--gpu", "h200") != []
    ran = report(sized, "k25", "--gpu", "h200", *SIZES, "--gpu", "b200", "--check")
    assert ran.err.rstrip().endswith("--gpus=16 --seq=8k --image=448x448 --image=1024x768 --context=128k")


def test_a_diff_asks_a_spec_for_the_same_sizes(sized: Path) -> None:
    ran = run("diff", str(sized / "k25.json"), "k25", "--exit-code")
    assert (ran.code, "nothing changed" in ran.out) == (0, True), ran.err


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--seq", "0"), "seq"),
        (("--image", "12"), '"12" is no size'),
        (("--image", "448x448"), "llama-3.1-70b: error: Llama 3.1 70B has no vision tower"),
        (("--gpus", "x"), '--gpus "x" is neither a whole number nor auto'),
        (("--context", "0"), "--context must be at least 1, not 0"),
    ],
)
def test_a_size_that_can_not_be_meant_exits_2(tmp_path: Path, flags: tuple[str, ...], says: str) -> None:
    ran = report(tmp_path / "out", "llama-3.1-70b", *flags)
    assert (ran.code, ran.out) == (2, "")
    assert says in ran.err
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------------------------------------- the cross-check


def crosschecked(folder: Path, name: str = "tiny") -> dict[str, Any]:
    found: dict[str, Any] = sections(folder, name)["crosscheck"]["asked"][0]["report"]
    return found


def test_without_torch_a_report_says_that_nothing_is_saved(tmp_path: Path) -> None:
    path = written(tmp_path, tiny())
    ran = report(tmp_path, path)
    assert ran.code == 0
    assert "s.yaml: not cross-checked: the cross-check needs torch" in ran.err
    assert crosschecked(tmp_path)["rows"] == []
    assert "No cross-check of these sizes" in crosschecked(tmp_path)["notes"][0]


def test_a_saved_cross_check_is_used_while_the_sizes_are_the_same(tmp_path: Path) -> None:
    kept = agreeing(spec_of(tiny()))
    (tmp_path / "tiny.crosscheck.json").write_text(to_json(kept, "tiny"))
    report(tmp_path, written(tmp_path, {**tiny(), "title": "Another title"}))
    assert {row["result"] for row in crosschecked(tmp_path)["rows"]} == {"equal"}
    report(tmp_path, written(tmp_path, tiny(hidden_size=9)))
    assert crosschecked(tmp_path)["rows"] == []


def test_a_formula_that_went_wrong_since_differs_from_what_torch_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny.crosscheck.json").write_text(to_json(agreeing(spec_of(tiny())), "tiny"))
    path = written(tmp_path, tiny())
    assert report(tmp_path, path).code == 0
    record_op = Tape.record

    def halved(tape: Tape, op: Op) -> None:
        flops = tuple(Term(term.coefficient // 2, term.dims) for term in op.flops)
        record_op(tape, op._replace(flops=flops) if op.kind == "attention" else op)

    monkeypatch.setattr(Tape, "record", halved)
    assert report(tmp_path, path, "--check").code == 1
    assert report(tmp_path, path).code == 0
    results = {row["kind"]: row["result"] for row in crosschecked(tmp_path)["rows"]}
    assert results.pop("flops") == "differs"
    assert set(results.values()) == {"equal"}


def test_two_numbers_that_change_places_are_not_equal_though_their_sum_is() -> None:
    spec = spec_of(tiny())
    sides = our_sides(spec)
    keys = list(sides["params"])
    first, second = keys[0], next(k for k in keys if sides["params"][k] != sides["params"][keys[0]])
    other = {**sides["params"], first: sides["params"][second], second: sides["params"][first]}
    kept = record(spec, joined(sides, {**sides, "params": other}))
    rows = {row["kind"]: row for row in judged(spec, kept)}
    assert rows["params"]["result"] == "differs"
    assert rows["params"]["ours"] == rows["params"]["theirs"]


def test_the_key_follows_the_sizes_and_not_the_words() -> None:
    spec = spec_of(tiny())
    assert key_of(spec) == key_of(spec_of({**tiny(), "name": "x", "title": "y", "sources": {"backbone": "z"}}))
    assert key_of(spec) != key_of(spec_of(tiny(vocab_size=33)))


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"format_version": 1}', '{"format_version": "x"}'])
def test_a_record_that_is_none_counts_as_missing(content: str) -> None:
    assert from_json(content.encode(), "x.json") is None


def test_a_record_with_numbers_that_are_none_counts_as_missing() -> None:
    good = json.loads(to_json(agreeing(spec_of(tiny())), "tiny"))
    assert from_json(json.dumps(good).encode(), "x.json") is not None
    for bad in (-1, 1.5, True, "1", 1 << 256, None):
        good["totals"][0]["sum"] = bad
        assert from_json(json.dumps(good).encode(), "x.json") is None


def test_a_record_of_a_newer_version_exits_2(tmp_path: Path) -> None:
    (tmp_path / "k25.crosscheck.json").write_text(json.dumps({"format_version": FORMAT_VERSION + 1}))
    for more in ((), ("--check",)):
        ran = report(tmp_path, "k25", *more)
        assert (ran.code, ran.out) == (2, "")
        assert f"reads up to {FORMAT_VERSION}" in ran.err
    assert files(tmp_path) == {"k25.crosscheck.json"}
    with pytest.raises(InputError, match="k25"):
        from_json((tmp_path / "k25.crosscheck.json").read_bytes(), "k25")


# ----------------------------------------------------------------------------------------------- names and bad input


@pytest.mark.parametrize("name", [HOSTILE, "../x", "/etc/x", "..", ".", "a/b", "a\\b", "~", "-x", "a.crosscheck", "é"])
def test_a_name_never_leaves_the_folder(tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    assert report(out, written(tmp_path, {**tiny(), "name": name})).code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"out", "s.yaml"}
    assert len(files(out)) == 2
    for file in files(out):
        assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.(md|json)", file)
        assert not file.endswith(".crosscheck.json")
    assert report(out, str(tmp_path / "s.yaml"), "--check").code == 0


def test_hostile_words_are_shown_and_do_nothing(tmp_path: Path) -> None:
    content = {**tiny(), "name": HOSTILE, "title": HOSTILE}
    content["claims"] = [{"claim": HOSTILE, "quantity": "params.total", "value": None, "source": HOSTILE}]
    folder = tmp_path / "a`b'|c$(x)"
    folder.mkdir()
    out = tmp_path / "out"
    assert report(out, written(folder, content)).code == 0
    for path in out.iterdir():
        body = path.read_text()
        assert body.replace("\n", "").isprintable()
        if path.suffix == ".md":
            assert "<script>" not in body
            assert re.findall(r"^## b", body, re.MULTILINE) == []
            assert body.count("```") % 2 == 0
            tables = [line for line in body.splitlines() if line.startswith("| ") and "script" in line]
            assert tables
            assert {len(re.findall(r"(?<!\\)\|", line)) for line in tables} == {9}  # claims


def test_a_file_name_that_needs_quotes_is_quoted_in_commands(tmp_path: Path) -> None:
    path = tmp_path / "my $(spec)'s.yaml"
    path.write_text(Path(written(tmp_path, tiny())).read_text())
    assert report(tmp_path, str(path)).code == 0
    command = sections(tmp_path, "tiny")["params"]["asked"][0]["command"]
    assert shlex.split(command) == ["archcalc", "params", "my $(spec)'s.yaml"]


@pytest.mark.parametrize(("name", "stem"), [("k25", "k25"), ("llama-3.1-70b", "llama-3.1-70b"), ("A_b.c-9", "A_b.c-9")])
def test_plain_names_are_file_names(name: str, stem: str) -> None:
    assert file_stem(name) == stem


def test_different_names_are_different_files() -> None:
    names = ["a b", "a-b", "a/b", "a  b", "a.", "a", "x" * 101, "x" * 102, "../a", "\ud800", ""]
    assert len({file_stem(name) for name in names}) == len(names)


def test_two_specs_of_one_name_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    path = written(tmp_path, {**tiny(), "name": "K25"})
    ran = report(tmp_path / "out", "k25", path)
    assert (ran.code, ran.out) == (2, "")
    assert "the reports of k25 and s.yaml would be the same file" in ran.err
    assert not (tmp_path / "out").exists()


def test_one_bad_spec_keeps_the_good_ones_from_being_written(tmp_path: Path) -> None:
    ran = report(tmp_path / "out", "k25", "k52")
    assert (ran.code, ran.out) == (2, "")
    assert "did you mean k25?" in ran.err
    assert not (tmp_path / "out").exists()


def test_a_file_in_the_place_of_the_folder_exits_2(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "inside"):
        ran = report(folder, "llama-3.1-70b")
        assert (ran.code, ran.out) == (2, "")
        assert "can't" in ran.err


def test_a_release_that_can_not_be_stored_as_it_says_exits_2_and_writes_nothing(tmp_path: Path) -> None:
    packed = {"scheme": "pack-quantized", "num_bits": 4, "group_size": 3, "scale_dtype": "bfloat16"}
    content = {**tiny(), "storage": {**tiny()["storage"], "routed_expert": packed}}  # 8 inputs in groups of 3
    ran = report(tmp_path / "out", written(tmp_path, content))
    assert (ran.code, ran.out) == (2, "")
    assert "don't divide into groups of 3" in ran.err
    assert not (tmp_path / "out").exists()
