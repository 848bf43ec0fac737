"""What the action tells: sections of the comment and of the job summary, annotations, and the step's outputs.

Titles, names, paths and errors come from the change. None of it begins a line that the runner would take for a command,
and none can end an output and begin another.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from secrets import token_hex

from action.changed import Change
from archcalc.errors import harmless
from archcalc.render.folded import LIMIT, safe
from archcalc.render.github import Annotation

SUMMARY_BYTES = 900_000
"""GitHub takes 1 MiB for the summary of a step."""
MARKER = "<!-- archcalc diff -->"
"""First line of the comment: whoever posts it finds the older one by it."""

_OURS = re.compile(r"::(error|warning|notice) ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of one spec: its section of the comment, what to print, and the exit code."""

    change: Change
    section: str
    printed: str
    code: int

    def with_remark(self, remark: Annotation, code: int = 0) -> Outcome:
        """The same with a remark below its section, among what is printed first, and in the exit code."""
        text = remark.message.replace("\n", "; ")
        section = f"{self.section.rstrip()}\n\n> **{safe(remark.title)}** {safe_all(text)}\n"
        return replace(self, section=section, printed=f"{remark}\n{self.printed}", code=max(self.code, code))


def safe_all(text: str) -> str:
    """A text of our own around names of others, which is longer than one of them may be."""
    return " ".join(safe(text[n : n + 150]) for n in range(0, min(len(text), 1500), 150))


def failed(change: Change, title: str, word: str, code: int, errors: str) -> Outcome:
    """What could not be answered, with the errors that were printed."""
    error = Annotation("error", title, errors.strip(), change.path, 1)
    shown = [escape(harmless(line)) for line in errors.splitlines()[:20] if line.strip()]
    quoted = "\n".join(map(_no_command, shown))[:4000]
    section = f"## {safe(change.path)}: {word}\n\n<pre>{quoted}</pre>\n"
    return Outcome(change=change, section=section, printed=f"{error}\n", code=3 if code == 3 else 2)


def _no_command(line: str) -> str:
    """A line of HTML that shows the same and is no workflow command, wherever it is printed."""
    return re.sub(r"^(\s*)(:(?=:)|#(?=#\[))", lambda match: f"{match[1]}&#{ord(match[2])};", line)


def only_ours(printed: str) -> str:
    """The annotations among what a command printed: nothing else of it is ours to print."""
    return "".join(f"{line}\n" for line in printed.splitlines() if _OURS.match(line))


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


def write(
    outcomes: Sequence[Outcome], budgets: Sequence[Outcome], empty: str, comment: Path, env: Mapping[str, str]
) -> None:
    """The comment, the job summary, and the outputs; budgets come first."""
    told = [*budgets, *outcomes]
    comment.parent.mkdir(parents=True, exist_ok=True)
    comment.write_text(joined(told, empty, LIMIT), encoding="utf-8")
    if env.get("GITHUB_STEP_SUMMARY"):
        with open(env["GITHUB_STEP_SUMMARY"], "a", encoding="utf-8") as file:
            file.write(joined(told, empty, SUMMARY_BYTES // 4))  # a character takes up to 4 bytes
    put(
        env,
        changed=json.dumps(bool(outcomes)),
        specs=json.dumps(list(dict.fromkeys(done.change.path for done in outcomes))),
        passed=json.dumps(all(done.code == 0 for done in told)),
        comment=str(comment),
    )


def put(env: Mapping[str, str], **outputs: str) -> None:
    """Outputs of the step, each between delimiters that nobody knew before (docs.github.com, "Workflow commands for
    GitHub Actions", multiline strings)."""
    if env.get("GITHUB_OUTPUT"):
        with open(env["GITHUB_OUTPUT"], "a", encoding="utf-8") as file:
            for name, value in outputs.items():
                end = f"end-{token_hex(16)}"
                file.write(f"{name}<<{end}\n{value}\n{end}\n")
