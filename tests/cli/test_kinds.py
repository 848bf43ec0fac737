"""`show`, `validate` and `specs` take files of every kind: each says which it is, and a bundled name belongs to one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest
import yaml

from archcalc.documents.kinds import BUNDLED, KINDS
from archcalc.files import loader
from archcalc.files.loader import bundled_dir, bundled_names
from archcalc.section import Section
from tests.support import ROOT, Ran, answered, run

FILES = {
    kind: (bundled_dir() / folder / f"{name}.yaml").read_text()
    for kind, folder, name in (
        ("spec", "", "k25"),
        ("plan", "plans", "k2-pretrain"),
        ("hardware", "hardware", "h200"),
        ("engine", "engines", "vllm"),
        ("stack", "stacks", "torch-fsdp2"),
    )
} | {"books": (ROOT / "reports" / "books.yaml").read_text()}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_kind_that_a_file_can_say_is_known() -> None:
    assert tuple(KINDS) == loader.KINDS
    assert {KINDS[kind].folder for kind in BUNDLED} == set(loader.NOUNS)


@pytest.mark.parametrize("kind", FILES)
def test_the_kind_is_read_from_the_file(kind: str, here: Path) -> None:
    (here / "mine.yaml").write_text(FILES[kind])
    ran = run("validate", "mine.yaml")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("mine.yaml: valid (" if kind == "spec" else f"mine.yaml: a valid {kind} file (")
    assert run("show", "mine.yaml") == Ran(0, FILES[kind], "")
    assert run("validate", "mine.yaml", "--kind", kind).code == 0


@pytest.mark.parametrize("kind", BUNDLED)
def test_every_bundled_file_is_valid_and_can_be_shown_by_its_name_alone(kind: str) -> None:
    for name in bundled_names(KINDS[kind].folder or ""):
        assert run("validate", name).code == 0, name
        assert run("show", name) == run("show", name, "--kind", kind), name
        assert f"kind: {kind}\n" in run("show", name).out


@pytest.mark.parametrize(
    ("kind", "old", "new"),
    [
        ("plan", "world: 256", "world: 255"),
        ("plan", "micro_batch: 1", "micro_batch: 0"),
        ("plan", "hardware: h800", "hardware: h801"),
        ("plan", "hardware: h800", "hardware: h800\nstack: megatron"),
        ("plan", "layout: auto", "layout: [61]"),
        ("plan", "grads: fp32", "grads: fp32\n  fp8: mxfp8"),
        ("hardware", "memory_bytes: ", "memory_bytes: -"),
        ("engine", "block_size: 16", "block_size: sixteen"),
        ("stack", "copies: 2", "copies: 0"),
        ("books", "plans: [k2-pretrain]", "plans: [k3-pretrain]"),
        ("spec", "vocab_size: 163840", "vocab_size: 0"),
    ],
)
def test_an_invalid_file_of_any_kind_is_told_with_line_and_column(kind: str, old: str, new: str, here: Path) -> None:
    text = FILES[kind].replace(old, new, 1)
    assert text != FILES[kind]
    (here / "mine.yaml").write_text(text)
    ran = run("validate", "mine.yaml")
    assert (ran.code, ran.out) == (1, "")
    place, _, _ = ran.err.partition(": error: ")
    line = text.splitlines().index(next(line for line in text.splitlines() if new.split("\n")[-1] in line)) + 1
    assert place.split(":")[:2] == ["mine.yaml", str(line)]


def test_a_plan_has_the_errors_that_train_gives(here: Path) -> None:
    (here / "mine.yaml").write_text(FILES["plan"].replace("micro_batch: 1", "micro_batch: 1000"))
    assert run("validate", "mine.yaml").err == run("train", "k25", "--plan", "mine.yaml").err


@pytest.mark.parametrize("kind", ["spec", "plan", "engine"])
def test_a_file_that_is_hardly_begun_is_told_where_others_are(here: Path, kind: str) -> None:
    (here / "mine.yaml").write_text(f"kind: {kind}\nname: mine\n")
    (hint,) = (line for line in run("validate", "mine.yaml").err.splitlines() if line.startswith("hint: "))
    for command in hint.removeprefix("hint: ").replace(" lists some to start from", "").split("; "):
        assert run(*command.removesuffix(" has every key").split()[1:]).code == 0, command
    whole = yaml.safe_load(FILES[kind])
    whole.pop("name")
    (here / "mine.yaml").write_text(yaml.safe_dump(whole, sort_keys=False))
    assert "hint: " not in run("validate", "mine.yaml").err, "one key that is missing says it all"
    for odd in ("kind: [a]\n", "kind: {}\n"):
        (here / "mine.yaml").write_text(odd)
        assert run("train", "k25", "--plan", "mine.yaml").code == 2


def test_a_file_without_a_kind_is_one_error_that_says_what_it_looks_like(here: Path) -> None:
    for kind in FILES:
        (here / "mine.yaml").write_text(FILES[kind].replace(f"kind: {kind}\n", "", 1))
        ran = run("validate", "mine.yaml")
        assert (ran.code, ran.err.count("error: ")) == (1, 1)
        assert "missing key `kind`" in ran.err
        assert f"kind: {kind}" in ran.err
    (here / "mine.yaml").write_text("kind: hardwear\nname: x\n")
    ran = run("validate", "mine.yaml")
    assert ran.err.startswith('mine.yaml:1:7: error: no file kind is named "hardwear"')
    assert "did you mean hardware?" in ran.err
    (here / "mine.yaml").write_text("kind: [plan]\nname: x\n")
    assert "hint: one of spec, plan, hardware," in run("validate", "mine.yaml").err


def test_a_kind_that_can_do_without_the_word_is_told_by_its_keys(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Shelf(Section):
        kind: Literal["shelf"] = "shelf"
        books: list[str]

    monkeypatch.setitem(KINDS, "shelf", SimpleNamespace(model=Shelf, folder=None, check=lambda *_: None))
    (here / "mine.yaml").write_text("books: [one]\n")
    assert run("validate", "mine.yaml") == Ran(0, "mine.yaml: a valid shelf file (shelf)\n", "")


def test_a_near_miss_of_any_kind_is_the_hint() -> None:
    ran = run("show", "k2-pretrian")
    assert ran == Ran(
        2,
        "",
        'error: no file and no bundled spec, plan, GPU, engine or stack is named "k2-pretrian"\n'
        "hint: did you mean k2-pretrain?\n",
    )
    assert run("validate", "nvidia-h100").err.endswith("did you mean h100?\n")
    assert run("show", "nothing-like-it").err.endswith(
        "; archcalc specs --kind plan|hardware|engine|stack lists the others\n"
    )


def test_case_makes_no_difference_to_a_name() -> None:
    assert run("show", "H200") == run("show", "h200")


def test_a_file_of_another_kind_than_asked_for_is_an_error(here: Path) -> None:
    (here / "mine.yaml").write_text(FILES["plan"])
    ran = run("validate", "mine.yaml", "--kind", "hardware")
    assert (ran.code, ran.err.count("error: ")) == (1, 1)
    assert "this file is of kind plan; one of kind hardware is wanted here" in ran.err
    assert run("show", "k25", "--kind", "plan").code == 2
    assert 'no file kind is named "plant"' in run("show", "k25", "--kind", "plant").err


def test_a_name_of_two_kinds_is_never_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "bundled_names", lambda folder="": ["k25"] if folder in ("", "plans") else [])
    ran = run("show", "k25")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == ("error: k25 is the name of several files: spec, plan\nhint: add --kind spec or --kind plan\n")


@pytest.mark.parametrize("kind", BUNDLED)
def test_specs_lists_the_bundled_files_of_a_kind_with_what_they_are(kind: str) -> None:
    rows = answered("specs", "--kind", kind)["rows"]
    assert [row["path"] for row in rows] == bundled_names(KINDS[kind].folder or "")
    assert all(row["title"] for row in rows)
    assert set(rows[0]) > {"path", "title"} or kind == "stack"


def test_specs_says_how_large_gpus_and_plans_are() -> None:
    gpus = {row["path"]: row for row in answered("specs", "--kind", "hardware")["rows"]}
    # specs/hardware/h200.yaml: NVIDIA's data sheet, 4.8 TB/s and 989.4 TFLOP/s dense
    assert (gpus["h200"]["memory_bandwidth"], gpus["h200"]["bfloat16_flops"]) == (4.8e12, 989.4e12)
    plans = {row["path"]: row for row in answered("specs", "--kind", "plan")["rows"]}
    assert (plans["k2-pretrain"]["gpus"], plans["k2-pretrain"]["hardware"]) == (
        256,
        "h800",
    )  # its title and section 2.4


def test_specs_has_none_of_a_kind_that_is_not_bundled() -> None:
    assert run("specs", "--kind", "books").code == 2
    assert "did you mean plan?" in run("specs", "--kind", "plann").err


def test_the_hooks_take_every_kind_of_file() -> None:
    hooks = {hook["id"]: hook for hook in yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())}
    files = re.compile(hooks["archcalc-validate"]["files"])
    bundled = [f"specs/{KINDS[k].folder}/x.yaml".replace("//", "/") for k in BUNDLED]
    assert [path for path in (*bundled, "reports/books.yaml", "plans/mine.yml") if not files.search(path)] == []
    assert not any(map(files.search, ("docs/mkdocs.yaml", "api/specs/openapi.yaml", "content/books.yaml")))


def test_books_are_looked_for_beside_their_file(here: Path) -> None:
    (here / "reports").mkdir()
    (here / "reports" / "books.yaml").write_text("kind: books\nbooks:\n  k25: {plans: [mine.yaml]}\n")
    assert run("validate", "reports/books.yaml").code == 1
    (here / "reports" / "mine.yaml").write_text(FILES["plan"])
    assert run("validate", "reports/books.yaml").code == 0


def test_json_of_specs_says_its_kind() -> None:
    assert json.loads(run("specs", "--kind", "stack", "--format", "json").out)["inputs"] == {"kind": "stack"}


@pytest.mark.parametrize(
    ("budget", "says"),
    [
        ("quantity: params.nonsense, max: 1", "2:27: error: params.nonsense is no quantity"),
        ("quantity: serve.fits, max: 1", "2:27: error: serve.fits needs a gpu"),
        ("quantity: params.total, gpu: h200, max: 1", "2:46: error: gpu says nothing about params.total"),
    ],
)
def test_validate_refuses_a_budget_that_check_would_refuse(here: Path, budget: str, says: str) -> None:
    (here / "b.yaml").write_text(f"budgets:\n  - {{spec: k25, {budget}}}\n")
    checked, validated = run("check", "b.yaml"), run("validate", "b.yaml")
    assert (checked.code, validated.code) == (2, 1)
    assert f"b.yaml:{says}" in validated.err
    assert validated.err == checked.err
