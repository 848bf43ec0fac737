"""Runs that nobody had looked at when archcalc predicted them first: what it says today, within a band.

tests/published/unseen-runs.yaml says where each figure is from and what the first prediction was off;
docs/validation.md shows both.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import pytest
import yaml

from archcalc.training.memory import RankMemory
from tests.support import ROOT
from tests.training.test_published import FOLDER, MIB, predicted

FILE = yaml.safe_load((FOLDER / "unseen-runs.yaml").read_text())
RUNS, OFFLOAD = FILE["runs"], FILE["offload"]
BAND, OFFLOAD_BAND = 0.025, 0.15
PAGE = (ROOT / "docs" / "validation.md").read_text()
CASES = [(run, quantity) for run in RUNS for quantity in run["mib"]]


def off(now: float, measured: float) -> float:
    """[%]"""
    return 100 * (now / measured - 1)


@lru_cache
def rank_of(n: int) -> RankMemory:
    return predicted(RUNS[n])[RUNS[n]["rank"]]


def error(run: dict[str, Any], quantity: str) -> float:
    return off(getattr(rank_of(RUNS.index(run)), quantity) / MIB, run["mib"][quantity])


@pytest.mark.parametrize(("run", "quantity"), CASES, ids=[f"{run['id']}-{quantity}" for run, quantity in CASES])
def test_an_unseen_run_is_within_the_band_unless_the_file_says_why(run: dict[str, Any], quantity: str) -> None:
    inside = abs(error(run, quantity)) <= 100 * BAND
    assert inside is (quantity not in run.get("beyond", {}))


@lru_cache
def stages() -> tuple[list[RankMemory], list[RankMemory]]:
    """Of the note's run, without offload and with it."""
    return predicted(OFFLOAD), predicted(OFFLOAD | {"set": [*OFFLOAD["set"], OFFLOAD["offloaded"]]})


def test_stages_of_the_offloading_note_rest_as_measured() -> None:
    for rank, measured in zip(stages()[0], OFFLOAD["mib_by_stage"]["resting"], strict=True):
        assert rank.resting / MIB == pytest.approx(measured, rel=BAND)


def by_micro_batch() -> dict[str, tuple[float, float]]:
    """Predicted and measured [MiB]: what a micro-batch more in flight takes, stages 1 and 2 having equal layers, and
    what offload saves of one."""
    base, less = ([rank.peak / MIB for rank in ranks] for ranks in stages())
    measured, offloaded = (OFFLOAD["mib_by_stage"][key] for key in ("peak", "peak_offloaded"))
    saved, saved_there = ([b - o for b, o in zip(*pair, strict=True)] for pair in ((base, less), (measured, offloaded)))
    return {
        "slope": (base[1] - base[2], measured[1] - measured[2]),
        "slope_offloaded": (less[1] - less[2], offloaded[1] - offloaded[2]),
        "saved": (saved[0] - saved[1], saved_there[0] - saved_there[1]),
        "saved, stages 1 and 2": (saved[1] - saved[2], saved_there[1] - saved_there[2]),
    }


@pytest.mark.parametrize("quantity", ["slope", "slope_offloaded", "saved", "saved, stages 1 and 2"])
def test_offload_saves_as_much_of_a_micro_batch_as_was_measured(quantity: str) -> None:
    now, measured = by_micro_batch()[quantity]
    assert now == pytest.approx(measured, rel=BAND if quantity == "slope" else OFFLOAD_BAND)


def test_offload_saves_something_on_every_stage() -> None:
    base, less = stages()
    assert all(b.peak > o.peak for b, o in zip(base, less, strict=True))


def signed(error: float) -> str:
    """As the page prints it: an error that rounds to nothing has no sign."""
    text = f"{error:+.2f}"
    return f"{text.lstrip('+-') if float(text) == 0 else text} %"


def row(title: str, what: str, measured: float, now: float, first: str) -> str:
    return f"| {title} | {what} | {measured:,.1f} | {now:,.1f} | {signed(off(now, measured))} | {first} |"


def rows() -> list[str]:
    """The table of docs/validation.md."""
    words = {"resting": "resting", "peak": "peak", "peak_first": "peak of iteration 1"}
    lines = []
    for n, run in enumerate(RUNS):
        for quantity, measured in run["mib"].items():
            now = getattr(rank_of(n), quantity) / MIB
            lines.append(row(run["title"], words[quantity], measured, now, signed(run["first"][quantity])))
    named = {
        "slope": "a micro-batch more in flight",
        "slope_offloaded": "the same, offloaded",
        "saved": "saved of a micro-batch, stages 0 and 1",
        "saved, stages 1 and 2": "saved of a micro-batch, stages 1 and 2",
    }
    for quantity, (now, measured) in by_micro_batch().items():
        first = OFFLOAD["first"].get(quantity.partition(",")[0])
        text = "" if first is None else signed(first)
        lines.append(row(OFFLOAD["title"], named[quantity], measured, now, text))
    return lines


def test_the_page_has_the_rows() -> None:
    section = PAGE.partition("\n## Runs that were unseen")[2].partition("\n## ")[0]
    assert re.findall(r"^\| .* % \|.*\|$", section, re.M) == rows()
