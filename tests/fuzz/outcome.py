"""What no run may do, whatever it was given: one function a rule, each of which can be seen to fail."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from tests.fuzz.process import Limits, Ran

Oracle = Callable[[Ran], Iterator[str]]

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
ANNOTATION = re.compile(r"::(error|warning|notice) ((file|line|title)=[^:,\n]+,?)*::")
"""A workflow command of ours: no property of it holds a colon or comma that is not an escape."""

COPIES = ("show", "import", "schema")
"""Commands whose answer is a file's text, which is printed as it is."""

WRITES = ("-o", "--output")


def faults(ran: Ran) -> list[str]:
    """Everything that is wrong with a run, the worst first."""
    return [f"{name}: {fault}" for name, oracle in ORACLES.items() for fault in oracle(ran)]


def exits(ran: Ran) -> Iterator[str]:
    """An answer, a verdict or a refusal: never a bug of ours."""
    if ran.code not in (0, 1, 2) and ran.code != -1:
        yield f"exit code {ran.code}"
    if "internal error:" in ran.err or "Traceback (most recent call last)" in ran.err + ran.out:
        yield ran.err[-300:]


def refusals(ran: Ran) -> Iterator[str]:
    """A command that can't answer says so in an error; one that answers says none."""
    tells = re.search(r"^(.*: )?error: .", ran.err, re.MULTILINE) is not None
    if ran.code == 2 and not tells:
        yield f"no error beside exit code 2: {ran.err[:200]!r}"
    if ran.code == 0 and re.search(r"^error: ", ran.err, re.MULTILINE):
        yield f"an error beside exit code 0: {ran.err[:200]!r}"
    if ran.code == 1 and not tells and "--exit-code" not in ran.case.arguments:
        yield f"no verdict beside exit code 1: {ran.err[:200]!r}"


def bounds(ran: Ran) -> Iterator[str]:
    """Within the limits of its command."""
    limits = Limits.of(ran.case)
    if ran.code == -1 or ran.seconds > limits.seconds:
        yield f"{ran.seconds:.1f} s of CPU time, and the limit is {limits.seconds:g}"
    if ran.peak > limits.peak:
        yield f"{ran.peak >> 20} MiB, and the limit is {limits.peak >> 20}"


def finite(ran: Ran) -> Iterator[str]:
    """JSON is JSON: no NaN, no Infinity, each key once."""
    texts = {name: raw.decode() for name, raw in _written(ran).items() if name.lower().endswith(".json")}
    if _format(ran) == "json" and not texts and ran.code in (0, 1) and ran.out:
        texts["stdout"] = ran.out
    for name, text in texts.items():
        try:
            json.loads(text, parse_constant=_refused, parse_float=_finite, object_pairs_hook=_once)
        except ValueError as error:
            if _format(ran) in (None, "json"):
                yield f"{name}: {error}"


def printable(ran: Ran) -> Iterator[str]:
    """Nothing that a terminal would obey: no control characters, no bidi."""
    for name, text in _human(ran):
        for number, line in enumerate(text.split("\n"), 1):
            shown = line.replace("\t", " ")
            if not shown.isprintable():
                yield f"{name}:{number}: {line[:120]!r}"
                break


def commands(ran: Ran) -> Iterator[str]:
    """No line that a runner would take for a workflow command but those that we mean."""
    for name, text in _human(ran):
        for number, line in enumerate(re.split(r"[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]", text), 1):
            start = line.lstrip()
            ours = _format(ran) == "github" and ANNOTATION.match(line)
            if start.startswith(("::", "##[")) and not ours:
                yield f"{name}:{number}: {line[:120]!r}"
                break


def leftovers(ran: Ran) -> Iterator[str]:
    """No file but those that were asked for, none of a command that could not answer, and no input changed."""
    asked = set(_outputs(ran))
    for name in ran.after:
        new, changed = name not in ran.before, ran.before.get(name) != ran.after[name]
        if name == "summary.md" and "GITHUB_STEP_SUMMARY" in ran.case.env:
            continue
        if new and name not in asked and (name.rpartition("/")[2].startswith(".") or name.endswith(".tmp")):
            yield f"a temporary file is left: {name}"
        elif (
            changed
            and not any(name == each or name.startswith(f"{each}/") for each in asked)
            and not _schema(ran, name)
        ):
            yield f"{'written' if new else 'changed'} and not asked for: {name}"
        elif changed and ran.code == 2 and f"wrote {name}" not in ran.err:
            yield f"written by a command that did not answer: {name}"
    yield from (f"gone: {name}" for name in ran.before if name not in ran.after)


ORACLES: dict[str, Oracle] = {
    "exits": exits,
    "refusals": refusals,
    "bounds": bounds,
    "finite": finite,
    "printable": printable,
    "commands": commands,
    "leftovers": leftovers,
}
"""By the names that reports of failures use."""


def _format(ran: Ran) -> str | None:
    """The format that was asked for, in lower case."""
    given = _values(ran, ("--format",))
    return given[-1].lower() if given else None


def _values(ran: Ran, flags: tuple[str, ...]) -> list[str]:
    """What stands behind options on a command line."""
    words = ran.case.arguments
    apart = [words[n + 1] for n, word in enumerate(words[:-1]) if word in flags]
    return apart + [word.partition("=")[2] for word in words if word.partition("=")[0] in flags and "=" in word]


def _outputs(ran: Ran) -> list[str]:
    """The paths that were asked to be written; a folder stands for all below it."""
    found = [each.removeprefix("./") for each in _values(ran, WRITES)]
    if "report" in ran.case.arguments:
        found += [*_values(ran, ("--dir",)), "reports"]
        found += (
            [name for name in ran.after if "/" not in name] if {".", "", "./"} & set(_values(ran, ("--dir",))) else []
        )
    return [each.rstrip("/") for each in found if each]


def _schema(ran: Ran, name: str) -> bool:
    """Whether a file is the schema that a copy names."""
    return ran.code != 2 and name.endswith(".schema.json") and ran.case.command in COPIES and bool(_outputs(ran))


def _written(ran: Ran) -> dict[str, bytes]:
    return {name: raw for name, raw in ran.after.items() if ran.before.get(name) != raw}


def _human(ran: Ran) -> Iterator[tuple[str, str]]:
    """What people read: stderr, stdout unless it is a file's text, reports in files; our own colours taken out."""
    yield "stderr", ran.err
    if ran.case.command not in COPIES or _values(ran, ("--format",)) or "--explain" in ran.case.arguments:
        yield "stdout", COLOUR.sub("", ran.out) if "FORCE_COLOR" in ran.case.env else ran.out
    for name, raw in _written(ran).items():
        if name.endswith((".md", ".csv", ".txt", ".svg")):
            yield name, raw.decode("utf-8", "replace")


def _refused(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _finite(text: str) -> float:
    found = float(text)
    if found in (float("inf"), float("-inf")):
        raise ValueError(f"{text[:20]} is infinite for most readers")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if len(set(keys)) != len(keys):
        raise ValueError("a key stands twice")
    return dict(pairs)
