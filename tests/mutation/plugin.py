"""What pytest does otherwise in a run for mutants: which tests it takes, in which order, and what it writes down."""

from __future__ import annotations

import functools
import gc
import signal
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from coverage import Coverage

OPTIONS = (
    "-q",
    "-p",
    "no:cacheprovider",
    "-p",
    "no:xdist",
    "--benchmark-disable",
    "-W",
    "ignore::pytest.PytestAssertRewriteWarning",
)
FOLDERS = ("tests/tape", "tests/calc", "tests/training", "tests/serving", "tests/arch", "tests/test_units.py")
"""The unit tests of what is mutated. No command is run and no committed output compared."""
LEFT_OUT = ("processor_time", "the_page_has", "tables_of_the_page")
"""Tests with this in their name measure time, or compare a generated page."""
COLLECTING = "collecting "
"""What the name of a context begins with while modules are imported: archcalc's own, or those of a file of tests."""
MARKED = ("twin", "golden")


def unit(item: pytest.Item) -> bool:
    """Whether a collected test is one of the unit tests."""
    named = any(word in item.name for word in LEFT_OUT)
    return not named and not any(item.get_closest_marker(mark) for mark in MARKED)


def quick_examples() -> None:
    """hypothesis with the same examples each time, and none made smaller for a reader."""
    from hypothesis import HealthCheck, Phase, settings

    phases = (Phase.explicit, Phase.generate)
    silent = tuple(HealthCheck)
    settings.register_profile(
        "mutants", derandomize=True, database=None, deadline=None, phases=phases, suppress_health_check=silent
    )
    settings.load_profile("mutants")


class Chosen:
    """Runs these tests alone, in their order, and remembers the first that failed.

    `allowed` has their names and the processor time that each may take [s]; past it the process ends.
    """

    def __init__(self, allowed: Mapping[str, float]) -> None:
        self._order = {name: index for index, name in enumerate(allowed)}
        self._allowed = allowed
        self.killer = ""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        signal.setitimer(signal.ITIMER_PROF, self._allowed[item.nodeid])
        try:
            return (yield)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)

    def run(self) -> tuple[int, str]:
        """The exit status of pytest, which is 0 where none failed, and the first that did."""
        files = sorted({name.partition("::")[0] for name in self._order})
        return int(pytest.main([*OPTIONS, "-x", *files], plugins=[self])), self.killer

    def pytest_configure(self) -> None:
        quick_examples()

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted((i for i in items if i.nodeid in self._order), key=lambda item: self._order[item.nodeid])

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.killer = self.killer or report.nodeid

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.killer = self.killer or report.nodeid


class Traced:
    """Runs every unit test once and notes which lines each runs, and how long it takes [s of processor time].

    What a fixture or the module of a test runs is noted for all tests of its file. Caches are emptied before each test,
    so that no test is left out because another asked first.
    """

    def __init__(self, coverage: Coverage) -> None:
        self._coverage = coverage
        self._caches: list[Any] = []
        self.seconds: dict[str, float] = {}
        self.failed: set[str] = set()

    def pytest_configure(self) -> None:
        quick_examples()

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self, collector: pytest.Collector) -> Iterator[None]:
        if isinstance(collector, pytest.Module):
            self._coverage.switch_context(COLLECTING + collector.nodeid)
        return (yield)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if unit(item)]
        kind = functools._lru_cache_wrapper
        held = [each for each in gc.get_objects() if type(each) is kind]
        self._caches = [each for each in held if str(each.__module__).startswith(("archcalc.", "tests."))]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Iterator[None]:
        for cache in self._caches:
            cache.cache_clear()
        self._coverage.switch_context(item.nodeid.partition("::")[0])
        start = time.process_time()
        try:
            return (yield)
        finally:
            self.seconds[item.nodeid] = time.process_time() - start

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        self._coverage.switch_context(item.nodeid)
        start = time.process_time()
        try:
            return (yield)
        finally:
            self.seconds[item.nodeid] += time.process_time() - start
            self._coverage.switch_context(item.nodeid.partition("::")[0])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.add(report.nodeid)
