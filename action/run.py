"""The action's one step of its own: diffs the specs that differ between two commits, and checks a file of budgets.

Reads the environment (action.yml sets it from the inputs), never a shell, and reads files only out of git's
objects: the checkout may be of another commit, and a link in it may lead anywhere. Writes the job summary, the
text of a comment and the step's outputs; prints annotations. Exit codes are those of archcalc: 0 nothing
against it, 1 a limit is exceeded (or something changed, if that was asked for), 2 something can't be compared,
3 a bug of ours.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # -I leaves it out; ours goes last

from action.budgets import rewritten
from action.changed import Change, changes, idle
from action.git import Failure
from action.settings import Settings, resolved
from action.told import Outcome, failed, only_ours, put, write
from archcalc.errors import harmless
from archcalc.render.github import Annotation

NOTHING = "/dev/null"
SECONDS_EACH = 60
"""For one comparison, or for the budgets."""
SECONDS_ALL = 900
"""For all of them: what is left then is told as not compared, and fails."""
LATE = 124
"""Exit code of a command that was stopped, as of timeout(1)."""
ARCHCALC = (sys.executable, "-I", "-X", "utf8", "-c", "from archcalc.cli import main; raise SystemExit(main())")


class Runner:
    """Runs commands of archcalc, each a process of its own, within the time that is left."""

    def __init__(self) -> None:
        self.end = time.monotonic() + SECONDS_ALL

    def __call__(self, command: str, files: Sequence[str], more: Sequence[str]) -> tuple[int, str, str, str]:
        """A command's exit code, the Markdown for the summary, its annotations, its errors."""
        seconds = min(SECONDS_EACH, self.end - time.monotonic())
        each, all_in = f"this took more than {SECONDS_EACH} s", f"the action has {SECONDS_ALL} s in all"
        with tempfile.TemporaryDirectory() as folder:
            summary = Path(folder) / "summary.md"
            arguments = [command, "--format", "github", *more, "--", *files]
            try:
                code, out, err = self.process(arguments, {"GITHUB_STEP_SUMMARY": str(summary)}, max(seconds, 0))
            except subprocess.TimeoutExpired:
                return LATE, "", "", f"error: {each if seconds == SECONDS_EACH else all_in}"
            text = summary.read_text(encoding="utf-8") if summary.exists() else ""
        return code, text, only_ours(out), err

    @staticmethod
    def process(arguments: Sequence[str], env: Mapping[str, str], seconds: float) -> tuple[int, str, str]:
        """The exit code and both streams of one command. Raises subprocess.TimeoutExpired."""
        done = subprocess.run(
            [*ARCHCALC, *arguments],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **env},
            timeout=seconds,
            check=False,
        )
        out, err = (stream.decode("utf-8", "replace") for stream in (done.stdout, done.stderr))
        return done.returncode, out, err


def outcome(change: Change, base: str, head: str, settings: Settings, run: Runner) -> Outcome:
    """One spec, compared, and what is wrong with how it changed."""
    if not change.readable:
        done = Outcome(change=change, section=f"## {harmless(change.path)}: not compared\n", printed="", code=0)
        if not change.fault:
            return done
    else:
        done = compared(change, base, head, settings, run)
    if not change.fault:
        return done
    title = "can't compare this spec" if change.code == 2 else "not held against a limit"
    fault = Annotation("error", title, f"{change.path}: {change.fault}\nhint: {change.hint}", change.path, 1)
    return done.with_remark(fault, change.code)


def compared(change: Change, base: str, head: str, settings: Settings, run: Runner) -> Outcome:
    """One spec, compared. A base that can't be read any more does not stand in the way of a head that can."""
    old = NOTHING if change.old is None else f"git:{base}:{change.old}"
    new = NOTHING if change.new is None else f"git:{head}:{change.new}"
    both = NOTHING not in (old, new)
    more = [word for limit in settings.limits for word in ("--fail-on", limit)] if both else []
    strict = [*settings.question, *(["--exit-code"] if settings.fail_on_change else [])]
    code, section, printed, errors = run("diff", [old, new], [*more, *strict])
    if both and code == 2 and run("diff", [old, NOTHING], [])[0] == 2:
        code, section, printed, _ = run("diff", [NOTHING, new], strict)
        text = f"{change.old} can't be read as it was before, so no limit was checked; it is shown as new"
        warning = Annotation("warning", "no comparison", f"{text}\n{errors.strip()}", change.path, 1)
        if code in (0, 1):
            done = Outcome(change=change, section=section, printed=printed, code=code)
            return done.with_remark(warning)
    if code in (0, 1):
        return Outcome(change=change, section=section, printed=printed, code=code)
    return failed(change, "can't compare this spec", "can't be compared", code, errors)


def checked(base: str, head: str, settings: Settings, run: Runner) -> list[Outcome]:
    """The file of budgets of the head, its specs read out of the same commit, and what became of its budgets since the
    base; nothing where none is named."""
    if not settings.budgets:
        return []
    change = Change(old=None, new=settings.budgets)
    more = ["--base", base, *(["--allow-new"] if settings.rules.allow_new else [])]
    code, section, printed, errors = run("check", [f"git:{head}:{settings.budgets}"], more)
    if code not in (0, 1):
        return [failed(change, "can't check these budgets", "can't be checked", code, errors)]
    done = Outcome(change=change, section=section, printed=printed, code=code)
    remark = rewritten(settings.budgets, base, head)
    return [done if remark is None else done.with_remark(remark)]


def act(settings: Settings) -> int:
    """Compare, tell, and give the exit code. Raises Failure."""
    run = Runner()
    base, head = resolved(settings)
    found = changes(base, head, settings.specs, settings.rules)
    outcomes = [outcome(change, base, head, settings, run) for change in found]
    budgets = checked(base, head, settings, run)
    for pattern in idle(base, head, settings.specs) if settings.rules.gated else ():
        message = f"{pattern} takes no file, before or after: limits hold nothing there"
        sys.stdout.write(f"{Annotation('warning', 'a pattern without specs', message)}\n")
    for done in (*budgets, *outcomes):
        sys.stdout.write(done.printed)
    write(outcomes, budgets, f"No spec changed between {base[:12]} and {head[:12]}.", settings.comment, os.environ)
    return max((done.code for done in (*budgets, *outcomes)), default=0)


def main() -> int:
    """Do it all; return the exit code."""
    try:
        return act(Settings.read(os.environ))
    except Failure as failure:
        code, text = 2, str(failure) + (f"\nhint: {failure.hint}" if failure.hint else "")
    except Exception:
        code, text = 3, f"a bug of archcalc's action\n{traceback.format_exc()}"
    sys.stdout.write(f"{Annotation('error', 'archcalc diff', text)}\n")
    put(os.environ, passed="false")
    return code


if __name__ == "__main__":
    sys.exit(main())
