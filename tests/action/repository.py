"""A temporary repository and the action's step in it, in this process or as a job runs it."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import yaml

import action.run
from tests.support import ROOT, run

ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
STEPS = ACTION["runs"]["steps"]
ZEROS = "0" * 40  # what a push event gives as `before` for a new branch


class Done(NamedTuple):
    """What a run of the step left behind."""

    code: int
    out: str
    err: str
    summary: str
    comment: str
    outputs: dict[str, str]

    @property
    def annotations(self) -> list[str]:
        return [line for line in self.out.splitlines() if line.startswith("::")]

    @property
    def errors(self) -> list[str]:
        return [line for line in self.annotations if line.startswith("::error ")]


class Repository:
    """A repository, and the action's step run in it."""

    def __init__(self, folder: Path, runner: Path) -> None:
        self.folder = folder
        self.runner = runner
        runner.mkdir(parents=True)
        python = runner / "archcalc-venv" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        python.chmod(0o755)

    def git(self, *arguments: str, given: str | None = None) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@example.invalid", "-c", "commit.gpgsign=false")
        env = clean() | {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
        done = subprocess.run(
            ["git", *who, *arguments], cwd=self.folder, env=env, input=given, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    def commit(self, files: Mapping[str, str | None]) -> str:
        """Write files (None: remove one), commit them, and give the commit's id."""
        for name, text in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink() if text is None else path.write_text(text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "-m", "change")
        return self.git("rev-parse", "HEAD")

    def act(self, event: Any = None, **inputs: str) -> Done:
        """Run the step in this process, its commands too, with the defaults of action.yml for what is not given."""
        env = self._job(event, inputs)
        out, err = io.StringIO(), io.StringIO()
        with (
            patch.dict(os.environ, clean() | env, clear=True),
            patch.object(action.run.Runner, "process", staticmethod(here)),
            chdir(self.folder),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            code = action.run.main()
        return self._done(code, out.getvalue(), err.getvalue())

    def act_as_a_job(self, event: Any = None, **inputs: str) -> Done:
        """Run the text of the step `Compare specs` in a shell, as a runner does."""
        env = self._job(event, inputs)
        (step,) = [step for step in STEPS if step.get("id") == "diff"]
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
            cwd=self.folder,
            env=clean() | env,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        return self._done(done.returncode, done.stdout, done.stderr)

    def _job(self, event: Any, given: Mapping[str, str]) -> dict[str, str]:
        """The variables of a job; fail_on_change stands for fail-on-change."""
        (step,) = [step for step in STEPS if step.get("id") == "diff"]
        inputs = {name.replace("_", "-"): value for name, value in given.items()}
        values = {name: str(about.get("default", "")) for name, about in ACTION["inputs"].items()} | inputs
        files = {name: self.runner / name for name in ("summary.md", "output", "event.json")}
        for path in files.values():
            path.write_text("")
        files["event.json"].write_text(json.dumps(event or {}))
        (self.runner / "archcalc" / "comment.md").unlink(missing_ok=True)
        return {key: filled(text, values) for key, text in step["env"].items()} | {
            "GITHUB_ACTIONS": "true",
            "GITHUB_ACTION_PATH": str(ROOT),
            "GITHUB_EVENT_PATH": str(files["event.json"]),
            "GITHUB_OUTPUT": str(files["output"]),
            "GITHUB_STEP_SUMMARY": str(files["summary.md"]),
            "GITHUB_WORKSPACE": str(self.folder),
            "RUNNER_TEMP": str(self.runner),
        }

    def _done(self, code: int, out: str, err: str) -> Done:
        comment = self.runner / "archcalc" / "comment.md"
        return Done(
            code,
            out,
            err,
            (self.runner / "summary.md").read_text(),
            comment.read_text() if comment.exists() else "",
            outputs_of((self.runner / "output").read_text()),
        )


def here(arguments: Sequence[str], env: Mapping[str, str], seconds: float) -> tuple[int, str, str]:
    """A command of archcalc in this process."""
    ran = run(*arguments, env=dict(env))
    return ran.code, ran.out, ran.err


def outputs_of(text: str) -> dict[str, str]:
    """The outputs of a step as the runner reads them: NAME<<END, lines, END."""
    found: dict[str, str] = {}
    lines = iter(text.splitlines())
    for line in lines:
        name, _, end = line.partition("<<")
        found[name] = "\n".join(iter(lambda end=end: next(lines), end))  # type: ignore[misc]
    return found


def clean() -> dict[str, str]:
    """This process's environment without what a job or a git hook around it has set."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("GITHUB_", "ARCHCALC_", "RUNNER_", "GIT_"))}


def filled(text: str, values: dict[str, str]) -> str:
    """An expression of action.yml with the inputs' values in it."""
    return re.sub(r"\$\{\{ inputs\.([a-z-]+) \}\}", lambda match: values[match[1]], text)
