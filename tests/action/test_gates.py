"""Limits that can't be walked around: what somebody may do to a spec so that it is not compared."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

import action.changed
import action.run
from tests.action.repository import ZEROS, Done, Repository
from tests.support import dumped, tiny

LIMIT = "params.total:+1%"
DENSE = {"count": 1, "attention": "gqa", "ffn": "dense"}


def spec(name: str = "tiny", **backbone: Any) -> dict[str, Any]:
    """A small spec of this name."""
    return tiny(**backbone) | {"name": name}


def doubled(name: str = "tiny") -> dict[str, Any]:
    """The same with 6 layers in place of 3: far more than 1 % of its parameters."""
    layers = [DENSE, {"count": 5, "attention": "gqa", "ffn": "moe"}]
    return spec(name, num_hidden_layers=6, layers=layers)


def other(name: str = "other") -> dict[str, Any]:
    """A spec that is no successor of the small one: dense, with other sizes throughout."""
    content = spec(name, hidden_size=16, vocab_size=64, num_hidden_layers=1, layers=[DENSE])
    content["backbone"]["attention"]["gqa"] |= {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 2}
    content["backbone"]["ffn"] = {"dense": {**content["backbone"]["ffn"]["dense"], "intermediate_size": 64}}
    return content


def reformatted(content: Mapping[str, Any]) -> str:
    """The same data as JSON, which is YAML too, with its keys the other way round."""
    return json.dumps(dict(reversed(list(content.items()))), indent=1)


@pytest.fixture
def gated(tmp_path: Path) -> Repository:
    """One commit with a small spec."""
    made = Repository(tmp_path / "repository", tmp_path / "runner")
    made.folder.mkdir()
    made.git("init", "--quiet", "--initial-branch=main")
    made.commit({"specs/tiny.yaml": dumped(spec())})
    return made


def held(repository: Repository, files: Mapping[str, str | None], **inputs: str) -> Done:
    """What the action says of a change under the limit."""
    repository.commit(files)
    return repository.act(base="HEAD~1", limits=LIMIT, **inputs)


# ---------------------------------------------------------------------------------------- moved, and in another form

PLACES = {
    "in place": ("specs/tiny.yaml", "tiny"),
    "its name alone": ("specs/tiny.yaml", "renamed"),
    "another case": ("specs/Tiny.yaml", "TINY"),
    "another folder": ("specs/more/tiny.yaml", "renamed"),
    "another ending": ("specs/tiny.yml", "renamed"),
    "JSON": ("specs/small.json", "tiny"),
    "no ending": ("specs/tiny", "renamed"),
    "out of the patterns": ("elsewhere/tiny.yaml", "tiny"),
    "all at once": ("elsewhere/deep/small.json", "renamed"),
}
PATTERNS = "specs/**"


@pytest.mark.parametrize(("place", "name"), PLACES.values(), ids=PLACES)
def test_a_spec_that_grew_exceeds_its_limit_wherever_it_went(gated: Repository, place: str, name: str) -> None:
    done = held(gated, {"specs/tiny.yaml": None, place: reformatted(doubled(name))}, specs=PATTERNS)
    assert done.code == 1, done.out
    assert [line for line in done.errors if "limit params.total%3A+1%25 exceeded" in line], done.out
    assert done.outputs["passed"] == "false"


@pytest.mark.parametrize("place", ["specs/small.json", "elsewhere/tiny.yaml"])
def test_a_spec_that_moved_and_did_not_grow_passes_where_the_patterns_look(gated: Repository, place: str) -> None:
    moved: dict[str, str | None] = {"specs/tiny.yaml": None, place: reformatted(spec())}
    done = held(gated, moved, specs=PATTERNS)
    inside = place.startswith("specs/")
    assert done.code == (0 if inside else 1), done.out
    assert "1 limit kept" in done.comment
    assert ("where no pattern of `specs` looks" in done.out) == (not inside)
    assert gated.act(base="HEAD~1", limits=LIMIT, specs=PATTERNS, allow_removed="true").code == 0


def test_specs_of_one_family_that_move_together_are_told_apart_by_their_names(gated: Repository) -> None:
    sizes = {"a": 40, "b": 80, "c": 160}
    small = {f"specs/{name}/model.yaml": dumped(spec(name, vocab_size=size)) for name, size in sizes.items()}
    gated.commit(small)
    moved = {f"models/{name}/model.yaml": reformatted(spec(name, vocab_size=size)) for name, size in sizes.items()}
    done = held(gated, dict.fromkeys(small) | moved, specs="specs/**\nmodels/**")
    assert done.code == 0, done.out
    assert done.comment.count("1 limit kept") == 3


def test_a_spec_that_became_a_config_is_held(gated: Repository) -> None:
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 100,
        "max_position_embeddings": 128, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "hidden_act": "silu",
        "tie_word_embeddings": False, "attention_bias": False, "mlp_bias": False, "torch_dtype": "bfloat16",
    }  # fmt: skip
    at = "specs/mini/config.json"
    gated.commit({at: json.dumps(config)})
    out = gated.runner / "mini.yaml"
    ran = subprocess.run(["git", "show", f"HEAD:{at}"], cwd=gated.folder, capture_output=True, check=True)
    (gated.runner / "mini").mkdir()
    (gated.runner / "mini" / "config.json").write_bytes(ran.stdout)
    assert action.run.Runner.process(["import", str(gated.runner / "mini"), "-o", str(out)], {}, 60)[0] == 0
    gated.commit({at: None, "specs/mini.yaml": out.read_text()})
    assert gated.act(base="HEAD~1", limits=LIMIT, specs=PATTERNS).code == 0
    done = held(gated, {"specs/mini.yaml": None, at: json.dumps(config | {"num_hidden_layers": 4})}, specs=PATTERNS)
    assert done.code == 1
    assert "exceeded" in done.errors[0]


# ---------------------------------------------------------------------------------------------- come, gone, unclear


@pytest.mark.parametrize(
    ("files", "flag", "says"),
    [
        ({"specs/other.yaml": dumped(other())}, "allow_new", "it is new: there is nothing to hold it against"),
        ({"specs/b.yaml": None}, "allow_removed", "it is gone, and no other spec is its successor"),
    ],
)
def test_what_comes_or_goes_fails_under_limits_unless_that_is_allowed(
    gated: Repository, files: dict[str, str | None], flag: str, says: str
) -> None:
    gated.commit({"specs/b.yaml": dumped(other("b"))})
    gated.commit(files)
    done = gated.act(base="HEAD~1", limits=LIMIT)
    assert (done.code, done.outputs["passed"]) == (1, "false")
    assert says in done.errors[0]
    assert says in done.comment
    assert gated.act(base="HEAD~1", limits=LIMIT, **{flag: "true"}).code == 0
    others = {"allow_new", "allow_removed"} - {flag}
    assert gated.act(base="HEAD~1", limits=LIMIT, **dict.fromkeys(others, "true")).code == 1
    assert gated.act(base="HEAD~1").code == 0  # without limits there is nothing to walk around


def test_a_switch_that_is_neither_true_nor_false_is_refused(gated: Repository) -> None:
    done = gated.act(base="HEAD", limits=LIMIT, allow_new="yes")
    assert (done.code, done.outputs) == (2, {"passed": "false"})
    assert "allow-new: yes is neither true nor false" in done.out


def test_two_specs_that_may_both_be_the_successor_fail(gated: Repository) -> None:
    """A decoy that is as it was, and one of another name that grew."""
    files = {"specs/tiny.yaml": None, "specs/a.yaml": dumped(spec("a")), "specs/b.yaml": dumped(doubled("b"))}
    done = held(gated, files, allow_new="true", allow_removed="true")
    assert done.code == 2
    assert "it is gone: it may have become specs/a.yaml or specs/b.yaml" in "".join(done.errors)
    named = held(gated, {"specs/a.yaml": dumped(spec("tiny"))}, allow_new="true", allow_removed="true")
    assert named.code == 0  # a change of names alone: the specs are told apart by path


def test_a_decoy_of_the_file_name_does_not_hide_the_one_of_the_name(gated: Repository) -> None:
    files = {"specs/tiny.yaml": None, "specs/a.yaml": dumped(spec()), "specs/tiny.yml": dumped(doubled("b"))}
    done = held(gated, files, specs=PATTERNS, allow_new="true", allow_removed="true")
    assert done.code == 2
    assert "specs/a.yaml or specs/tiny.yml" in done.out


def test_a_name_does_not_carry_over_to_what_another_spec_was(gated: Repository) -> None:
    """Two specs go and two come, their names crossed: each name stays within its limit, and what is there grew."""
    twice = doubled("big")
    gated.commit({"specs/tiny.yaml": dumped(spec("small")), "specs/big.yaml": dumped(twice)})
    files: dict[str, str | None] = {"specs/tiny.yaml": None, "specs/big.yaml": None}
    crossed = {"specs/x.yaml": dumped(doubled("small")), "specs/y.yaml": dumped(spec("big"))}
    done = held(gated, files | crossed, allow_new="true", allow_removed="true")
    assert done.code == 2
    assert "may have become that too" in done.out


# --------------------------------------------------------------------------------------------------- names and copies


def test_swapped_names_are_held_by_name_too(gated: Repository) -> None:
    gated.commit({"specs/big.yaml": dumped(doubled("big"))})
    swapped = {"specs/tiny.yaml": dumped(spec("big")), "specs/big.yaml": dumped(doubled("tiny"))}
    done = held(gated, swapped)
    assert done.code == 1
    assert len([line for line in done.errors if "exceeded" in line]) == 1  # what was called tiny doubled


def test_the_name_of_a_spec_that_goes_is_held_where_another_took_it(gated: Repository) -> None:
    gated.commit({"specs/big.yaml": dumped(doubled("big"))})
    done = held(gated, {"specs/tiny.yaml": None, "specs/big.yaml": dumped(doubled("tiny"))}, allow_removed="true")
    assert done.code == 1
    assert "specs/tiny.yaml at" in done.comment


def test_a_copy_under_the_same_name_is_held_before_its_original_goes(gated: Repository) -> None:
    done = held(gated, {"specs/copy.yaml": dumped(doubled())}, allow_new="true", allow_removed="true")
    assert done.code == 1
    assert "exceeded" in done.errors[0]


def test_an_original_that_goes_is_held_against_a_copy_that_was_merged_before(gated: Repository) -> None:
    gated.commit({"elsewhere/copy.yaml": dumped(doubled())})  # no pattern looks there
    done = held(gated, {"specs/tiny.yaml": None}, allow_new="true", allow_removed="true")
    assert done.code == 1
    assert "elsewhere/copy.yaml" in done.comment
    assert "exceeded" in done.errors[0]


# ------------------------------------------------------------------------------------- what only looks like a spec


def test_a_link_holds_no_spec_even_if_it_did_not_change(gated: Repository) -> None:
    (gated.folder / "models").mkdir()
    (gated.folder / "models" / "a.yaml").write_text(dumped(spec("a")))
    (gated.folder / "specs" / "a.yaml").symlink_to("../models/a.yaml")
    (gated.folder / "specs" / "same.yaml").symlink_to("tiny.yaml")  # held where it leads to
    gated.commit({})
    done = held(gated, {"models/a.yaml": dumped(doubled("a"))})
    assert done.code == 2
    assert len(done.errors) == 1
    assert "specs/a.yaml: it is a link or a submodule" in done.errors[0]
    assert gated.act(base="HEAD~1").code == 0


def test_a_spec_that_becomes_a_link_or_a_submodule_fails(gated: Repository) -> None:
    (gated.folder / "elsewhere.yaml").write_text(dumped(doubled()))
    (gated.folder / "specs" / "tiny.yaml").unlink()
    (gated.folder / "specs" / "tiny.yaml").symlink_to("../elsewhere.yaml")
    done = held(gated, {}, allow_new="true", allow_removed="true")
    assert done.code == 2
    head = gated.git("rev-parse", "HEAD")
    gated.git("rm", "--quiet", "specs/tiny.yaml")
    gated.git("update-index", "--add", "--cacheinfo", f"160000,{head},specs/tiny.yaml")
    gated.git("commit", "--quiet", "-m", "submodule")
    done = gated.act(base="HEAD~2", limits=LIMIT)
    assert done.code == 2
    assert "link or a submodule" in done.errors[0]


def test_a_link_whose_own_text_is_a_spec_is_none(gated: Repository) -> None:
    blob = gated.git("hash-object", "-w", "--stdin", given=dumped(spec()))
    gated.git("update-index", "--add", "--cacheinfo", f"120000,{blob},specs/tiny.yaml")
    gated.git("commit", "--quiet", "-m", "link")
    assert gated.act(base="HEAD~1", limits=LIMIT).code == 2


def test_a_saved_report_in_place_of_a_spec_is_refused(gated: Repository) -> None:
    """It says what its author wrote into it."""
    gated.commit({"specs/tiny.yaml": None, "specs/tiny.json": reformatted(spec())})
    saved = gated.runner / "saved.json"
    assert action.run.Runner.process(["params", "k25", "-o", str(saved)], {}, 60)[0] == 0
    done = held(gated, {"specs/tiny.json": saved.read_text()}, specs=PATTERNS)
    assert done.code == 2
    assert "it is a saved report" in done.errors[0]


def test_a_spec_that_becomes_invalid_fails_in_place_and_elsewhere(gated: Repository) -> None:
    broken = dumped(doubled()).replace("hidden_size: 8", "hidden_size: 0")
    for place in ("specs/tiny.yaml", "specs/more.yaml"):
        done = held(gated, {"specs/tiny.yaml": None, place: broken}, allow_new="true", allow_removed="true")
        assert done.code == 2
        gated.git("reset", "--quiet", "--hard", "HEAD~1")


def test_what_a_config_is_read_with_changes_it_too(gated: Repository) -> None:
    config = {"model_type": "llama"}
    beside = "specs/a/hf_quant_config.json"
    gated.commit({"specs/a/config.json": json.dumps(config), beside: "{}"})
    gated.commit({beside: '{"producer": {}}'})
    found = action.changed.changes
    with patch.object(os, "environ", os.environ | {"GIT_DIR": str(gated.folder / ".git")}):
        (change,) = found("HEAD~1", "HEAD", ["specs/**/config.json"], action.changed.Rules(gated=True))
    assert (change.old, change.new) == ("specs/a/config.json", "specs/a/config.json")


# ----------------------------------------------------------------------------------- the repository's own means


def test_attributes_settings_and_replacements_of_the_repository_hide_nothing(gated: Repository) -> None:
    was = gated.git("rev-parse", "HEAD:specs/tiny.yaml")
    gated.commit({".gitattributes": "*.yaml binary -diff filter=x export-ignore linguist-generated\n"})
    gated.commit({"specs/tiny.yaml": dumped(doubled())})
    for key, value in {"diff.renames": "copies", "diff.orderFile": "nowhere", "diff.noprefix": "true"}.items():
        gated.git("config", key, value)
    gated.git("replace", gated.git("rev-parse", "HEAD:specs/tiny.yaml"), was)
    assert gated.act(base="HEAD~1", limits=LIMIT).code == 1


def test_a_merge_is_held_against_what_it_was_merged_into(gated: Repository) -> None:
    gated.git("checkout", "--quiet", "-b", "topic")
    gated.commit({"specs/moved.yaml": dumped(doubled()), "specs/tiny.yaml": None})
    gated.git("checkout", "--quiet", "main")
    base = gated.commit({"README.md": "x"})
    gated.git("merge", "--quiet", "--no-ff", "-m", "merge", "topic")
    done = gated.act({"pull_request": {"base": {"sha": base}}}, limits=LIMIT)
    assert done.code == 1
    assert json.loads(done.outputs["specs"]) == ["specs/moved.yaml"]


def test_branches_that_parted_at_two_commits_are_not_guessed_about(gated: Repository) -> None:
    gated.git("checkout", "--quiet", "-b", "topic")
    first = gated.commit({"a": "a"})
    gated.git("checkout", "--quiet", "main")
    second = gated.commit({"b": "b"})
    gated.git("merge", "--quiet", "-m", "cross", first)
    gated.git("checkout", "--quiet", "topic")
    gated.git("merge", "--quiet", "-m", "cross", second)
    done = gated.act(base="main", limits=LIMIT)
    assert done.code == 2
    assert "parted at 2 commits" in done.out
    assert gated.act(base="main").code == 0


def test_patterns_that_no_file_matches_hold_nothing_and_fail(gated: Repository) -> None:
    done = gated.act(base="HEAD", limits=LIMIT, specs="spec/*.yaml")
    assert done.code == 2
    assert "no file is at spec/*.yaml" in done.out
    assert gated.act(base="HEAD", specs="spec/*.yaml").code == 0
    done = gated.act(base="HEAD", limits=LIMIT, specs="spec/*.yaml\nspecs/*.yaml")
    assert (done.code, len(done.annotations)) == (0, 1)
    assert "::warning" in done.out  # one of two is a slip more often than not
    assert "spec/*.yaml" in done.out


def test_a_push_that_starts_a_branch_is_compared_with_the_default_branch(gated: Repository) -> None:
    event = {"before": ZEROS, "repository": {"default_branch": "main"}}
    gated.git("update-ref", "refs/remotes/origin/main", "HEAD")
    gated.commit({"specs/tiny.yaml": dumped(doubled())})
    assert "exceeded" in gated.act(event, limits=LIMIT).errors[0]
    gated.git("update-ref", "-d", "refs/remotes/origin/main")
    done = gated.act(event, limits=LIMIT)
    assert done.code == 1
    assert "it is new" in done.errors[0]


@pytest.mark.parametrize(
    "path",
    ["specs/a\nb.yaml", "--output=x.yaml", "::add-mask::x.yaml", "##[error]x.yaml", "é\u202e.yaml", b"specs/\xff.yaml"],
    ids=ascii,
)
def test_a_path_of_any_bytes_is_held_and_begins_no_line(gated: Repository, path: str | bytes) -> None:
    place = os.fsdecode(path)
    (gated.folder / place).write_text(dumped(doubled("tiny\n::error::x")))
    (gated.folder / "specs" / "tiny.yaml").unlink()
    done = held(gated, {}, specs="specs/*.yaml\n*.yaml")
    assert done.code == 1
    assert "exceeded" in done.errors[0]
    assert json.loads(done.outputs["specs"]) == [place]
    assert len(done.annotations) == len(done.out.splitlines())
    for line in (*done.comment.splitlines(), *done.summary.splitlines()):
        assert not line.lstrip().startswith(("::", "##["))


def test_errors_of_a_hostile_spec_begin_no_line_with_a_command(gated: Repository) -> None:
    done = held(gated, {"specs/tiny.yaml": '::set-output name=a::b: 1\n##[group]x: "\n::stop-commands::x"\n'})
    assert done.code == 2
    assert len(done.annotations) == len(done.out.splitlines()) == 1
    for line in (*done.comment.splitlines(), *done.summary.splitlines()):
        assert not line.lstrip().startswith(("::", "##["))


# ------------------------------------------------------------------------------------------------------------- budgets


def test_a_budget_that_is_raised_with_the_spec_is_said_aloud(gated: Repository) -> None:
    def budgets(most: int, quantity: str = "params.total") -> str:
        return f"budgets:\n  - {{spec: specs/tiny.yaml, quantity: {quantity}, max: {most}}}\n"

    gated.commit({"budgets.yaml": budgets(4000)})
    gated.commit({"budgets.yaml": budgets(9000), "specs/tiny.yaml": dumped(doubled())})
    done = gated.act(base="HEAD~1", budgets="budgets.yaml")
    assert done.code == 0
    (warning,) = [line for line in done.annotations if line.startswith("::warning")]
    assert "params.total of specs/tiny.yaml: max 4000 → max 9000" in warning
    assert "max 4000 → max 9000" in done.comment
    gated.commit({"budgets.yaml": budgets(9000, "params.active")})
    done = gated.act(base="HEAD~1", budgets="budgets.yaml")
    assert "params.total of specs/tiny.yaml: max 9000 → no budget" in done.out
    assert "::warning" not in gated.act(base="HEAD", budgets="budgets.yaml").out


def test_a_budget_on_growth_is_not_lost_with_the_path(gated: Repository) -> None:
    def budgets(path: str) -> str:
        return f"budgets:\n  - {{spec: {path}, quantity: params.total, max_increase: 1%}}\n"

    gated.commit({"budgets.yaml": budgets("specs/tiny.yaml")})
    moved = {"specs/tiny.yaml": None, "specs/new.yaml": dumped(doubled()), "budgets.yaml": budgets("specs/new.yaml")}
    gated.commit(moved)
    done = gated.act(base="HEAD~1", budgets="budgets.yaml")
    assert done.code == 1
    assert "new since" in done.errors[0]
    assert gated.act(base="HEAD~1", budgets="budgets.yaml", allow_new="true").code == 0


# -------------------------------------------------------------------------------------------------------------- bounds


def test_more_specs_than_one_run_compares_are_refused(gated: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(action.changed, "MOST_SPECS", 2)
    done = held(gated, {f"specs/{n}.yaml": dumped(spec(str(n))) for n in range(3)})
    assert done.code == 2
    assert "3 specs differ; one run compares 2" in done.out


def test_more_files_than_one_run_looks_through_are_refused(gated: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(action.changed, "MOST_FILES", 2)
    done = held(gated, {"specs/tiny.yaml": None, **{f"x/{n}.yaml": "a: 1" for n in range(3)}}, allow_removed="true")
    assert done.code == 2
    assert "3 files may hold a spec; one run looks through 2" in done.out


def test_a_comparison_that_takes_too_long_fails_and_so_does_a_run(
    gated: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    gated.commit({"specs/b.yaml": dumped(other("b"))})
    gated.commit({"specs/tiny.yaml": dumped(spec()) + "#\n", "specs/b.yaml": dumped(other("b")) + "#\n"})

    def late(arguments: Any, env: Any, seconds: float) -> Any:
        raise subprocess.TimeoutExpired("archcalc", seconds)

    monkeypatch.setattr("tests.action.repository.here", late)
    done = gated.act(base="HEAD~1", limits=LIMIT)
    assert (done.code, done.outputs["passed"], len(done.errors)) == (2, "false", 2)
    assert "took more than 60 s" in done.errors[0]
    monkeypatch.setattr(action.run, "SECONDS_ALL", 0)
    assert "the action has 0 s in all" in gated.act(base="HEAD~1", limits=LIMIT).out


def test_a_command_is_stopped_when_its_time_is_over() -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        action.run.Runner.process(["params", "k25"], {}, 0.01)


def test_a_bug_of_the_action_fails_closed(gated: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("\n::add-mask::x")

    monkeypatch.setattr(action.run, "changes", broken)
    done = gated.act(base="HEAD", limits=LIMIT)
    assert (done.code, done.outputs, len(done.out.splitlines())) == (3, {"passed": "false"}, 1)
