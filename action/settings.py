"""What the action was asked for, out of the environment that action.yml sets from its inputs."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from action.changed import Rules
from action.git import Failure, empty_tree, git, word
from archcalc.files.loader import bundled_names

ZEROS = {"0"}
"""The characters of the commit that a push names which starts a branch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the action was asked for.

    Attributes:
        base: a revision, or empty: then the event tells.
        head: a revision.
        limits: as `--fail-on` takes them.
        specs: patterns of paths from the top of the repository.
        question: flags of `archcalc diff` that say what is compared beside the standard workload.
        budgets: path of a file of budgets from the top of the repository, or empty.
        fail_on_change: whether any change fails.
        rules: what passes without numbers.
        comment: file for the text of a comment.
    """

    base: str
    head: str
    limits: tuple[str, ...]
    specs: tuple[str, ...]
    question: tuple[str, ...]
    budgets: str
    fail_on_change: bool
    rules: Rules
    comment: Path

    @classmethod
    def read(cls, env: Mapping[str, str]) -> Settings:
        """The settings of an environment. Raises Failure."""
        folder = Path(env.get("RUNNER_TEMP") or tempfile.gettempdir()) / "archcalc"
        limits, strict = lines(env.get("ARCHCALC_LIMITS", "")), yes(env, "fail-on-change")
        new, removed = yes(env, "allow-new"), yes(env, "allow-removed")
        return cls(
            base=env.get("ARCHCALC_BASE", "").strip() or base_of_event(env),
            head=env.get("ARCHCALC_HEAD", "").strip() or "HEAD",
            limits=limits,
            specs=lines(env.get("ARCHCALC_SPECS", "")) or ("specs/*.yaml",),
            question=tuple(flags(env)),
            budgets=env.get("ARCHCALC_BUDGETS", "").strip(),
            fail_on_change=strict,
            rules=Rules(gated=bool(limits) or strict, allow_new=new, allow_removed=removed),
            comment=Path(env.get("ARCHCALC_COMMENT") or folder / "comment.md"),
        )


def lines(text: str) -> tuple[str, ...]:
    """Lines with something on them; `#` begins a comment line."""
    found = (line.strip() for line in text.splitlines())
    return tuple(line for line in found if line and not line.startswith("#"))


def yes(env: Mapping[str, str], name: str) -> bool:
    """An input that is true or false; empty is false. Raises Failure for anything else: a typo must open no gate and
    close none."""
    given = env.get(f"ARCHCALC_{name.upper().replace('-', '_')}", "").strip().lower()
    if given not in ("", "true", "false"):
        raise Failure(f"{name}: {given} is neither true nor false", "write true or false")
    return given == "true"


def flags(env: Mapping[str, str]) -> Iterator[str]:
    """What is compared beside the standard workload. Raises Failure for a plan or GPU that is not bundled: a file of
    the checkout may be a stranger's link to anywhere."""
    for flag in ("gpu", "gpus", "plan", "seq", "image", "context"):
        for value in lines(env.get(f"ARCHCALC_{flag.upper()}", "")):
            folder = {"gpu": "hardware", "plan": "plans"}.get(flag)
            if folder is not None and value not in bundled_names(folder):
                raise Failure(
                    f"{flag}: no bundled file is named {value}", f"bundled: {', '.join(bundled_names(folder))}"
                )
            yield f"--{flag}={value}"


def base_of_event(env: Mapping[str, str]) -> str:
    """The commit that a pull request, a merge group or a push starts from; of a push that starts a branch the default
    branch, where the clone has it. Raises Failure if the event has none."""
    try:
        event = json.loads(Path(env["GITHUB_EVENT_PATH"]).read_text(encoding="utf-8"))
    except (KeyError, OSError, ValueError):
        event = {}
    for path in (("pull_request", "base", "sha"), ("merge_group", "base_sha"), ("before",)):
        value = inside(event, *path)
        if value:
            return (set(value) == ZEROS and default_branch(event)) or value
    raise Failure("no base to compare with", "set the input `base`; this event names none")


def default_branch(event: Any) -> str:
    """The default branch as the clone has it; empty where it has not."""
    name = f"refs/remotes/origin/{inside(event, 'repository', 'default_branch')}^{{commit}}"
    try:
        return word("rev-parse", "--verify", "--quiet", "--end-of-options", name, failed="no such branch")
    except Failure:
        return ""


def inside(event: Any, *keys: str) -> str:
    """The text at a path of an event; empty where there is none."""
    for key in keys:
        event = event.get(key) if isinstance(event, dict) else None
    return event if isinstance(event, str) else ""


def resolved(settings: Settings) -> tuple[str, str]:
    """Object ids of what was and what is. What was is where the branches parted, so that others' work is left out.

    A base of zeros (the first push of a branch) or a tree is compared as it is. Raises Failure.
    """
    deep = "a shallow clone lacks it: check out with fetch-depth: 0"
    failed = f"git knows no revision {settings.head}"
    head = word("rev-parse", "--verify", "--end-of-options", f"{settings.head}^{{commit}}", failed=failed, hint=deep)
    if set(settings.base) == ZEROS:
        return empty_tree(), head
    failed = f"git knows no revision {settings.base}"
    base = word("rev-parse", "--verify", "--end-of-options", settings.base, failed=failed, hint=deep)
    if word("cat-file", "-t", base, failed=failed, hint=deep) == "tree":
        return base, head
    apart = git("merge-base", "--all", base, head, failed="base and head have no common commit", hint=deep)
    first, *others = os.fsdecode(apart).split()
    if others and settings.rules.gated:
        raise Failure(
            f"base and head parted at {len(others) + 1} commits, none of them before another",
            "merge base into head, so that one is left",
        )
    return first, head
