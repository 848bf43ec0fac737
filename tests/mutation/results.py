"""What was found of each mutant, in a file that grows by a line a mutant, so that a run can be interrupted."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from tests.mutation.trees import ROOT

EQUIVALENT = Path(__file__).with_name("equivalent.yaml")
FOLDER = ROOT / "build" / "mutation"
Outcome = Literal["killed", "timeout", "survived"]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What the tests made of one mutant."""

    key: str
    source: str
    """The digest of the mutated file when it was asked: a kill holds until the file changes."""
    project: str
    """The digest of code and tests: a survivor is asked again after any change."""
    outcome: Outcome
    killer: str
    tests: int
    """How many tests can see it."""
    seconds: float
    most: float
    """For how long tests were asked at most [s of processor time]."""


class Results:
    """The results of earlier runs and this one."""

    def __init__(self, fresh: bool = False) -> None:
        FOLDER.mkdir(parents=True, exist_ok=True)
        self._path = FOLDER / "results.jsonl"
        if fresh:
            self._path.unlink(missing_ok=True)
        text = self._path.read_text() if self._path.exists() else ""
        whole = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]  # the last may be cut off
        self._held = {each.key: each for each in (Result(**json.loads(line)) for line in whole)}

    def known(self, key: str, source: str, project: str, most: float) -> Result | None:
        """What is known of a mutant, if it still holds."""
        held = self._held.get(key)
        if held is None or held.source != source:
            return None
        return held if held.outcome != "survived" or (held.project == project and held.most >= most) else None

    def add(self, result: Result) -> None:
        """Write a result down."""
        self._held[result.key] = result
        with self._path.open("a") as file:
            file.write(json.dumps(asdict(result)) + "\n")


def equivalents() -> dict[tuple[str, str, str, str], str]:
    """The reasons why mutants are equivalent, by file, function, and the two lines."""
    rows: list[dict[str, Any]] = yaml.safe_load(EQUIVALENT.read_text())
    return {(row["file"], row["function"], row["old"], row["new"]): row["why"] for row in rows}
