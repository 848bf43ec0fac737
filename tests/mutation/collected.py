"""A pytest that has collected all unit tests and waits: a mutant of a function's body is put into a fork of it.

Most of a run of few tests is importing archcalc and collecting. A fork of this session has done both, so the changed
function is put in the place of the old one there and the chosen tests run. A mutant of anything that an import
computes can't be asked so; `asking` asks those with an import of their own.
"""

from __future__ import annotations

import functools
import gc
import json
import os
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.mutation.mutants import Mutant, compiled
from tests.mutation.plugin import FOLDERS, OPTIONS, Chosen, unit
from tests.mutation.process import forked


class Waiting(Chosen):
    """Collects every unit test, then answers one question a line, `[mutant, allowed]`, until no more come."""

    def __init__(self, tree: Path, mutants: Sequence[Mutant], questions: int, answers: int) -> None:
        super().__init__({})
        self._tree, self._mutants = tree, mutants
        self._questions, self._answers = questions, answers

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if unit(item)]

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        items = {item.nodeid: item for item in session.items}
        caches, functions = _caches(), _functions(self._tree)
        gc.freeze()  # a fork that looks through all objects, or collects, would copy them all
        with os.fdopen(self._questions) as lines, os.fdopen(self._answers, "w", buffering=1) as answers:
            answers.write("collected\n")
            for line in lines:
                index, self._allowed = json.loads(line)
                chosen = [items[name] for name in self._allowed]
                seconds = sum(self._allowed.values())
                mutant = self._mutants[index]
                held = functions.get(str(self._tree / mutant.site.file), [])
                ask = functools.partial(self._run, mutant, chosen, held, caches)
                answers.write(json.dumps(forked(self._tree, ask, seconds=seconds)) + "\n")
        return True

    def _run(
        self, mutant: Mutant, items: list[pytest.Item], held: list[types.FunctionType], caches: list[Any]
    ) -> tuple[int, str]:
        put(held, (self._tree / mutant.site.file).read_text(), mutant.source)
        for cache in caches:
            cache.cache_clear()
        for item, following in zip(items, [*items[1:], None], strict=True):
            item.ihook.pytest_runtest_protocol(item=item, nextitem=following)
            if self.killer:
                break
        return int(bool(self.killer)), self.killer


class Session:
    """The other end of a `Waiting` in a fork, which leaves the bytecode of code and tests for later imports."""

    def __init__(self, tree: Path, mutants: Sequence[Mutant]) -> None:
        questions, ask = os.pipe()
        hear, answers = os.pipe()
        if os.fork() == 0:
            os.close(ask)
            os.close(hear)
            inner = Waiting(tree, mutants, questions, answers)
            with suppress(RuntimeError):
                forked(tree, lambda: int(pytest.main([*OPTIONS, "-s", *FOLDERS], plugins=[inner])), write=True)
            os._exit(0)
        os.close(questions)
        os.close(answers)
        self._ask, self._hear = os.fdopen(ask, "w", buffering=1), os.fdopen(hear)
        self._hear.readline()  # from here on nothing imports a file that may be changed

    def ask(self, index: int, allowed: Mapping[str, float]) -> tuple[int, str] | None:
        """The exit status and the first failure of these tests on a mutant; None if they were cut off."""
        self._ask.write(json.dumps([index, allowed]) + "\n")
        line = self._hear.readline()
        if not line:
            raise RuntimeError("the collected tests are gone; MUTANTS_TRACE=FILE says why")
        answer = json.loads(line)
        return None if answer is None else (answer[0], answer[1])


def _caches() -> list[Any]:
    """Every cache of archcalc and of the tests: a fork must not know what was computed before the change."""
    kind = functools._lru_cache_wrapper
    found = [each for each in gc.get_objects() if type(each) is kind]
    return [each for each in found if str(each.__module__).startswith(("archcalc.", "tests."))]


def _functions(tree: Path) -> dict[str, list[types.FunctionType]]:
    """Every function of archcalc, by the path of its file."""
    found: dict[str, list[types.FunctionType]] = {}
    for each in gc.get_objects():
        if type(each) is types.FunctionType and each.__code__.co_filename.startswith(str(tree / "archcalc")):
            found.setdefault(each.__code__.co_filename, []).append(each)
    return found


def replaced(before: str, after: str) -> Mapping[tuple[str, int], types.CodeType] | None:
    """The functions that differ, by qualified name and first line; None where anything else differs too."""
    old, new = dict(_parts(compiled(before))), dict(_parts(compiled(after)))
    if old.keys() != new.keys():
        return None
    differing = {key: code for key, code in new.items() if code != old[key]}
    named = [code for key, code in differing.items() if isinstance(code, types.CodeType)]
    return {(code.co_qualname, code.co_firstlineno): code for code in named} if len(named) == len(differing) else None


def _parts(code: types.CodeType) -> Iterator[tuple[tuple[str, int], Any]]:
    """Functions as they are, and of a module or class what it does besides defining them."""
    inner = [each for each in code.co_consts if isinstance(each, types.CodeType)]
    own = tuple(repr(each) for each in code.co_consts if not isinstance(each, types.CodeType))
    yield (code.co_qualname, code.co_firstlineno), (code.co_code, own, code.co_names)
    for each in inner:
        if each.co_flags & 1 and "<" not in each.co_qualname:  # optimized: a function, not the body of a class
            yield (each.co_qualname, each.co_firstlineno), each
        else:
            yield from _parts(each)


def put(functions: Sequence[types.FunctionType], before: str, after: str) -> None:
    """Put what a change makes of these functions in their place, in this process."""
    codes = replaced(before, after) or {}
    done = 0
    for each in functions:
        code = codes.get((each.__code__.co_qualname, each.__code__.co_firstlineno))
        if code is not None:
            each.__code__ = code.replace(co_filename=each.__code__.co_filename)
            done += 1
    if not done:
        raise RuntimeError("no function to replace")
