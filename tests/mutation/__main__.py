"""`python -m tests.mutation [--mutants 400] [--seed 1] [--jobs 2] [--only tape,calc]`: do the unit tests notice?

A seeded sample of small changes to the code that makes the numbers, each made alone in a copy of the project, each
asked of the unit tests that run its line. Prints the score and every survivor. A second run goes on where one was
interrupted: kills hold until the file changes, survivors until any code or test does.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections import Counter
from collections.abc import Sequence

from tests.mutation.asking import ask_all, source_of
from tests.mutation.mutants import TARGETS, Mutant, sample
from tests.mutation.process import warm
from tests.mutation.results import Result, Results, equivalents
from tests.mutation.rules import UNCOUNTED
from tests.mutation.trees import ROOT, digest, digests


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the sample, ask what is not known, print what was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description="Mutants of the code that counts.")
    parser.add_argument("--mutants", type=int, default=400, help="size of the sample (400)")
    parser.add_argument("--seed", type=int, default=1, help="which sample (1)")
    parser.add_argument("--jobs", type=int, default=2, help="mutants asked at the same time (2)")
    parser.add_argument("--only", default="", help=f"parts of their paths, such as tape,calc; of {', '.join(TARGETS)}")
    parser.add_argument("--most", type=float, default=15, help="seconds of tests a mutant at most (15)")
    parser.add_argument("--fresh", action="store_true", help="forget what earlier runs found")
    asked = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as on Ctrl-C, the copies are removed
    warm()
    results = Results(asked.fresh)
    wanted = [part for part in asked.only.split(",") if part]
    drawn = sample(ROOT, asked.mutants, asked.seed)
    mutants = [mutant for mutant in drawn if not wanted or any(part in mutant.site.file for part in wanted)]
    project = digest(digests("archcalc", "tests", "specs"))
    found = {m.key: results.known(m.key, source_of(m), project, asked.most) for m in mutants}
    unknown = [m for m in mutants if found[m.key] is None]
    left = sorted(unknown, key=lambda m: m.site.rank(asked.seed))  # in no order: an interrupted run is a sample too
    print(f"{len(mutants)} mutants, {len(mutants) - len(left)} known from before", flush=True)
    named = {m.key: m for m in left}
    for number, result in enumerate(ask_all(left, asked.jobs, project, asked.most) if left else (), 1):
        results.add(result)
        found[result.key] = result
        print(f"{number}/{len(left)} {result.outcome} {_where(named[result.key])} {result.killer}", flush=True)
    _summary(mutants, {key: result for key, result in found.items() if result is not None})
    return 0


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
