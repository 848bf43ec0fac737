"""Many cases in processes of their own: it can be stopped and goes on where it was, and failures become files."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.fuzz import sense, sense_memory
from tests.fuzz.case import make
from tests.fuzz.outcome import faults
from tests.fuzz.process import Ran, lay_out, run
from tests.support import ROOT

LAWS = sense.LAWS | sense_memory.LAWS
"""Laws by name."""

CHUNK = 250
"""Cases of one process: enough to repay its start, few enough to be done again after a stop."""

HELD = 6 << 30
"""Address space of a worker [bytes]: what asks for more gets a MemoryError, and the machine stays usable."""

LONGEST = 1800.0
"""A process that takes longer than this for its cases is stuck [s]."""


Process = subprocess.Popen[bytes]


@dataclass
class Part:
    """Cases of one process: of the chunk from `start`, those from `first` on."""

    start: int
    first: int
    process: Process | None = None


@dataclass
class Campaign:
    """The cases from 0 to `count` of a seed.

    Attributes:
        folder: holds `state.json`, and a folder for each failure.
        jobs: processes at a time.
    """

    seed: int
    count: int
    folder: Path
    jobs: int = 1

    def go_on(self) -> int:
        """Run what has not run yet, and return how many cases failed so far."""
        self.folder.mkdir(parents=True, exist_ok=True)
        done, running = self._done(), dict[int, Part]()
        waiting = [Part(start, start) for start in range(0, self.count, CHUNK) if start not in done]
        since = time.monotonic()
        while waiting or running:
            while waiting and len(running) < self.jobs:
                part = waiting.pop(0)
                running[part.start] = part
                part.process = self._started(part.first, min(part.start + CHUNK, self.count))
            for part in self._ended(list(running.values())):
                del running[part.start]
                rest = self._after_death(part)
                if rest < min(part.start + CHUNK, self.count):
                    waiting.insert(0, Part(part.start, rest))
                    continue
                done.add(part.start)
                self._save(done)
                ran, took = min(len(done) * CHUNK, self.count), time.monotonic() - since
                print(f"{ran:,} of {self.count:,} cases, {self.failures} failed, {took:.0f} s", flush=True)
        return self.failures

    @property
    def failures(self) -> int:
        """Cases of the seed that failed."""
        return sum(1 for path in self.folder.glob(f"{self.seed}-*") if path.is_dir())

    def _done(self) -> set[int]:
        """The first cases of the chunks that are behind us."""
        state = self.folder / "state.json"
        saved = json.loads(state.read_text()) if state.exists() else {}
        return set(saved.get(str(self.seed), []))

    def _save(self, done: set[int]) -> None:
        state = self.folder / "state.json"
        saved = json.loads(state.read_text()) if state.exists() else {}
        new = state.with_suffix(".new")
        new.write_text(json.dumps({**saved, str(self.seed): sorted(done)}))
        new.replace(state)

    def _started(self, first: int, end: int) -> Process:
        words = ["--seed", str(self.seed), "--from", str(first), "--to", str(end), "--failures", str(self.folder)]
        return subprocess.Popen([sys.executable, "-m", "tests.fuzz", *words], cwd=ROOT, stdin=subprocess.DEVNULL)

    def _ended(self, running: list[Part]) -> list[Part]:
        """Wait until a process has ended, and tell which have; one that is stuck is killed."""
        started = time.monotonic()
        while not (ended := [part for part in running if part.process and part.process.poll() is not None]):
            time.sleep(0.1)
            if time.monotonic() - started > LONGEST and running[0].process:
                running[0].process.kill()
        return ended

    def _after_death(self, part: Part) -> int:
        """The case to go on with behind a part: where its process died, the one behind the case it was at, which
        failed."""
        at = self.folder / f"at-{self.seed}-{part.first}"
        if part.process is not None and part.process.returncode in (0, 1) and not at.exists():
            return part.start + CHUNK
        index = int(at.read_text()) if at.exists() else part.first
        at.unlink(missing_ok=True)
        died = self.folder / f"{self.seed}-{index}"
        died.mkdir(exist_ok=True)
        (died / "faults.txt").write_text("died: the process of this case was killed\n")
        return index + 1


def chunk(seed: int, start: int, end: int, folder: Path | None) -> int:
    """Run some cases in this process and return how many failed. `folder` takes the failures."""
    failed = 0
    marker = None if folder is None else folder / f"at-{seed}-{start}"
    if marker is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (HELD, HELD))
    for index in range(start, end):
        if marker is not None:
            marker.write_text(str(index))
        ran = run(make(seed, index))
        found = faults(ran)
        if found:
            failed += 1
            report(ran, found, folder)
    if marker is not None:
        marker.unlink()
    return failed


def report(ran: Ran, found: list[str], folder: Path | None) -> None:
    """Tell of a failure, and lay it out in a folder of its own."""
    case = ran.case
    told = f"seed {case.seed} case {case.index}: archcalc {' '.join(map(repr, case.arguments))}"
    lines = [told, *(f"  {fault}" for fault in found)]
    print("\n".join(lines).encode("ascii", "backslashreplace").decode(), file=sys.stderr, flush=True)
    if folder is not None:
        place = folder / f"{case.seed}-{case.index}"
        place.mkdir(exist_ok=True)
        if not any(place.iterdir()):
            lay_out(case, place)
        text = "\n".join([*lines, f"  env {case.env}", "", ran.err]).encode("utf-8", "backslashreplace")
        (place / "faults.txt").write_bytes(text)


def broken(law: str, seed: int, count: int) -> Iterator[str]:
    """What is wrong with the answers to the first questions of a seed, each with its index, as they are asked."""
    for index in range(count):
        if fault := LAWS[law](Random(f"{law}:{seed}:{index}")):
            yield f"{law}, seed {seed}, question {index}: {fault}"
