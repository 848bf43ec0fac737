"""Whatever archcalc is given, it answers or refuses: within its limits, in text that does nothing, leaving no litter.

The first cases of one seed; `make fuzz N=150000 SEED=7` runs as many as you like of another.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from archcalc.cli.app import COMMANDS
from tests.fuzz import documents
from tests.fuzz.case import Case, Maker, make
from tests.fuzz.mutate import mutated
from tests.fuzz.options import commands
from tests.fuzz.outcome import ORACLES, faults
from tests.fuzz.process import SLOW, Limits, run
from tests.fuzz.shrink import shrunk
from tests.fuzz.written import json_text, yaml_text

SEED, CASES, CHUNKS = 1, 2000, 16


def faults_of(case: Case) -> list[str]:
    """What is wrong with a case; one that took too long has to do so twice, as a machine may stumble."""
    found = faults(run(case))
    return faults(run(case)) if found and all(fault.startswith("bounds:") for fault in found) else found


@pytest.mark.parametrize("part", range(CHUNKS))
def test_every_case_ends_well(part: int) -> None:
    cases = (make(SEED, index) for index in range(part, CASES, CHUNKS))
    failed = {
        case.index: found for case in cases if case.arguments[:1] not in SLOW_LINES and (found := faults_of(case))
    }
    assert not failed, f"python -m tests.fuzz --seed {SEED} --only {next(iter(failed))} --shrink\n{failed}"


SLOW_LINES = [(command,) for command in SLOW]
"""Left to campaigns: a cross-check or a report takes seconds."""


# --------------------------------------------------------------------------------------------------------- the cases


def test_a_seed_and_an_index_are_one_case() -> None:
    assert [make(3, n) for n in range(12)] == [make(3, n) for n in range(12)]
    assert make(3, 1) != make(3, 2) != make(4, 2)


def test_every_command_and_option_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    known = commands()
    assert {words[0] for words in known} == set(COMMANDS)
    for command, takes in known.items():
        tried: set[str] = set()
        for index in range(100 + 20 * len(takes)):
            maker = Maker(5, index)
            maker.command = command
            monkeypatch.setattr(maker, "file", str)
            words = maker._words(command, takes)
            tried |= {word.partition("=")[0] for word in words}
        assert {flag for option in takes for flag in option.flags} <= tried, command


@pytest.mark.parametrize("kind", [*documents.FOLDERS, "config", "budgets", "books"])
def test_what_is_changed_is_valid_before(kind: str) -> None:
    names = dict.fromkeys(documents.names(kind))
    own = [name for name in names if kind not in documents.FOLDERS or name in ("tiny", "small", "one")]
    for name in own:
        data = documents.document(kind, name)
        text = json_text(data) if kind == "config" else yaml_text(data)
        files = {f"s.{'json' if kind == 'config' else 'yaml'}": text.encode()}
        ran = run(Case(0, 0, ("validate", *files), files))
        assert ran.code == 0, (name, ran.err)


def test_a_change_is_a_change_of_a_copy() -> None:
    rng, data = Maker(1, 1).rng, documents.document("spec", "tiny")
    before = documents.document("spec", "tiny")
    changed = [mutated(rng, data, documents.words_of("spec")) for _ in range(100)]
    assert data == before
    assert sum(other != before for other in changed) > 90  # a number may be replaced by itself


# --------------------------------------------------------------------------- each rule, with the bug that it is to find


def broken(call: Callable[[], Any]) -> Callable[..., Any]:
    """A function that does this whatever it is given."""
    return lambda *_, **__: call()


def _idle() -> None:
    until = time.process_time() + 0.5
    while time.process_time() < until:
        pass


def _for_ever() -> None:
    while True:
        _idle()


def _litter() -> None:
    Path(".o.json.1.tmp").write_text("half")
    raise KeyboardInterrupt


def _own(text: str) -> Callable[..., str]:
    return lambda *_, **__: text


PARAMS = ("params", "s.yaml")
PLANTED: dict[str, tuple[str, str, Callable[..., Any], tuple[str, ...]]] = {
    "a bug of ours": ("exits", "documents.params.params", broken(lambda: 1 / 0), PARAMS),
    "another exit code": ("exits", "cli.output.emit", broken(lambda: (_ for _ in ()).throw(SystemExit(7))), PARAMS),
    "exit 2 without a word": ("refusals", "documents.params.params", broken(lambda: exit(2)), PARAMS),
    "too long": ("bounds", "cli.output.emit", broken(_idle), PARAMS),
    "for ever": ("bounds", "cli.output.emit", broken(_for_ever), PARAMS),
    "too large": ("bounds", "cli.output.emit", broken(lambda: len(b"x" * (600 << 20))), PARAMS),
    "Infinity in JSON": ("finite", "cli.output.text_of", _own('{"a": Infinity}'), (*PARAMS, "--format", "json")),
    "1e999 in JSON": ("finite", "cli.output.text_of", _own('{"a": 1e999}'), (*PARAMS, "-o", "o.json")),
    "a key twice": ("finite", "cli.output.text_of", _own('{"a": 1, "a": 2}'), (*PARAMS, "--format", "json")),
    "an escape sequence": ("printable", "cli.output.text_of", _own("a\x1b[2J"), PARAMS),
    "a line that runs backwards": ("printable", "cli.output.text_of", _own("a\u202eb"), (*PARAMS, "-o", "o.csv")),
    "a workflow command": ("commands", "cli.output.text_of", _own("a\n  ::add-mask::1"), PARAMS),
    "one of Azure's": ("commands", "cli.output.text_of", _own("##[error]a"), (*PARAMS, "--format", "github")),
    "one in a property": ("commands", "cli.output.text_of", _own("::error file=a::b::c"), (*PARAMS, "-o", "o.md")),
    "a file of half an answer": ("leftovers", "cli.output.emit", broken(_litter), PARAMS),
    "an output nobody asked for": ("leftovers", "cli.output.emit", broken(lambda: Path("x").write_text("")), PARAMS),
    "an input written over": ("leftovers", "cli.output.emit", broken(lambda: Path("s.yaml").write_text("")), PARAMS),
    "an input gone": ("leftovers", "cli.output.emit", broken(lambda: Path("s.yaml").unlink()), PARAMS),
}

TOO_LONG = ("too long", "for ever")
"""Under a limit that is soon reached."""


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_found(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rule, place, function, arguments = PLANTED[bug]
    case = Case(0, 0, arguments, {"s.yaml": yaml_text(documents.document("spec", "tiny")).encode()})
    assert faults(run(case)) == []
    monkeypatch.setattr(Limits, "of", classmethod(lambda cls, case: cls(0.2 if bug in TOO_LONG else 10, 500 << 20)))
    monkeypatch.setattr(f"archcalc.{place}", function)
    assert rule in {fault.partition(":")[0] for fault in faults(run(case))}


def test_every_rule_has_a_planted_bug() -> None:
    assert {rule for rule, *_ in PLANTED.values()} == set(ORACLES)


def test_a_failing_case_is_made_smaller_and_still_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails_on_heads(spec: Any, **_: Any) -> None:
        raise ZeroDivisionError if spec.backbone.attention["gqa"].num_attention_heads == 4 else KeyboardInterrupt

    monkeypatch.setattr("archcalc.documents.params.params", fails_on_heads)
    text = yaml_text(documents.document("spec", "tiny")).encode()
    case = Case(0, 0, ("params", "s.yaml", "--top", "3", "--units=gb"), {"s.yaml": text, "other.yaml": b"a: 1"})
    small = shrunk(case)
    assert small.arguments == ("params", "s.yaml")
    assert list(small.files) == ["s.yaml"]
    assert b"num_attention_heads: 4" in small.files["s.yaml"]
    assert b"claims" not in small.files["s.yaml"]
