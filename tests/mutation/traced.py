"""Which tests run a line, from one run of all unit tests under coverage."""

from __future__ import annotations

import json
from collections.abc import Sequence, Set
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from tests.mutation.mutants import TARGETS, Mutant
from tests.mutation.plugin import COLLECTING, FOLDERS, OPTIONS, Traced
from tests.mutation.process import forked
from tests.mutation.results import FOLDER
from tests.mutation.trees import digest, digests

SLOW = 0.5
"""A test that takes longer is asked after all others [s of processor time]."""


@dataclass(frozen=True, kw_only=True)
class Trace:
    """The unit tests that pass, with what they take and the lines that they run."""

    seconds: dict[str, float]
    lines: dict[str, dict[str, list[int]]]
    """By file and line the tests, by their place in `seconds`; a line that an import runs is run by none."""
    failed: list[str]
    early: dict[str, list[int]]
    """By file the lines that importing archcalc or the tests runs."""

    def is_early(self, mutant: Mutant) -> bool:
        """Whether what it changes is run by an import, whose result a test may then use."""
        return not set(self.early.get(mutant.site.file, ())).isdisjoint(mutant.lines)

    def of(self, mutant: Mutant, most: float) -> list[str]:
        """The tests that can see a mutant, those likeliest to kill it first, until they take `most` together [s].

        Those that run its statement; where only an import does, those that run any line of the module; where none
        does, all of the folder named as the module's.
        """
        names, held = list(self.seconds), self.lines.get(mutant.site.file, {})
        found = {names[test] for line in mutant.lines for test in held.get(str(line), ())}
        if not found:
            found = {names[test] for tests in held.values() for test in tests}
        if not found:
            found = {name for name in names if name.startswith(_mirror(mutant.site.file))}
        files: dict[str, float] = {}
        for name in found:
            file = name.partition("::")[0]
            files[file] = files.get(file, 0) + self.seconds[name]
        ranks = {file: (_distance(file, mutant.site.file), spent, file) for file, spent in files.items()}
        # A file at a time, so that what its tests share is made once.
        order = sorted(found, key=lambda n: (self.seconds[n] > SLOW, ranks[n.partition("::")[0]], self.seconds[n], n))
        spent = accumulate(self.seconds[name] for name in order)
        return [name for name, sofar in zip(order, spent, strict=True) if sofar <= most or name == order[0]]

    def only(self, files: Set[str]) -> Trace:
        """Of the tests of these files."""
        kept = [name for name in self.seconds if name.partition("::")[0] in files]
        names, place = list(self.seconds), {name: i for i, name in enumerate(kept)}
        lines = {
            file: {line: [place[names[i]] for i in tests if names[i] in place] for line, tests in held.items()}
            for file, held in self.lines.items()
        }
        failed = [name for name in self.failed if name.partition("::")[0] in files]
        return replace(self, seconds={name: self.seconds[name] for name in kept}, lines=lines, failed=failed)

    def with_those_of(self, other: Trace) -> Trace:
        """With the tests of other files."""
        first = len(self.seconds)
        lines: dict[str, dict[str, list[int]]] = {file: dict(held) for file, held in self.lines.items()}
        for file, held in other.lines.items():
            mine = lines.setdefault(file, {})
            for line, tests in held.items():
                mine[line] = [*mine.get(line, []), *(first + i for i in tests)]
        early = {
            file: sorted({*self.early.get(file, []), *other.early.get(file, [])})
            for file in {**self.early, **other.early}
        }
        failed = [*self.failed, *other.failed]
        return Trace(seconds={**self.seconds, **other.seconds}, lines=lines, failed=failed, early=early)


def _mirror(file: str) -> str:
    """tests/calc/ of archcalc/calc/flops.py; tests/test_units.py of archcalc/units.py."""
    parts = file.split("/")
    return f"tests/test_{parts[1]}" if len(parts) == 2 else f"tests/{parts[1]}/"


def _distance(path: str, file: str) -> int:
    """How far tests are from a module: its own, those of its folder, those of its part of archcalc, all others."""
    same = path.endswith(f"/test_{Path(file).name}")
    beside = Path(path).parts[1:-1] == Path(file).parts[1:-1]
    return 3 if not path.startswith(_mirror(file)) else 0 if same else 1 if beside else 2


def known_trace(tree: Path) -> Trace:
    """The trace of a copy of the project: what an earlier run found of files of tests that are as they were, and of the
    others what a run of them finds now."""
    tests = {name: each for name, each in digests(*FOLDERS).items() if name.split("/")[-1].startswith("test_")}
    rest = {name: each for name, each in digests("archcalc", "specs", "tests").items() if name not in tests}
    code = digest({name: each for name, each in rest.items() if "/test_" not in name and not name.endswith(".ambr")})
    path = FOLDER / "trace.json"
    held = json.loads(path.read_text()) if path.exists() else {}
    same = held.get("code") == code
    old = {name for name, each in held["tests"].items() if tests.get(name) == each} if same else set()
    new = sorted(tests.keys() - old)
    found = Trace(**held["trace"]).only(old) if same else Trace(seconds={}, lines={}, failed=[], early={})
    if new:
        print(f"finding out which lines the tests of {len(new)} files run", flush=True)
        found = found.with_those_of(_trace(tree, new))
        path.write_text(json.dumps({"code": code, "tests": tests, "trace": asdict(found)}))
    print(f"{len(found.seconds)} unit tests, {sum(found.seconds.values()):.0f} s of processor time", flush=True)
    for name in found.failed:
        print(f"left out, as it fails without a mutant: {name}")
    return found


def _trace(tree: Path, files: Sequence[str]) -> Trace:
    """Run the unit tests of these files once in a copy of the project."""
    found = forked(tree, lambda: _run(tree, files), write=True)
    if found is None:
        raise RuntimeError("the unit tests could not be run; MUTANTS_TRACE=FILE says why")
    return Trace(**found)


def _run(tree: Path, files: Sequence[str]) -> dict[str, Any]:
    import importlib

    import pytest
    from coverage import Coverage

    include = [str(tree / "archcalc" / target / ("*" if "." not in target else "")).rstrip("/") for target in TARGETS]
    coverage = Coverage(data_file=None, config_file=False, include=include)
    coverage.start()
    coverage.switch_context(COLLECTING)
    for target in TARGETS:
        for file in sorted((tree / "archcalc" / target).rglob("*.py")) or [tree / "archcalc" / target]:
            name = ".".join(file.relative_to(tree).with_suffix("").parts)
            importlib.import_module(name.removesuffix(".__init__"))  # as no test: a line of an import is every test's
    plugin = Traced(coverage)
    pytest.main([*OPTIONS, *files], plugins=[plugin])
    coverage.stop()
    names = {name: index for index, name in enumerate(n for n in plugin.seconds if n not in plugin.failed)}
    by_file: dict[str, list[int]] = {}
    for name, index in names.items():
        by_file.setdefault(name.partition("::")[0], []).append(index)
    data = coverage.get_data()
    early: dict[str, list[int]] = {}
    lines: dict[str, dict[str, list[int]]] = {}
    for path in data.measured_files():
        contexts, name = data.contexts_by_lineno(path), Path(path).relative_to(tree).as_posix()
        early[name] = sorted(line for line, held in contexts.items() if any(c.startswith(COLLECTING) for c in held))
        by_line = {line: {c.removeprefix(COLLECTING) for c in held} for line, held in contexts.items()}
        lines[name] = {
            str(line): sorted({i for c in held for i in ([names[c]] if c in names else by_file.get(c, []))})
            for line, held in by_line.items()
        }
    return json.loads(
        json.dumps(
            {
                "seconds": {name: plugin.seconds[name] for name in names},
                "lines": {file: {line: tests for line, tests in held.items() if tests} for file, held in lines.items()},
                "failed": sorted(plugin.failed),
                "early": early,
            }
        )
    )
