"""`python -m tests.mutation [--mutants 400] [--seed 1] [--jobs 2] [--only tape,calc]`: do the unit tests notice?

A seeded sample of small changes to the code that makes the numbers, each made alone in a copy of the project, each
asked of the unit tests that run its line. Prints the score and every survivor. A second run goes on where one was
interrupted: kills hold until the file changes, survivors until any code or test does.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path

import pytest

from tests.mutation.mutants import TARGETS, Mutant, sample
from tests.mutation.plugin import FOLDERS, OPTIONS, Chosen
from tests.mutation.process import forked, warm
from tests.mutation.results import FOLDER, Outcome, Result, Results, equivalents
from tests.mutation.rules import UNCOUNTED
from tests.mutation.traced import Trace, trace
from tests.mutation.trees import ROOT, changed, copied, digest

FEW = 40
"""A first run takes so few tests: most mutants end there."""
SLACK = 20.0
"""What a run may take besides 5 times what its tests take [s]: importing archcalc, collecting the files."""
_TREES: list[Path] = []
"""The copy that a worker changes."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the sample, ask what is not known, print what was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description="Mutants of the code that counts.")
    parser.add_argument("--mutants", type=int, default=400, help="size of the sample (400)")
    parser.add_argument("--seed", type=int, default=1, help="which sample (1)")
    parser.add_argument("--jobs", type=int, default=2, help="mutants asked at the same time (2)")
    parser.add_argument("--only", default="", help=f"parts of their paths, such as tape,calc; of {', '.join(TARGETS)}")
    parser.add_argument("--fresh", action="store_true", help="forget what earlier runs found")
    asked = parser.parse_args(arguments)
    warm()
    results = Results(asked.fresh)
    wanted = [part for part in asked.only.split(",") if part]
    mutants = [
        m for m in sample(ROOT, asked.mutants, asked.seed) if not wanted or any(p in m.site.file for p in wanted)
    ]
    project = digest("archcalc", "tests", "specs")
    found = {m.key: results.known(m.key, _source(m), project) for m in mutants}
    left = [m for m in mutants if found[m.key] is None]
    print(f"{len(mutants)} mutants, {len(mutants) - len(left)} known from before", flush=True)
    if left:
        with _workers(asked.jobs, project) as (pool, traced):
            coming = {pool.submit(_ask, m, traced.of(m), _allowed(traced, m), project): m for m in left}
            for number, done in enumerate(as_completed(coming), 1):
                result = done.result()
                results.add(result)
                found[result.key] = result
                print(f"{number}/{len(left)} {result.outcome} {_where(coming[done])} {result.killer}", flush=True)
    _summary(mutants, {key: result for key, result in found.items() if result is not None})
    return 0


def _source(mutant: Mutant) -> str:
    return hashlib.sha256((ROOT / mutant.site.file).read_bytes()).hexdigest()[:16]


@contextmanager
def _workers(jobs: int, project: str) -> Iterator[tuple[ProcessPoolExecutor, Trace]]:
    """Processes with a copy of the project each, and what the unit tests run of it."""
    with ExitStack() as stack:
        context = get_context("fork")
        trees = context.Queue()
        traced: Trace | None = None
        for _ in range(jobs):
            tree = copied(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mutants-"))))
            traced = traced or _traced(tree, project)
            forked(tree, _collect, write=True)
            trees.put(tree)
        assert traced is not None
        pool = stack.enter_context(ProcessPoolExecutor(jobs, context, lambda: _TREES.append(trees.get())))
        stack.callback(pool.shutdown, cancel_futures=True)
        yield pool, traced


def _traced(tree: Path, project: str) -> Trace:
    """From the run before, if nothing has changed since."""
    path = FOLDER / "trace.json"
    if path.exists():
        held = json.loads(path.read_text())
        if held["project"] == project:
            return Trace(**held["trace"])
    print("finding out which unit tests run which lines", flush=True)
    start = time.monotonic()
    found = trace(tree)
    path.write_text(json.dumps({"project": project, "trace": asdict(found)}))
    total = sum(found.seconds.values())
    print(f"{len(found.seconds)} unit tests, {total:.0f} s of processor time, {time.monotonic() - start:.0f} s in all")
    for name in found.failed:
        print(f"left out, as it fails without a mutant: {name}")
    return found


def _collect() -> int:
    """Leave bytecode of code and tests, which no later run writes."""
    return int(pytest.main([*OPTIONS, "--collect-only", *FOLDERS]))


def _allowed(traced: Trace, mutant: Mutant) -> float:
    return 5 * sum(traced.seconds[name] for name in traced.of(mutant)) + SLACK


def _ask(mutant: Mutant, tests: list[str], allowed: float, project: str) -> Result:
    """Whether a test fails on the mutant: the first few, then all the others."""
    (tree,) = _TREES
    start = time.monotonic()
    outcome: Outcome = "survived"
    killer = ""
    with changed(tree, mutant.site.file, mutant.source):
        for chosen in (tests[:FEW], tests[FEW:]):
            if chosen and outcome == "survived":
                answer = forked(tree, Chosen(chosen).run, seconds=allowed)
                outcome = "timeout" if answer is None else "killed" if answer[0] else "survived"
                killer = answer[1] if answer else ""
    return Result(
        key=mutant.key,
        source=_source(mutant),
        project=project,
        outcome=outcome,
        killer=killer,
        tests=len(tests),
        seconds=round(time.monotonic() - start, 2),
    )


def _where(mutant: Mutant) -> str:
    return f"{mutant.site.file}:{mutant.site.place[0]} {mutant.operator}"


def _summary(mutants: Sequence[Mutant], found: dict[str, Result]) -> None:
    """The survivors, those that are said to be equivalent apart, and the score by folder and in all."""
    reasons = equivalents()
    score: Counter[tuple[str, str]] = Counter()
    print()
    for mutant in mutants:
        site, result = mutant.site, found[mutant.key]
        why = reasons.get((site.file, site.function, mutant.old, mutant.new))
        outcome = result.outcome if why is None or result.outcome != "survived" else "equivalent"
        score[site.folder, outcome] += 1
        score["in all", outcome] += 1
        if outcome in ("survived", "equivalent"):
            print(f"{outcome}: {_where(mutant)} in {site.function}, {result.tests} tests see it")
            print(f"  - {mutant.old}\n  + {mutant.new}")
        if outcome == "equivalent":
            print(f"  {why}")
        elif why is not None:
            print(f"said to be equivalent, and killed by {result.killer}: {_where(mutant)}")
    print("\nnot counted: " + "; ".join(UNCOUNTED))
    for folder in (*TARGETS, "in all"):
        killed, timeout, survived, same = (
            score[folder, outcome] for outcome in ("killed", "timeout", "survived", "equivalent")
        )
        counted = killed + timeout + survived
        if counted:
            share = 100 * (killed + timeout) / counted
            print(
                f"{folder:10} {killed + timeout}/{counted} killed, {share:.1f} %; {timeout} by time; {same} equivalent"
            )


if __name__ == "__main__":
    sys.exit(main())
