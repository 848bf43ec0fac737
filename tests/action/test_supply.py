"""What the action and the workflow of this repository fetch and run: pinned, hashed, and of one mind about versions."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.action.repository import STEPS
from tests.support import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
JOBS: dict[str, Any] = WORKFLOW["jobs"]
PYTHONS = [line[-4:] for line in PROJECT["project"]["classifiers"] if re.search(r":: 3\.\d+$", line)]
SYSTEMS = ("linux", "darwin", "win32")


def pinned(path: Path) -> dict[str, str]:
    """Versions by name, of lines NAME==VERSION with whatever follows."""
    found = re.findall(r"^([\w.-]+)==([^\s;\\]+)", path.read_text(), re.MULTILINE)
    return {canonicalize_name(name): version for name, version in found}


HASHED = pinned(ROOT / "action" / "requirements.txt")


def needed() -> set[str]:
    """Every distribution that archcalc needs to run and to be built, on any system and Python that it is made for."""
    waiting = [
        Requirement(line) for line in [*PROJECT["project"]["dependencies"], *PROJECT["build-system"]["requires"]]
    ]
    found: set[str] = set()
    while waiting:
        name = canonicalize_name(waiting.pop().name)
        if name not in found:
            found.add(name)
            if name == "colorama":  # of Windows alone, and not installed here; it needs nothing
                continue
            waiting += [one for one in map(Requirement, requires(name) or ()) if applies(one)]
    return found


def applies(requirement: Requirement) -> bool:
    """Whether it is needed anywhere without an extra."""
    wheres = [
        {"sys_platform": system, "python_version": python, "python_full_version": f"{python}.0", "extra": "",
         "platform_system": {"linux": "Linux", "darwin": "Darwin", "win32": "Windows"}[system]}
        for system in SYSTEMS for python in PYTHONS
    ]  # fmt: skip
    return requirement.marker is None or any(requirement.marker.evaluate(where) for where in wheres)


def test_what_the_action_installs_is_what_archcalc_needs_and_no_more() -> None:
    assert set(HASHED) == needed()


def test_each_of_it_has_hashes_and_the_version_that_ci_tests() -> None:
    text = (ROOT / "action" / "requirements.txt").read_text()
    entries = re.split(r"^(?=[A-Za-z])", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE), flags=re.MULTILINE)[1:]
    assert len(entries) == len(HASHED)
    assert not [entry for entry in entries if not re.search(r"--hash=sha256:[0-9a-f]{64}\b", entry)]
    assert "://" not in text
    assert "--index" not in text
    constraints = pinned(ROOT / "constraints.txt")
    assert {name: constraints[name] for name in HASHED} == HASHED


def test_the_action_fetches_nothing_without_a_hash() -> None:
    (step,) = [step["run"] for step in STEPS if step.get("name") == "Install archcalc"]
    installs = step.replace("\\\n", " ").split("pip install")[1:]
    assert len(installs) == 2
    assert "--require-hashes --only-binary :all: --requirement" in installs[0]
    assert "--no-index --no-deps --no-build-isolation" in installs[1]


@pytest.mark.parametrize(
    ("schema", "path"),
    [("vendor.github-workflows", ".github/workflows/ci.yml"), ("vendor.github-actions", "action.yml")],
)
def test_github_can_read_the_workflow_and_the_action(schema: str, path: str) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_workflow_names_each_python_of_the_project_and_no_other() -> None:
    lowest = PROJECT["project"]["requires-python"].removeprefix(">=")
    assert PYTHONS[0] == lowest == PROJECT["tool"]["mypy"]["python_version"]
    assert PROJECT["tool"]["ruff"]["target-version"] == f"py{lowest.replace('.', '')}"
    makefile = (ROOT / "Makefile").read_text()
    assert re.findall(r"python(3\.\d+)\b", makefile.partition("or $(PYTHON),")[2].partition(")")[0]) == PYTHONS
    for job in JOBS.values():
        assert job["strategy"]["matrix"]["python"] == PYTHONS


def test_the_workflow_may_read_and_no_more() -> None:
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert WORKFLOW["concurrency"]
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    assert "secrets." not in text
    assert "pull_request_target" not in text
    uses = re.findall(r"uses: (.*)", text)
    assert uses
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line) for line in uses)
    for job in JOBS.values():
        assert "permissions" not in job
        assert 0 < job["timeout-minutes"] <= 60
        (checkout,) = [step for step in job["steps"] if "actions/checkout" in step.get("uses", "")]
        assert checkout["with"]["persist-credentials"] is False
        runs = [step["run"] for step in job["steps"] if "run" in step]
        assert not [run for run in runs if "${{" in run]


def test_the_tests_of_the_base_install_need_no_extra() -> None:
    runs = " ".join(step.get("run", "") for step in JOBS["base"]["steps"])
    named = re.findall(r"tests/[\w/.]+", runs)
    assert len(named) >= 5
    files = [
        file for name in named for file in ([ROOT / name] if name.endswith(".py") else (ROOT / name).rglob("*.py"))
    ]
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                modules = (
                    [node.module or ""] if isinstance(node, ast.ImportFrom) else [name.name for name in node.names]
                )
                heavy = {"torch", "transformers", "matplotlib", "numpy"}
                assert not {module.partition(".")[0] for module in modules} & heavy, file
                assert not [module for module in modules if module.startswith("archcalc.reference")], file
