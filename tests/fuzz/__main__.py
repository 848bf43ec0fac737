"""`python -m tests.fuzz`: a campaign, a part of one, or one case again.

python -m tests.fuzz --cases 150000 --seed 7        goes on where it was stopped; failures lie in --folder
python -m tests.fuzz --seed 7 --only 4711           one case: its files, its command line, what it did
python -m tests.fuzz --seed 7 --only 4711 --shrink  the same as small as it fails; --keep DIR leaves its files there
python -m tests.fuzz --seed 7 --law totals_grow --cases 500   questions of one law of sense.py or sense_memory.py
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from tests.fuzz.campaign import LAWS, Campaign, broken, chunk
from tests.fuzz.case import make
from tests.fuzz.outcome import faults
from tests.fuzz.process import run
from tests.fuzz.shrink import shrunk


def main() -> int:
    """Exit 1 if a case failed."""
    asked = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Seeded cases against archcalc.")
    asked.add_argument("--seed", type=int, default=1)
    asked.add_argument("--cases", type=int, default=2000, help="of a campaign")
    asked.add_argument("--folder", type=Path, default=Path(".fuzz"), help="state and failures of a campaign")
    asked.add_argument("--jobs", type=int, default=2, help="processes of a campaign")
    asked.add_argument("--only", type=int, help="one case")
    asked.add_argument("--shrink", action="store_true", help="make that case smaller first")
    asked.add_argument("--keep", type=Path, help="leave the files of that case in this folder")
    asked.add_argument("--law", choices=LAWS, help="ask questions of a law")
    asked.add_argument("--from", dest="start", type=int, help="first case of a part, run in this process")
    asked.add_argument("--to", dest="end", type=int, help="the case behind its last one")
    asked.add_argument("--failures", type=Path, help="folder for the failures of the part")
    given = asked.parse_args()
    if given.only is not None:
        return only(given.seed, given.only, shrink=given.shrink, keep=given.keep)
    if given.law is not None:
        failed = 0
        for fault in broken(given.law, given.seed, given.cases):
            failed += 1
            _show(fault)
        print(f"{given.law}: {failed} of {given.cases} answers are wrong")
        return int(failed > 0)
    if given.start is not None:
        return int(chunk(given.seed, given.start, given.end or given.start + 1, given.failures) > 0)
    return int(Campaign(given.seed, given.cases, given.folder, given.jobs).go_on() > 0)


def only(seed: int, index: int, *, shrink: bool, keep: Path | None) -> int:
    """One case, shown whole."""
    case = make(seed, index)
    case = shrunk(case) if shrink else case
    ran = run(case, keep)
    for name, raw in case.files.items():
        _show(f"--- {name}\n{raw.decode('utf-8', 'backslashreplace')}")
    _show(f"--- archcalc {shlex.join(case.arguments)}   {case.env or ''}")
    _show(f"--- exit {ran.code}, {ran.seconds:.2f} s, {ran.peak >> 20} MiB\n{ran.out[-4000:]}\n{ran.err[-4000:]}")
    found = faults(ran)
    for fault in found:
        _show(f"*** {fault}")
    return int(bool(found))


def _show(text: str) -> None:
    print(text.encode("ascii", "backslashreplace").decode())


if __name__ == "__main__":
    sys.exit(main())
