"""The GitHub action, run here: its own step of action.yml, in a temporary repository, under the variables of a job."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from action.changed import Change
from action.told import Outcome, joined
from archcalc.cli.app import COMMANDS
from tests.action.repository import ACTION, STEPS, ZEROS, Repository
from tests.support import ROOT, text

K25 = text("k25")
LLAMA = text("llama-3.1-70b")
DEEPSEEK = text("deepseek-v3")
MORE_EXPERTS = K25.replace("n_routed_experts: 384", "n_routed_experts: 512")
LINE = K25.splitlines().index("      n_routed_experts: 384") + 1
COMMENT = 60_000  # characters; GitHub refuses a comment past 65,536


# ------------------------------------------------------------------------------------------- a real change


def test_a_changed_spec_is_summed_up_and_noted_on_its_line(repository: Repository) -> None:
    repository.commit({"specs/k25.yaml": MORE_EXPERTS, "README.md": "x", "specs/plans/a.yaml": "kind: plan # x\n"})
    done = repository.act(base="HEAD~1")
    assert (done.code, done.err) == (0, "")
    (note,) = done.annotations
    assert note.startswith(
        f"::notice file=specs/k25.yaml,line={LINE},title=backbone.ffn.moe.n_routed_experts 384 → 512::"
    )
    # 128 more experts in 60 layers, three matrices of 2048 x 7168 each, and their rows of the router
    more = f"+{128 * 60 * (3 * 2048 * 7168 + 7168):,}"
    assert more in done.comment
    assert more in done.summary
    assert done.outputs["specs"] == '["specs/k25.yaml"]'
    assert (done.outputs["changed"], done.outputs["passed"]) == ("true", "true")
    assert Path(done.outputs["comment"]).read_text() == done.comment


def test_an_exceeded_limit_fails_the_step(repository: Repository) -> None:
    repository.commit({"specs/k25.yaml": MORE_EXPERTS})
    limits = "# what a review allows\nparams.total:+1%\n\n  kv.bytes_per_token:±0\n"
    done = repository.act(base="HEAD~1", limits=limits)
    assert done.code == 1
    (error,) = [line for line in done.annotations if line.startswith("::error ")]
    assert error.startswith(f"::error file=specs/k25.yaml,line={LINE},title=limit params.total%3A+1%25 exceeded::")
    assert done.outputs["passed"] == "false"
    assert "| exceeded |" in done.comment
    assert repository.act(base="HEAD~1", limits="params.total:+50%\n").code == 0


def test_serving_and_training_are_compared_if_that_is_asked_for(repository: Repository) -> None:
    repository.commit({"specs/k25.yaml": MORE_EXPERTS})
    asked = {"gpu": "h200", "gpus": "8", "plan": "k2-pretrain", "context": "8k", "seq": "1k"}
    asked |= {"image": "448x448\n224x224\n"}
    done = repository.act(base="HEAD~1", limits="serve.margin_bytes:-1GiB\ntrain.peak_bytes:+1%\n", **asked)
    assert done.code == 1
    errors = [line for line in done.annotations if line.startswith("::error ")]
    assert [line.split(",")[1] for line in errors] == [f"line={LINE}"] * 2
    assert "limit serve.margin_bytes" in errors[0]
    assert "8 x h200" in done.comment
    assert "images of 448 x 448, 224 x 224" in done.comment


@pytest.mark.parametrize("asked", [{"plan": "specs/plans/a.yaml"}, {"gpu": "./h200.yaml"}, {"gpu": "--output=pwned"}])
def test_no_plan_or_gpu_of_the_checkout_is_read(repository: Repository, asked: dict[str, str]) -> None:
    repository.commit({"specs/k25.yaml": MORE_EXPERTS})
    done = repository.act(base="HEAD~1", **asked)
    assert done.code == 2
    assert "no bundled file is named" in done.annotations[0]
    assert not (repository.folder / "pwned").exists()


BUDGETS = """\
budgets:
  - {spec: specs/k25.yaml, quantity: params.total, max: 1.1T, message: ask the serving team first}
  - {spec: specs/llama.yaml, quantity: kv.bytes_per_token, max_increase: 1%}
"""


def test_a_file_of_budgets_is_checked_beside_the_comparison(repository: Repository) -> None:
    base = repository.commit({"budgets.yaml": BUDGETS})
    done = repository.act(base="HEAD", budgets="budgets.yaml")
    assert (done.code, done.outputs["passed"], done.outputs["changed"]) == (0, "true", "false")
    assert "2 budgets kept: budgets.yaml" in done.comment
    repository.commit({"specs/k25.yaml": MORE_EXPERTS})
    done = repository.act(base=base, budgets="budgets.yaml")
    assert (done.code, done.outputs["passed"]) == (1, "false")
    # 512 - 384 experts of 44,040,192 and a router row of 7,168 in each of 60 layers
    total = 1_026_879_353_328 + 128 * 60 * (44_040_192 + 7_168)
    said = f"params.total of specs/k25.yaml is {total:,} (1.365T), more than 1.1T (1,100,000,000,000)"
    errors = [line for line in done.annotations if line.startswith("::error")]
    place = "file=budgets.yaml,line=2,title=params.total"
    assert errors == [f"::error {place}::{said}: ask the serving team first"]
    assert done.comment.index("1 of 2 budgets exceeded") < done.comment.index("n\\_routed\\_experts")
    assert "1 of 2 budgets exceeded" in done.summary
    assert done.outputs["specs"] == '["specs/k25.yaml"]'
    assert repository.act(base=base).code == 0  # no budgets were asked for


def test_budgets_are_read_out_of_the_head_alone(repository: Repository) -> None:
    head = repository.commit({"budgets.yaml": BUDGETS})
    for name in ("budgets.yaml", "specs/k25.yaml"):
        (repository.folder / name).write_text("not: read")
    (repository.folder / "specs" / "llama.yaml").unlink()
    assert repository.act(base="HEAD", head=head, budgets="budgets.yaml").code == 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "has no file budgets.yaml"),
        ("budgets: [", "budgets.yaml"),
        ("budgets:\n  - {spec: ../x.yaml, quantity: params.total, max: 1}\n", "is no file of this repository"),
        ("budgets:\n  - {spec: specs/k25.yaml, quantity: params.totl, max: 1}\n", "did you mean params.total?"),
    ],
)
def test_budgets_that_can_not_be_checked_exit_2(repository: Repository, text: str | None, says: str) -> None:
    repository.commit({"other": "x", **({} if text is None else {"budgets.yaml": text})})
    done = repository.act(base="HEAD~1", budgets="budgets.yaml")
    assert (done.code, done.outputs["passed"]) == (2, "false")
    assert "budgets.yaml: can't be checked" in done.comment
    assert says in done.comment
    assert [line for line in done.annotations if line.startswith("::error file=budgets.yaml")]


def test_any_change_fails_if_that_is_asked_for(repository: Repository) -> None:
    repository.commit({"specs/k25.yaml": K25.replace("title: Kimi K2.5", "title: Kimi")})
    assert repository.act(base="HEAD~1", **{"fail-on-change": "true"}).code == 0  # a title changes nothing
    repository.commit({"specs/k25.yaml": MORE_EXPERTS})
    assert repository.act(base="HEAD~1", **{"fail-on-change": "true"}).code == 1


def test_without_a_changed_spec_the_comment_says_so(repository: Repository) -> None:
    repository.commit({"README.md": "x"})
    done = repository.act(base="HEAD~1", limits="params.total:+0")
    assert (done.code, done.out) == (0, "")
    assert "No spec changed" in done.comment
    assert done.outputs["changed"] == "false"


def test_added_removed_and_renamed_specs_are_told_apart(repository: Repository) -> None:
    repository.commit({"specs/new.yaml": DEEPSEEK})
    repository.git("mv", "specs/k25.yaml", "specs/kimi.yaml")
    repository.commit({"specs/llama.yaml": None, "specs/kimi.yaml": MORE_EXPERTS})
    allowed = {"allow_new": "true", "allow_removed": "true"}
    done = repository.act(base="HEAD~2", limits="params.total:+50%", **allowed)
    assert done.code == 0, done.out
    assert json.loads(done.outputs["specs"]) == ["specs/kimi.yaml", "specs/llama.yaml", "specs/new.yaml"]
    heads = [line for line in done.comment.splitlines() if line.startswith("## ")]
    assert re.match(
        r"## specs/k25\.yaml at \w{12} → specs/kimi\.yaml at \w{12}: 1 limit kept; 14 quantities changed", heads[0]
    )
    assert re.match(r"## specs/llama\.yaml at \w{12} \(removed\): ", heads[1])
    assert re.match(r"## specs/new\.yaml at \w{12} \(new\): ", heads[2])


def test_patterns_choose_the_specs(repository: Repository) -> None:
    repository.commit({"models/a/b.yaml": LLAMA, "specs/k25.yaml": MORE_EXPERTS})
    done = repository.act(base="HEAD~1", specs="models/**/*.yaml\n")
    assert json.loads(done.outputs["specs"]) == ["models/a/b.yaml"]


# ------------------------------------------------------------------------------------------------- events


def test_a_pull_request_is_compared_with_where_it_branched_off(repository: Repository) -> None:
    repository.git("checkout", "--quiet", "-b", "topic")
    repository.commit({"specs/k25.yaml": MORE_EXPERTS})
    repository.git("checkout", "--quiet", "main")
    base = repository.commit({"specs/llama.yaml": LLAMA.replace("vocab_size: 128256", "vocab_size: 1000")})
    repository.git("checkout", "--quiet", "topic")
    done = repository.act({"pull_request": {"base": {"sha": base}}})
    assert json.loads(done.outputs["specs"]) == ["specs/k25.yaml"]  # what main changed since is not the topic's


def test_a_push_is_compared_with_what_was_there_before(repository: Repository) -> None:
    before = repository.git("rev-parse", "HEAD")
    repository.commit({"specs/k25.yaml": MORE_EXPERTS})
    assert json.loads(repository.act({"before": before}).outputs["specs"]) == ["specs/k25.yaml"]
    done = repository.act({"before": ZEROS})
    assert json.loads(done.outputs["specs"]) == ["specs/k25.yaml", "specs/llama.yaml"]
    assert done.code == 0


def test_the_head_need_not_be_checked_out_whatever_it_is_called(repository: Repository) -> None:
    branch = "$(touch${IFS}pwned)|`touch${IFS}pwned`;<script>"
    repository.git("checkout", "--quiet", "-b", branch)
    repository.commit({"specs/k25.yaml": MORE_EXPERTS})
    repository.git("checkout", "--quiet", "main")
    done = repository.act_as_a_job(base="main", head=branch)
    assert "n\\_routed\\_experts" in done.comment
    assert not (repository.folder / "pwned").exists()


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "no base to compare with"),
        ({"base": "nowhere"}, "git knows no revision nowhere"),
        ({"base": "f" * 40}, "fetch-depth: 0"),
        ({"base": "HEAD", "head": "nowhere"}, "git knows no revision nowhere"),
        ({"base": "HEAD", "head": "--output=pwned"}, "git knows no revision --output=pwned"),
    ],
)
def test_a_base_or_head_that_is_not_there_exits_2(repository: Repository, inputs: dict[str, str], message: str) -> None:
    done = repository.act(**inputs)
    assert done.code == 2
    (error,) = done.annotations
    assert error.startswith("::error title=archcalc diff::")
    assert message in error
    assert done.comment == ""
    assert not (repository.folder / "pwned").exists()


def test_a_wrong_limit_exits_2(repository: Repository) -> None:
    repository.commit({"specs/k25.yaml": MORE_EXPERTS})
    done = repository.act(base="HEAD~1", limits="params.totl:+1%")
    assert done.code == 2
    assert "did you mean params.total?" in done.annotations[0]


# ----------------------------------------------------------------------------------------- broken specs


def test_an_invalid_spec_exits_2_and_the_others_are_still_compared(repository: Repository) -> None:
    repository.commit(
        {"specs/k25.yaml": K25.replace("kv_lora_rank: 512", "kv_lora_rank: 0"), "specs/llama.yaml": LLAMA + "#\n"}
    )
    done = repository.act(base="HEAD~1")
    assert done.code == 2
    assert [line.partition(",")[0] for line in done.annotations] == ["::error file=specs/k25.yaml"]
    assert "kv_lora_rank must be greater than 0" in done.comment
    assert re.search(r"## specs/llama\.yaml at \w+ → specs/llama\.yaml at \w+: nothing changed", done.comment)


def test_a_spec_that_is_repaired_passes_with_a_warning(repository: Repository) -> None:
    repository.commit({"specs/k25.yaml": K25.replace("kv_lora_rank: 512", "kv_lora_rank: 0")})
    repository.commit({"specs/k25.yaml": K25})
    done = repository.act(base="HEAD~1", limits="params.total:+1%")
    assert done.code == 0
    assert [line.split()[0] for line in done.annotations] == ["::warning", "::notice"]
    assert "no limit was checked" in done.comment


def test_the_comment_of_many_specs_is_short_enough() -> None:
    def of(n: int, size: int) -> Outcome:
        change = Change(old=None, new=f"specs/{n}-{'x' * 150}.yaml")
        return Outcome(change=change, section=f"## {n}\n{'y' * size}\n", printed="", code=0)

    for size, count in ((100, 3), (25_000, 10), (25_000, 900), (70_000, 2)):
        told = joined([of(n, size) for n in range(count)], "", COMMENT)
        assert len(told) <= COMMENT
        more = re.search(r"^\[(\d+) more specs\]$", told, re.MULTILINE)
        assert len(re.findall(r"^## ", told, re.MULTILINE)) + (int(more[1]) if more else 0) == count
        assert (more is not None) == (count == 900)


# ---------------------------------------------------------------------------------- what a fork may send


def test_hostile_branch_and_spec_names_run_nothing(repository: Repository) -> None:
    quoted = json.dumps("</details><script>x</script>\n::error::a\x1b[31m @octocat ##[error]b")
    names = [
        "specs/$(touch pwned).yaml",
        "specs/`touch pwned`;touch pwned;.yaml",
        "specs/a\n::error::b\n::set-output name=c::d.yaml",
        "specs/--output=pwned.yaml",
        "specs/<script>|x|.yaml",
        "specs/:(top)a:b.yaml",
    ]
    branch = "$(touch${IFS}pwned)|`touch${IFS}pwned`;<script>"
    repository.git("checkout", "--quiet", "-b", branch)
    repository.commit(dict.fromkeys(names, K25))
    hostile = MORE_EXPERTS.replace("title: Kimi K2.5", f"title: {quoted}").replace("name: k25", f"name: {quoted}")
    repository.commit(dict.fromkeys(names, hostile))
    repository.git("checkout", "--quiet", "main")
    done = repository.act(base=f"{branch}~1", head=branch, limits="params.total:+1%")
    assert done.code == 1
    assert sorted(json.loads(done.outputs["specs"])) == sorted(names)
    assert set(done.outputs) == {"changed", "specs", "passed", "comment"}
    assert not list(repository.folder.rglob("pwned*"))
    # One error and two notices for each spec, all of them ours, all on their own line of the file.
    assert len(done.annotations) == len(done.out.splitlines())
    for line in done.annotations:
        assert re.match(rf"::(error|notice) file=specs/[^:,]*,line=({LINE}),title=[^:,]*::", line), line
    for page in (done.comment, done.summary):
        assert "<script" not in page
        assert "##[" not in page
        assert "@octocat" not in page
        assert not [line for line in page.splitlines() if line.startswith("::")]
        assert page.count("<details>") == page.count("</details>")
    assert "\x1b" not in done.out + done.err + done.comment + done.summary


def test_code_in_the_checkout_is_not_run(repository: Repository) -> None:
    evil = "from pathlib import Path\nPath('pwned').touch()\n"
    modules = (
        "sitecustomize",
        "usercustomize",
        "yaml",
        "json",
        "archcalc/__init__",
        "archcalc/cli",
        "pydantic",
        "typer",
    )
    repository.commit({f"{name}.py": evil for name in modules} | {"specs/k25.yaml": MORE_EXPERTS})
    repository.commit({".gitattributes": "*.yaml diff=evil\n", "specs/k25.yaml": K25})
    done = repository.act_as_a_job(base="HEAD~1")
    assert (done.code, done.err) == (0, "")
    assert not (repository.folder / "pwned").exists()


def test_a_link_out_of_the_repository_is_not_followed(repository: Repository, tmp_path: Path) -> None:
    (tmp_path / "secret.yaml").write_text("password: sesame\n")
    (repository.folder / "specs" / "link.yaml").symlink_to(tmp_path / "secret.yaml")
    repository.commit({})
    done = repository.act(base="HEAD~1")
    assert done.code == 2
    assert "sesame" not in done.out + done.err + done.comment + done.summary


# ------------------------------------------------------------------------------------- this repository


def test_this_repositorys_own_last_commits_are_compared(tmp_path: Path) -> None:
    """HEAD~1..HEAD; in a clone of depth 1 all of HEAD; without git, the specs as a first commit."""
    runner = tmp_path / "runner"
    own = Repository(ROOT, runner)
    if not (ROOT / ".git").exists():
        own.folder = tmp_path / "unpacked"
        shutil.copytree(ROOT / "specs", own.folder / "specs")
        own.git("init", "--quiet")
        own.commit({})
    parents = own.git("rev-list", "--parents", "-1", "HEAD").split()[1:]
    done = own.act(base="HEAD~1" if parents else ZEROS)
    assert done.code == 0, done.out + done.err
    assert done.outputs["passed"] == "true"
    specs = json.loads(done.outputs["specs"])
    assert len(re.findall(r"^## specs/", done.comment, re.MULTILINE)) == len(specs)
    assert ("No spec changed" in done.comment) == (not specs)


def test_every_bundled_spec_passes_as_new(tmp_path: Path) -> None:
    own = Repository(tmp_path / "copy", tmp_path / "runner")
    shutil.copytree(ROOT / "specs", own.folder / "specs")
    own.git("init", "--quiet")
    own.commit({})
    done = own.act(base=ZEROS)
    assert done.code == 0, done.out + done.err
    assert len(json.loads(done.outputs["specs"])) == len(list((ROOT / "specs").glob("*.yaml")))


# ------------------------------------------------------------------------------------------ the manifests


def test_no_run_text_of_the_action_holds_an_expression() -> None:
    texts = [step["run"] for step in STEPS if "run" in step]
    assert texts
    assert not [text for text in texts if "${{" in text]


def test_every_input_reaches_the_step_or_another_action() -> None:
    used = set(re.findall(r"inputs\.([a-z-]+)", yaml.safe_dump(STEPS)))
    assert used == set(ACTION["inputs"])


def test_the_action_asks_for_no_token_and_pins_what_it_uses() -> None:
    text = (ROOT / "action.yml").read_text()
    assert "github.token" not in text
    assert "secrets." not in text
    assert "actions/checkout" not in text
    uses = [step["uses"] for step in STEPS if "uses" in step]
    assert all(re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", name) for name in uses)


def test_every_output_is_written_by_the_step(repository: Repository) -> None:
    named = {
        re.fullmatch(r"\$\{\{ steps\.diff\.outputs\.(\w+) \}\}", out["value"]) for out in ACTION["outputs"].values()
    }
    written = repository.act(base="HEAD").outputs
    assert {match[1] for match in named if match} == set(ACTION["outputs"]) == set(written)


def test_python_takes_no_module_from_the_checkout() -> None:
    calls = [line for step in STEPS for line in step.get("run", "").splitlines() if "python" in line]
    assert len(calls) == 3
    assert all(re.search(r'python"? -I ', line) for line in calls)


def test_the_hooks_run_commands_that_exist_on_the_specs() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    assert {hook["id"] for hook in hooks} == {"archcalc-validate", "archcalc-report"}
    for hook in hooks:
        program, command, *_ = hook["entry"].split()
        assert program == "archcalc"
        assert command in COMMANDS
        assert hook["language"] == "python"
        assert re.search(hook["files"], "specs/k25.yaml")
        others = ("specs/plans/k2-pretrain.yaml", "specs/hardware/h200.yaml", "reports/books.yaml", "budgets.yaml")
        validated = hook["id"] == "archcalc-validate"  # the other is about specs alone
        assert [bool(re.search(hook["files"], name)) for name in others] == [validated] * len(others)
        assert not re.search(hook["files"], "docker/compose.yaml")
