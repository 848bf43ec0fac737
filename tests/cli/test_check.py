"""`archcalc check`: budgets that are kept and exceeded, growth since a revision, and what a file can't say."""

from __future__ import annotations

import csv
import io
import json
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from archcalc.documents.budgets import check
from archcalc.errors import InputError
from archcalc.files.loader import bundled_dir
from tests.support import ROOT, Ran, dumped, quantities, run, text, tiny, written

TOTAL = 3688  # of the tiny model, as tests/documents/test_claims.py derives it
CACHE = 72  # bytes a token: 3 layers x keys and values of 2 heads x 3 features x 2 B


def budgets(folder: Path, *entries: dict[str, Any], **top: Any) -> str:
    """A file of budgets, each entry on a line of its own from the second on; `s.yaml` is the tiny spec beside it."""
    if not (folder / "s.yaml").exists():
        written(folder, tiny())
    path = folder / "budgets.yaml"
    lines = [f"  - {json.dumps({'spec': 's.yaml', **entry}, ensure_ascii=False)}" for entry in entries]
    path.write_text("\n".join(["budgets:", *lines, *(f"{key}: {value}" for key, value in top.items())]) + "\n")
    return str(path)


def found(ran: Ran) -> list[dict[str, Any]]:
    """The findings of a JSON answer."""
    findings: list[dict[str, Any]] = json.loads(ran.out)["findings"]
    return findings


# ------------------------------------------------------------------------------------------------------- kept, exceeded


@pytest.mark.parametrize(
    ("quantity", "most", "code"),
    [
        ("params.total", TOTAL, 0),
        ("params.total", TOTAL - 1, 1),
        ("params.total", "3.688K", 0),
        ("params.total", "3.6K", 1),
        ("params.total", 1e9, 0),
        ("params[model.norm]", 8, 0),
        ("params[model.norm]", 7, 1),
        ("kv.sequence_bytes_8k", "576KiB", 0),  # 8,192 x 72 B
        ("kv.sequence_bytes_8k", "576kB", 1),
        ("moe.activation_ratio", 0.34, 0),  # 2 of 6
        ("moe.activation_ratio", "0.33", 1),
        ("weights.bytes", "7.4kB", 0),  # 2 B x (3,688 + 12 of router bias)
        ("weights.bytes", 0, 1),
    ],
)
def test_a_budget_is_kept_up_to_its_maximum(tmp_path: Path, quantity: str, most: Any, code: int) -> None:
    path = budgets(tmp_path, {"quantity": quantity, "max": most})
    ran = run("check", path)
    assert ran.code == code, ran.err
    assert ran.out.splitlines()[0] == f"1 {'of 1 budget exceeded' if code else 'budget kept'}: {path}"


def test_the_verdict_is_the_first_line_and_a_failed_budget_has_its_place(tmp_path: Path) -> None:
    path = budgets(
        tmp_path,
        {"quantity": "params.total", "max": "3K", "message": "ask the\nteam\u202e"},
        {"quantity": "kv.bytes_per_token", "max": CACHE},
        {"quantity": "params.active", "max": 100},
    )
    ran = run("check", path)
    assert ran.code == 1
    assert ran.out.splitlines()[0] == f"2 of 3 budgets exceeded: {path}"
    lines = ran.err.splitlines()
    assert lines[0] == f"error: 2 of 3 budgets exceeded: {path}"
    assert lines[1] == f"  {path}:2: params.total of s.yaml is 3,688, more than 3K (3,000): ask the\\nteam\\u202e"
    assert lines[2].startswith(f"  {path}:4: params.active of s.yaml is 2,728, more than 100")  # 3688 - 2 x 4 x 120
    assert len(lines) == 3
    kept = budgets(tmp_path, {"quantity": "params.total", "max": "4K"}, {"quantity": "params.mtp", "max": 0})
    ran = run("check", kept)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines()[0] == f"2 budgets kept: {kept}"


def test_a_budget_stands_under_a_plan_a_gpu_and_sizes(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(text("k25"))
    (tmp_path / "p.yaml").write_text((bundled_dir() / "plans" / "k2-pretrain.yaml").read_text())
    peak = quantities("train", "k25", "--plan", "k2-pretrain")["train.peak_bytes"]
    weights = quantities("serve", "k25", "--gpu", "h200", "--gpus", "16", "--context", "64k")["serve.weights_bytes"]
    seen = quantities("flops", "k25", "--seq", "8192", "--image", "448x448")["flops.forward"]
    served = {"quantity": "serve.weights_bytes", "gpu": "h200", "gpus": 16, "context": "64k"}
    shown = {"quantity": "flops.forward", "seq": "8k", "image": ["448x448"]}
    entries = [
        {"quantity": "train.peak_bytes", "plan": "k2-pretrain", "max": peak},
        {"spec": "k25", "quantity": "train.peak_bytes", "plan": "p.yaml", "max": peak - 1},
        {**served, "max": weights},
        {**served, "max": weights - 1},
        {**shown, "max": seen},
        {**shown, "max": seen - 1},
    ]
    ran = run("check", budgets(tmp_path, *entries), "--format", "json")
    assert ran.code == 1
    assert [row["verdict"] for row in found(ran)] == ["kept", "exceeded"] * 3
    assert [row["value"] for row in found(ran)] == [peak, peak, weights, weights, seen, seen]
    assert found(ran)[4]["under"] == {"seq": 8192, "image": [[448, 448]]}


def test_every_format_has_the_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = {"quantity": "params.total", "max": "3K", "message": "too | big"}
    path = budgets(tmp_path, entry, {"quantity": "params.total", "max": "4K"})
    row = found(run("check", path, "--format", "json"))[0]
    assert (row["verdict"], row["value"], row["max"], row["line"]) == ("exceeded", TOTAL, 3000, 2)
    rows = list(csv.DictReader(io.StringIO(run("check", path, "--format", "csv").out)))
    assert [(r["verdict"], r["value"], r["max"]) for r in rows] == [
        ("exceeded", "3688", "3000"),
        ("kept", "3688", "4000"),
    ]
    page = run("check", path, "--format", "markdown").out
    assert page.startswith("## 1 of 2 budgets exceeded")
    assert "too \\| big" in page
    monkeypatch.chdir(tmp_path)
    noted = run("check", "budgets.yaml", "--format", "github").out.splitlines()
    said = "params.total of s.yaml is 3,688, more than 3K (3,000): too | big"
    assert noted[-1] == f"::error file=budgets.yaml,line=2,title=params.total::{said}"
    ran = run("check", path, "-o", str(tmp_path / "out.md"), "-o", str(tmp_path / "out.json"))
    assert (ran.code, ran.out) == (1, "")
    assert (tmp_path / "out.md").read_text() == page


def test_the_kind_may_be_said_and_the_function_answers_the_same(tmp_path: Path) -> None:
    path = budgets(tmp_path, {"quantity": "params.total", "max": "3K"}, kind="budgets")
    report = check(path)
    assert (report.title, report.extra["passed"]) == (f"1 of 1 budget exceeded: {path}", False)
    assert [dict(row) for row in report.findings] == found(run("check", path, "--format", "json"))
    with pytest.raises(InputError):
        check(str(tmp_path / "none.yaml"), base="HEAD")


# ----------------------------------------------------------------------------------------------------------- the growth


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@example.invalid", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder `sub` with the tiny spec, committed and tagged `then`; the spec has a larger vocabulary since."""
    folder = tmp_path / "sub"
    folder.mkdir()
    written(folder, tiny())
    git(tmp_path, "init", "--quiet", "--initial-branch=main")
    git(tmp_path, "add", "--all")
    git(tmp_path, "commit", "--quiet", "-m", "then")
    git(tmp_path, "tag", "then")
    written(folder, tiny(vocab_size=42))  # embedding and head: 2 x 10 x 8 = 160 more of 3,688
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.mark.parametrize(
    ("limit", "verdict"),
    [
        ("4.34%", "kept"),  # 160 / 3,688 is 4.338 %
        ("+4.34 %", "kept"),
        ("4.33%", "exceeded"),
        (160, "kept"),
        ("+160", "kept"),
        (159, "exceeded"),
        ("0.1K", "exceeded"),
        (0, "exceeded"),
    ],
)
def test_growth_is_measured_from_a_revision(repository: Path, limit: Any, verdict: str) -> None:
    budgets(repository, {"quantity": "params.total", "max_increase": limit})
    ran = run("check", "sub/budgets.yaml", "--base", "then", "--format", "json")
    (row,) = found(ran)
    assert (row["verdict"], ran.code) == (verdict, int(verdict == "exceeded"))
    assert (row["base"], row["value"], row["increase"]) == (TOTAL, TOTAL + 160, 160)
    if verdict == "exceeded":
        said = "sub/budgets.yaml:2: params.total of s.yaml went from 3,688 at then to 3,848 (160, +4.338 %), more than"
        assert said in ran.err


def test_growth_is_seen_from_every_folder(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = budgets(repository, {"quantity": "params.total", "max_increase": "1%"})
    (repository / "deep").mkdir()
    for folder, argument in ((repository, "budgets.yaml"), (repository / "deep", "../budgets.yaml"), (ROOT, path)):
        monkeypatch.chdir(folder)
        ran = run("check", argument, "--base", "then")
        assert ran.code == (2 if folder == ROOT else 1), ran.err  # another repository has no such revision


def test_growth_of_a_spec_behind_a_linked_folder_is_seen(repository: Path) -> None:
    (repository.parent / "link").symlink_to(repository, target_is_directory=True)
    path = budgets(repository, {"spec": "../link/s.yaml", "quantity": "params.total", "max_increase": "1%"})
    assert run("check", path, "--base", "then").code == 1


def test_a_spec_outside_the_repository_is_not_taken_for_a_new_one(
    repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = written(tmp_path_factory.mktemp("outside"), tiny())
    path = budgets(repository, {"spec": str(outside), "quantity": "params.total", "max_increase": "1%"})
    ran = run("check", path, "--base", "then")
    assert (ran.code, ran.out) == (2, "")
    assert "is no file of this repository: it has no earlier revision" in ran.err


def test_a_file_of_a_revision_may_be_named_from_here(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (repository.parent / "s.yaml").write_text(dumped(tiny(vocab_size=52)))  # of the same name, at the top
    budgets(repository, {"quantity": "params.total", "max": "1T", "max_increase": "1%"})
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "-m", "now")
    (repository / "deep").mkdir()
    for folder, argument in (
        (repository, "git:HEAD:./budgets.yaml"),
        (repository / "deep", "git:HEAD:../budgets.yaml"),
    ):
        monkeypatch.chdir(folder)
        ran = run("check", argument, "--base", "then", "--format", "json")
        (row,) = found(ran)
        assert (ran.code, row["file"], row["value"], row["base"]) == (1, "sub/budgets.yaml", TOTAL + 160, TOTAL)


def test_growth_without_a_revision_is_refused_so_that_nothing_passes_unchecked(repository: Path) -> None:
    entry = {"quantity": "params.total", "max_increase": "99%", "max": "1T"}
    budgets(repository, {"quantity": "params.total", "max": "1T"}, entry)
    ran = run("check", "sub/budgets.yaml")
    assert (ran.code, ran.out) == (2, "")
    assert "sub/budgets.yaml:3:" in ran.err
    assert "max_increase needs a revision to measure growth from" in ran.err
    assert "hint: add --base REV" in ran.err


def test_a_new_spec_has_no_growth_that_a_budget_could_hold_and_fails_unless_that_is_allowed(repository: Path) -> None:
    written_here = repository / "new.yaml"
    written_here.write_text(dumped(tiny()))
    entry = {"spec": "new.yaml", "quantity": "params.total", "max_increase": "1%"}
    path = budgets(repository, entry, {**entry, "max": 10})
    ran = run("check", path, "--base", "then", "--format", "json")
    assert [row["verdict"] for row in found(ran)] == ["not held", "exceeded"]
    budgets(repository, entry)
    ran = run("check", "sub/budgets.yaml", "--base", "then", "--format", "github")
    assert ran.code == 1
    assert "1 of 1 budget not held, 1 of them of a spec that is new since then: sub/budgets.yaml" in ran.err
    assert "::error file=sub/budgets.yaml,line=2,title=params.total::" in ran.out
    ran = run("check", "sub/budgets.yaml", "--base", "then", "--allow-new")
    assert ran.code == 0
    assert ran.out.splitlines()[0] == "1 budget kept, 1 of them of a spec that is new since then: sub/budgets.yaml"


def test_a_revision_is_read_instead_of_the_working_tree(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    budgets(repository, {"quantity": "params.total", "max": TOTAL, "max_increase": "1%"})
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "-m", "now")
    written(repository, tiny())  # not committed: not seen
    budgets(repository, {"quantity": "params.total", "max": "1T"})
    assert run("check", "sub/budgets.yaml").code == 0
    ran = run("check", "git:HEAD:sub/budgets.yaml", "--base", "then", "--format", "json")
    (row,) = found(ran)
    assert (ran.code, row["verdict"], row["value"], row["base"]) == (1, "exceeded", TOTAL + 160, TOTAL)
    assert (row["file"], row["line"]) == ("sub/budgets.yaml", 2)
    monkeypatch.chdir(repository)
    assert run("check", "git:HEAD:sub/budgets.yaml", "--base", "then").code == 1


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"spec": "../../x.yaml"}, "../../x.yaml is no file of this repository"),
        ({"spec": "/etc/passwd"}, "/etc/passwd is no file of this repository"),
        ({"spec": "hf:o/m"}, "hf:o/m is no file of this repository"),
        ({"spec": "none.yaml"}, "revision HEAD has no file sub/none.yaml"),
        ({"quantity": "train.peak_bytes", "plan": "p.yaml"}, "files of a revision are read for specs alone"),
        ({"quantity": "serve.weights_bytes", "gpu": "/etc/passwd"}, "files of a revision are read for specs alone"),
    ],
)
def test_a_file_of_a_revision_reads_nothing_beside_it(repository: Path, entry: dict[str, Any], says: str) -> None:
    (repository / "p.yaml").write_text((bundled_dir() / "plans" / "k2-pretrain.yaml").read_text())
    budgets(repository, {"quantity": "params.total", "max": 1, **entry})
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "-m", "now")
    ran = run("check", "git:HEAD:sub/budgets.yaml")
    assert (ran.code, ran.out) == (2, "")
    assert says in ran.err


def test_no_file_of_the_working_directory_hides_a_bundled_one(repository: Path, tmp_path: Path) -> None:
    for name in ("k25", "h200", "k2-pretrain"):
        (tmp_path / name).write_text("not: yaml: of ours")
    most = {"spec": "k25", "max": "1PiB"}
    budgets(
        repository,
        {**most, "quantity": "weights.bytes"},
        {**most, "quantity": "serve.weights_bytes", "gpu": "h200"},
        {**most, "quantity": "train.peak_bytes", "plan": "k2-pretrain"},
    )
    assert run("check", "sub/budgets.yaml").code == 0


# ---------------------------------------------------------------------------------------------- what can't be answered


@pytest.mark.parametrize(
    ("entry", "says", "hint"),
    [
        (
            {"quantity": "params.totl", "max": 1},
            "params.totl is no quantity of this spec",
            "did you mean params.total?",
        ),
        ({"quantity": "params[model.nrom]", "max": 1}, "no part is at model.nrom", "did you mean model.norm?"),
        ({"quantity": "params.total", "max": "80GiB"}, "is not a count", "15.5T"),
        ({"quantity": "weights.bytes", "max": "80G"}, "is not a memory size", "say which unit: GiB"),
        ({"quantity": "params.total", "max": -1}, "a budget can't be negative", ""),
        ({"quantity": "params.total", "max": True}, "max must be", ""),
        ({"quantity": "params.total", "max": "1%"}, "is not a count", ""),
        ({"quantity": "params.total"}, "neither max nor max_increase: this budget limits nothing", ""),
        ({"quantity": "serve.fits", "gpu": "h200", "max": 1}, "serve.fits is yes or no", "train.peak_bytes"),
        ({"quantity": "train.peak_bytes", "max": 1}, "train.peak_bytes needs a plan", "add plan: k2-pretrain"),
        ({"quantity": "train.peak_bytes", "plan": "k3", "max": 1}, 'no bundled plan is named "k3"', "k2-pretrain"),
        ({"quantity": "serve.gpus", "gpu": "h2OO", "max": 1}, 'no bundled GPU is named "h2OO"', "h200"),
        ({"quantity": "params.total", "gpu": "h200", "max": 1}, "gpu says nothing about params.total", ""),
        ({"quantity": "vision.tokens", "image": ["8x8"], "max": 1}, "Tiny has no vision tower", ""),
        ({"quantity": "params.total", "max": 1, "massage": "x"}, "unknown key `massage`", "did you mean message?"),
        ({"spec": "none.yaml", "quantity": "params.total", "max": 1}, "there is no such file from here", ""),
        ({"spec": "k-25", "quantity": "params.total", "max": 1}, 'bundled spec is named "k-25"', "did you mean k25?"),
        ({"spec": "", "quantity": "params.total", "max": 1}, "spec", ""),
    ],
)
def test_what_a_budget_can_not_say_exits_2_at_its_line(
    tmp_path: Path, entry: dict[str, Any], says: str, hint: str
) -> None:
    path = budgets(tmp_path, {"quantity": "params.total", "max": "1T"}, entry)
    ran = run("check", path)
    assert (ran.code, ran.out) == (2, "")
    assert f"{path}:3:" in ran.err
    assert says in ran.err
    assert hint in ran.err


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    path = budgets(tmp_path, *({"quantity": f"params.totl{n}", "max": 1} for n in range(3)))
    assert [f"{path}:{n}:" in run("check", path).err for n in (2, 3, 4)] == [True] * 3


def test_an_invalid_spec_is_told_at_its_own_line(tmp_path: Path) -> None:
    written(tmp_path, tiny(hidden_size=0))
    ran = run("check", budgets(tmp_path, {"quantity": "params.total", "max": 1}))
    assert (ran.code, ran.out) == (2, "")
    assert "s.yaml:" in ran.err
    assert "hidden_size must be greater than 0" in ran.err


def test_an_invalid_spec_of_two_budgets_is_told_once_whatever_stands_in_it(tmp_path: Path) -> None:
    written(tmp_path, tiny(hidden_size=[8]))
    ran = run("check", budgets(tmp_path, *({"quantity": "params.total", "max": n} for n in (1, 2))))
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.count("hidden_size must be an integer, not a list") == 1


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("budgets: []\n", "budgets"),
        ("{}\n", "missing key `budgets`"),
        ("kind: spec\nbudgets: []\n", "this file is of kind spec; one of kind budgets is wanted here"),
        ("budgets: [\n", "budgets.yaml:"),
        ("budgets:\n  - {spec: s.yaml}\n", "missing key `quantity`"),
    ],
)
def test_a_file_that_is_none_of_budgets_exits_2(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "budgets.yaml").write_text(content)
    ran = run("check", str(tmp_path / "budgets.yaml"))
    assert (ran.code, ran.out) == (2, "")
    assert says in ran.err


def test_a_revision_that_is_not_there_exits_2(repository: Path) -> None:
    budgets(repository, {"quantity": "params.total", "max": "1T"})
    ran = run("check", "sub/budgets.yaml", "--base", "nope")
    assert (ran.code, ran.out) == (2, "")
    assert "--base: error: git knows no revision nope" in ran.err


@pytest.mark.parametrize("base", ["", "then:", "then:sub/s.yaml", ":/then"])
def test_what_is_no_revision_does_not_make_every_spec_new(repository: Path, base: str) -> None:
    budgets(repository, {"quantity": "params.total", "max_increase": "1%"})
    ran = run("check", "sub/budgets.yaml", "--base", base)
    assert (ran.code, ran.out) == (2, "")
    assert f'--base: error: "{base}" is no revision' in ran.err
    assert "hint: name a branch, a tag or a commit" in ran.err


def test_a_name_can_not_begin_a_line_of_the_verdict(repository: Path) -> None:
    budgets(repository, {"quantity": "params.total", "max": 1})
    (repository / "budgets.yaml").rename(repository / "a\n::error::b.yaml")
    ran = run("check", "sub/a\n::error::b.yaml")
    assert ran.code == 1
    assert ran.err.splitlines()[0] == r"error: 1 of 1 budget exceeded: sub/a\n::error::b.yaml"


def test_a_bundled_spec_has_no_earlier_revision(repository: Path) -> None:
    budgets(repository, {"spec": "k25", "quantity": "params.total", "max_increase": "1%"})
    ran = run("check", "sub/budgets.yaml", "--base", "then")
    assert ran.code == 2
    assert "sub/budgets.yaml:2:" in ran.err
    assert "k25 is no file of this repository: it has no earlier revision" in ran.err


def test_the_schema_takes_what_the_command_takes(tmp_path: Path) -> None:
    validator = jsonschema.Draft7Validator(json.loads(run("schema", "budgets").out))
    entry = {"spec": "k25", "quantity": "serve.weights_bytes", "gpu": "h200", "gpus": 8, "max": "1.5TiB"}
    shown = {"spec": "k25", "quantity": "flops.forward", "image": ["1024x768"], "seq": "8k", "max": 1e30}
    path = budgets(tmp_path, entry, shown)
    assert run("check", path).code == 0
    assert validator.is_valid(yaml.safe_load(Path(path).read_text()))
    for wrong in ({"max": -1}, {"max": None, "image": "8x8"}, {"maximum": 1}, {"gpus": 0}, {"quantity": ""}):
        assert not validator.is_valid({"budgets": [{**entry, **wrong}]}), wrong


def test_the_budgets_of_the_page_are_valid(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "ci.md").read_text()
    block = page[page.index("budgets.schema.json\nbudgets:\n") + len("budgets.schema.json\n") :].partition("```")[0]
    for folder, name, source in (("specs", "my.yaml", "k25.yaml"), ("plans", "mine.yaml", "plans/k2-pretrain.yaml")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text((bundled_dir() / source).read_text())
    (tmp_path / "budgets.yaml").write_text(block.replace(", max_increase: 1%", ""))
    ran = run("check", str(tmp_path / "budgets.yaml"), "--format", "json")
    assert [row["verdict"] for row in found(ran)] == ["exceeded", "kept", "kept", "kept"], ran.err
