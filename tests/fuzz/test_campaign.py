"""A campaign goes on where it was, and a failure is a folder that shows it again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import campaign
from tests.fuzz.campaign import Campaign, Process, chunk


@pytest.fixture
def tens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaign, "CHUNK", 10)


@pytest.mark.usefixtures("tens")
def test_a_campaign_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[int, int]] = []

    def process(self: Campaign, first: int, end: int) -> Process:
        started.append((first, end))
        if len(started) == 2:
            raise KeyboardInterrupt
        return subprocess.Popen([sys.executable, "-c", ""])

    monkeypatch.setattr(Campaign, "_started", process)
    with pytest.raises(KeyboardInterrupt):
        Campaign(7, 25, tmp_path).go_on()
    assert Campaign(7, 25, tmp_path).go_on() == 0
    assert started == [(0, 10), (10, 20), (10, 20), (20, 25)]


@pytest.mark.usefixtures("tens")
def test_a_process_that_dies_fails_its_case_and_the_next_one_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []

    def process(self: Campaign, first: int, end: int) -> Process:
        started.append(first)
        dies = f"import os; open({str(tmp_path / f'at-7-{first}')!r}, 'w').write('4'); os.abort()" if first == 0 else ""
        return subprocess.Popen([sys.executable, "-c", dies])

    monkeypatch.setattr(Campaign, "_started", process)
    assert Campaign(7, 20, tmp_path).go_on() == 1
    assert "killed" in (tmp_path / "7-4" / "faults.txt").read_text()
    assert started == [0, 5, 10]


def test_a_failure_is_laid_out_with_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaign, "faults", lambda ran: ["exits: as planted"] if ran.case.index == 5 else [])
    assert chunk(3, 4, 7, None) == 1
    monkeypatch.setattr("resource.setrlimit", lambda *_: None)
    assert chunk(3, 4, 7, tmp_path) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["3-5"]
    told = (tmp_path / "3-5" / "faults.txt").read_text()
    assert told.startswith("seed 3 case 5: archcalc ")
    assert "exits: as planted" in told
