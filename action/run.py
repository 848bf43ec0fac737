"""The action's one step of its own: diffs the specs that differ between two commits.

Reads the environment (action.yml sets it from the inputs), never a shell, and reads files only out of git's
objects: the checkout may be of another commit, and a link in it may lead anywhere. Writes the job summary, the
text of a comment and the step's outputs; prints annotations. Exit codes are those of archcalc: 0 nothing
against it, 1 a limit is exceeded (or something changed, if that was asked for), 2 something can't be compared.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from archcalc.errors import harmless
from archcalc.files.loader import bundled_names
from archcalc.render.folded import LIMIT, safe
from archcalc.render.github import Annotation

NOTHING = "/dev/null"
SUMMARY_BYTES = 900_000
"""GitHub takes 1 MiB for the summary of a step."""
MARKER = "<!-- archcalc diff -->"
"""First line of the comment: whoever posts it finds the older one by it."""
ARCHCALC = (sys.executable, "-I", "-X", "utf8", "-c", "from archcalc.cli import main; raise SystemExit(main())")


class Failure(Exception):
    """Something that keeps the whole action from answering; `hint` says what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the action was asked for.

    Attributes:
        base: a revision, or empty: then the event tells.
        head: a revision.
        limits: as `--fail-on` takes them.
        specs: patterns of paths from the top of the repository.
        question: flags of `archcalc diff` that say what is compared beside the standard workload.
        fail_on_change: whether any change fails.
        comment: file for the text of a comment.
    """

    base: str
    head: str
    limits: tuple[str, ...]
    specs: tuple[str, ...]
    question: tuple[str, ...]
    fail_on_change: bool
    comment: Path

    @classmethod
    def read(cls, env: Mapping[str, str]) -> Settings:
        """The settings of an environment."""
        folder = Path(env.get("RUNNER_TEMP") or tempfile.gettempdir()) / "archcalc"
        return cls(
            base=env.get("ARCHCALC_BASE", "").strip() or base_of_event(env),
            head=env.get("ARCHCALC_HEAD", "").strip() or "HEAD",
            limits=lines(env.get("ARCHCALC_LIMITS", "")),
            specs=lines(env.get("ARCHCALC_SPECS", "")) or ("specs/*.yaml",),
            question=tuple(flags(env)),
            fail_on_change=env.get("ARCHCALC_FAIL_ON_CHANGE", "").strip().lower() == "true",
            comment=Path(env.get("ARCHCALC_COMMENT") or folder / "comment.md"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A spec that differs: its path before and after, one of them None if it was added or removed."""

    old: str | None
    new: str | None

    @property
    def path(self) -> str:
        """The path to speak of."""
        return self.new or self.old or ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of one spec: its section of the comment, what to print, and the exit code."""

    change: Change
    section: str
    printed: str
    code: int


def lines(text: str) -> tuple[str, ...]:
    """Lines with something on them; `#` begins a comment line."""
    found = (line.strip() for line in text.splitlines())
    return tuple(line for line in found if line and not line.startswith("#"))


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
    """The commit that a pull request, a merge group or a push starts from. Raises Failure if the event has none."""
    try:
        event = json.loads(Path(env["GITHUB_EVENT_PATH"]).read_text(encoding="utf-8"))
    except (KeyError, OSError, ValueError):
        event = {}
    for path in (("pull_request", "base", "sha"), ("merge_group", "base_sha"), ("before",)):
        value = event
        for key in path:
            value = value.get(key, {}) if isinstance(value, dict) else {}
        if isinstance(value, str) and value:
            return value
    raise Failure("no base to compare with", "set the input `base`; this event names none")


def git(*arguments: str, failed: str, hint: str = "") -> str:
    """What a git command prints. Raises Failure."""
    quiet = {"GIT_NO_LAZY_FETCH": "1", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            ["git", "--no-pager", *arguments],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            env=os.environ | quiet,
            check=False,
        )
    except (OSError, ValueError) as error:
        raise Failure(failed, str(error)) from None
    if done.returncode:
        reason = os.fsdecode(done.stderr).strip().partition("\n")[0]
        raise Failure(f"{failed} ({reason})" if reason else failed, hint)
    return os.fsdecode(done.stdout)


def resolved(settings: Settings) -> tuple[str, str]:
    """Object ids of what was and what is. What was is where the branches parted, so that others' work is left out.

    A base of zeros (the first push of a branch) or a tree is compared as it is.
    """
    deep = "a shallow clone lacks it: check out with fetch-depth: 0"
    failed = f"git knows no revision {settings.head}"
    head = git("rev-parse", "--verify", "--end-of-options", f"{settings.head}^{{commit}}", failed=failed, hint=deep)
    head = head.strip()
    if set(settings.base) == {"0"}:
        return git("hash-object", "-t", "tree", "--stdin", failed="git has no empty tree").strip(), head
    failed = f"git knows no revision {settings.base}"
    base = git("rev-parse", "--verify", "--end-of-options", settings.base, failed=failed, hint=deep).strip()
    kind = git("cat-file", "-t", base, failed=failed, hint=deep).strip()
    if kind == "tree":
        return base, head
    return git("merge-base", base, head, failed="base and head have no common commit", hint=deep).strip(), head


def changes(base: str, head: str, patterns: Sequence[str]) -> Iterator[Change]:
    """The specs that differ, by path; a renamed one is one change."""
    specs = [pattern if pattern.startswith(":") else f":(top,glob){pattern}" for pattern in patterns]
    compare = ("diff", "--name-status", "--find-renames", "-z", "--no-ext-diff", "--no-textconv")
    text = git(*compare, base, head, "--", *specs, failed="git can't list what differs")
    words = iter(text.split("\0"))
    for status in words:
        if not status:
            continue
        first = next(words)
        if status[0] in "RC":
            yield Change(old=first, new=next(words))
        else:
            yield Change(old=None if status[0] == "A" else first, new=None if status[0] == "D" else first)


def run(old: str, new: str, more: Sequence[str]) -> tuple[int, str, str, str]:
    """`archcalc diff`: its exit code, the Markdown for the summary, its annotations, its errors."""
    with tempfile.TemporaryDirectory() as folder:
        summary = Path(folder) / "summary.md"
        done = subprocess.run(
            [*ARCHCALC, "diff", "--format", "github", *more, "--", old, new],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            env=os.environ | {"GITHUB_STEP_SUMMARY": str(summary)},
            check=False,
        )
        text = summary.read_text(encoding="utf-8") if summary.exists() else ""
    out, err = (stream.decode("utf-8", "replace") for stream in (done.stdout, done.stderr))
    return done.returncode, text, out, err


def outcome(change: Change, base: str, head: str, settings: Settings) -> Outcome:
    """One spec, compared. A base that can't be read any more does not stand in the way of a head that can."""
    old = NOTHING if change.old is None else f"git:{base}:{change.old}"
    new = NOTHING if change.new is None else f"git:{head}:{change.new}"
    both = NOTHING not in (old, new)
    more = [word for limit in settings.limits for word in ("--fail-on", limit)] if both else []
    strict = [*settings.question, *(["--exit-code"] if settings.fail_on_change else [])]
    code, section, printed, errors = run(old, new, [*more, *strict])
    if both and code == 2 and run(old, NOTHING, [])[0] == 2:
        code, section, printed, _ = run(NOTHING, new, strict)
        text = f"{change.old} can't be read as it was before, so no limit was checked; it is shown as new"
        section = f"{section}\n> {safe(text)}\n"
        warning = Annotation("warning", "no comparison", f"{text}\n{errors.strip()}", change.path, 1)
        printed += f"{warning}\n"
    if code in (0, 1):
        return Outcome(change=change, section=section, printed=printed, code=code)
    error = Annotation("error", "can't compare this spec", errors.strip(), change.path, 1)
    shown = escape("\n".join(harmless(line) for line in errors.splitlines()[:20] if line.strip()))
    section = f"## {safe(change.path)}: can't be compared\n\n<pre>{shown[:4000]}</pre>\n"
    return Outcome(change=change, section=section, printed=f"{error}\n", code=max(code, 2))


def joined(outcomes: Sequence[Outcome], empty: str, limit: int) -> str:
    """The sections one after the other, at most `limit` long; those that don't fit are named, or at least counted."""
    text = MARKER + "\n"
    if not outcomes:
        return text + empty + "\n"
    room = limit - 200
    for n, done in enumerate(outcomes):
        short = f"## {safe(done.change.path)}: exit code {done.code}, too long to show here\n"
        section = next((s for s in (done.section, short) if len(text) + len(s) < room), None)
        if section is None:
            return f"{text}\n[{len(outcomes) - n} more specs]\n"
        text += f"\n{section}"
    return text


def write(outcomes: Sequence[Outcome], empty: str, settings: Settings, env: Mapping[str, str]) -> None:
    """The comment, the job summary, and the outputs."""
    settings.comment.parent.mkdir(parents=True, exist_ok=True)
    settings.comment.write_text(joined(outcomes, empty, LIMIT), encoding="utf-8")
    if env.get("GITHUB_STEP_SUMMARY"):
        with open(env["GITHUB_STEP_SUMMARY"], "a", encoding="utf-8") as file:
            file.write(joined(outcomes, empty, SUMMARY_BYTES // 4))  # a character takes up to 4 bytes
    outputs = {
        "changed": json.dumps(bool(outcomes)),
        "specs": json.dumps([done.change.path for done in outcomes]),
        "passed": json.dumps(all(done.code == 0 for done in outcomes)),
        "comment": str(settings.comment),
    }
    if env.get("GITHUB_OUTPUT"):
        with open(env["GITHUB_OUTPUT"], "a", encoding="utf-8") as file:
            file.writelines(f"{name}={value}\n" for name, value in outputs.items())


def main() -> int:
    """Do it all; return the exit code."""
    try:
        settings = Settings.read(os.environ)
        base, head = resolved(settings)
        outcomes = [outcome(change, base, head, settings) for change in changes(base, head, settings.specs)]
    except Failure as failure:
        text = str(failure) + (f"\nhint: {failure.hint}" if failure.hint else "")
        sys.stdout.write(f"{Annotation('error', 'archcalc diff', text)}\n")
        return 2
    for done in outcomes:
        sys.stdout.write(done.printed)
    write(outcomes, f"No spec changed between {base[:12]} and {head[:12]}.", settings, os.environ)
    return max((done.code for done in outcomes), default=0)


if __name__ == "__main__":
    sys.exit(main())
