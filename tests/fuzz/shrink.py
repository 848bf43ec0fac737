"""A failing case made smaller while it fails in the same way: fewer words, fewer lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from tests.fuzz.case import Case
from tests.fuzz.outcome import faults
from tests.fuzz.process import run

T = TypeVar("T")

Fails = Callable[[Case], bool]


def kinds(case: Case) -> frozenset[str]:
    """The rules that a case breaks."""
    return frozenset(fault.partition(":")[0] for fault in faults(run(case)))


def shrunk(case: Case, seconds: float = 60) -> Case:
    """The case without what its failure does not need. It takes about `seconds` of CPU time."""
    wanted, until = kinds(case), time.process_time() + seconds

    def fails(other: Case) -> bool:
        return time.process_time() < until and bool(wanted) and kinds(other) >= wanted

    case = _with_fewer_words(case, fails)
    for name in list(case.files):
        case = _with_less_of(case, name, fails)
    return replace(case, env={}) if case.env and fails(replace(case, env={})) else case


def _with_fewer_words(case: Case, fails: Fails) -> Case:
    for size in (2, 1):
        at = len(case.arguments) - size
        while at > 0:
            fewer = replace(case, arguments=case.arguments[:at] + case.arguments[at + size :])
            case = fewer if fails(fewer) else case
            at -= 1
    return case


def _with_less_of(case: Case, name: str, fails: Fails) -> Case:
    """The case without a file, or with as few lines of it as will do."""
    without = replace(case, files={other: raw for other, raw in case.files.items() if other != name})
    if fails(without):
        return without
    lines = case.files[name].split(b"\n")

    def with_lines(kept: Sequence[bytes]) -> Case:
        return replace(case, files={**case.files, name: b"\n".join(kept)})

    def holds(kept: list[bytes]) -> bool:
        return fails(with_lines(kept))

    lines = _without_blocks(lines, holds)
    for fewer in _fewer(lines, holds):
        lines = fewer
    return with_lines(lines)


def _without_blocks(lines: list[bytes], holds: Callable[[list[bytes]], bool]) -> list[bytes]:
    """Lines of YAML without the lines, each with all below it that stand further in, that are not needed."""
    at = 0
    while at < len(lines):
        end = at + 1
        while end < len(lines) and _depth(lines[end]) > _depth(lines[at]):
            end += 1
        fewer = lines[:at] + lines[end:]
        if holds(fewer):
            lines = fewer
        else:
            at += 1
    return lines


def _depth(line: bytes) -> int:
    return len(line) - len(line.lstrip(b" "))


def _fewer(items: list[T], holds: Callable[[list[T]], bool]) -> Iterator[list[T]]:
    """Shorter and shorter lists that still hold: a half is tried to be left out, then quarters, and so on."""
    size = len(items) // 2
    while size:
        at = 0
        while at < len(items):
            fewer = items[:at] + items[at + size :]
            if holds(fewer):
                items = fewer
                yield items
            else:
                at += size
        size //= 2
