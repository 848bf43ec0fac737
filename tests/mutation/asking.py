"""Mutants put to the tests, by workers that have a copy of the project each."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.mutation.collected import Session, replaced
from tests.mutation.mutants import Mutant
from tests.mutation.plugin import Chosen
from tests.mutation.process import forked
from tests.mutation.results import Outcome, Result
from tests.mutation.traced import Trace, known_trace
from tests.mutation.trees import ROOT, changed, copied

FEW = 40
"""A first run takes so few tests: most mutants end there."""
SLACK = 10.0
"""What a test may take besides 5 times what it takes [s of processor time]: what it shares with others may be made."""
COLLECTING = 60.0
"""What importing archcalc and collecting the tests may take [s of processor time]."""


def source_of(mutant: Mutant) -> str:
    """The digest of the file that a mutant changes."""
    return hashlib.sha256((ROOT / mutant.site.file).read_bytes()).hexdigest()[:16]


def ask_all(mutants: Sequence[Mutant], jobs: int, project: str, most: float) -> Iterator[Result]:
    """The results of all mutants as they come."""
    with ExitStack() as stack:
        trees = [Path(stack.enter_context(TemporaryDirectory(prefix="mutants-"))) for _ in range(jobs)]
        traced = known_trace(copied(trees[0]))
        queue, fill = os.pipe()
        os.write(fill, b"".join(index.to_bytes(4, "big") for index in range(len(mutants))))
        os.close(fill)
        reader, writer = os.pipe()
        for tree in trees:
            pid = os.fork()
            if pid == 0:
                _in_worker(partial(_Worker, tree, traced, mutants, project, most), queue, writer)
            stack.callback(_end, pid)
        os.close(writer)
        with os.fdopen(reader) as lines:
            count = 0
            for count, line in enumerate(lines, 1):  # noqa: B007
                yield Result(**json.loads(line))
        if count < len(mutants):
            raise RuntimeError(f"the workers ended before {len(mutants) - count} mutants were asked")


def _in_worker(make: Callable[[], _Worker], queue: int, writer: int) -> None:
    """The whole of a worker; it cleans up nothing, as its parent does."""
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        worker = make()
        with os.fdopen(writer, "w", buffering=1) as answers:
            while record := os.read(queue, 4):
                answers.write(json.dumps(asdict(worker.ask(int.from_bytes(record, "big")))) + "\n")
    except BaseException as error:
        print(f"a worker ended: {error!r}", flush=True)
    finally:
        os._exit(0)


def _end(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    with suppress(ChildProcessError):
        os.waitpid(pid, 0)


class _Worker:
    """One process with a copy of its own, and a session that has collected the tests of that copy."""

    def __init__(self, tree: Path, traced: Trace, mutants: Sequence[Mutant], project: str, most: float) -> None:
        self._tree, self._traced, self._mutants, self._project, self._most = tree, traced, mutants, project, most
        self._session = Session(copied(tree), mutants)

    def ask(self, index: int) -> Result:
        """What the tests make of a mutant."""
        mutant, start = self._mutants[index], time.monotonic()
        tests = self._traced.of(mutant, self._most)
        allowed = {name: 5 * self._traced.seconds[name] + SLACK for name in tests}
        bodies = replaced((self._tree / mutant.site.file).read_text(), mutant.source)
        outcome: Outcome = "survived"
        killer = ""
        if bodies:
            outcome, killer = _meaning(self._session.ask(index, allowed))
        if outcome == "survived" and (not bodies or self._traced.is_early(mutant)):
            outcome, killer = self._imported(mutant, allowed)
        return Result(
            key=mutant.key,
            source=source_of(mutant),
            project=self._project,
            outcome=outcome,
            killer=killer,
            tests=len(tests),
            most=self._most,
            seconds=round(time.monotonic() - start, 2),
        )

    def _imported(self, mutant: Mutant, allowed: Mapping[str, float]) -> tuple[Outcome, str]:
        """Asked with an import of the changed file: the first few tests, then all the others."""
        outcome: Outcome = "survived"
        killer = ""
        tests = list(allowed)
        with changed(self._tree, mutant.site.file, mutant.source):
            for chosen in (tests[:FEW], tests[FEW:]):
                if chosen and outcome == "survived":
                    run = Chosen({name: allowed[name] for name in chosen}).run
                    seconds = COLLECTING + sum(allowed[name] for name in chosen)
                    outcome, killer = _meaning(forked(self._tree, run, seconds=seconds))
        return outcome, killer


def _meaning(answer: tuple[int, str] | None) -> tuple[Outcome, str]:
    if answer is None:
        return "timeout", ""
    return ("killed", answer[1]) if answer[0] else ("survived", "")
