"""Answers make sense: laws of theory over drawn specs and plans, and each law with a bug that it is to find."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from random import Random
from typing import Any

import pytest

from tests.fuzz import asking
from tests.fuzz.campaign import LAWS, broken
from tests.support import Ran, run

QUESTIONS = dict.fromkeys(LAWS, 8) | {"the_twin_agrees": 5, "the_public_class_agrees": 3, "more_memory_fits_still": 4}
"""How many are asked here; `python -m tests.fuzz --law NAME --cases 500` asks more, also of other seeds."""

NEED_TORCH = {"the_twin_agrees": "torch", "the_public_class_agrees": "transformers"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.twin) if name in NEED_TORCH else name for name in LAWS]
)
def test_a_law_holds(name: str) -> None:
    if name in NEED_TORCH and find_spec(NEED_TORCH[name]) is None:
        pytest.skip(f"needs {NEED_TORCH[name]}")
    assert list(broken(name, 1, QUESTIONS[name])) == []


# -------------------------------------------------------------------------------------------------------- planted bugs

Bug = Callable[[tuple[str, ...], Ran], Ran]


def refusing(*commands: str) -> Bug:
    """Commands that can't answer."""
    return lambda words, ran: ran._replace(code=2) if words[0] in commands else ran


def altered(change: Callable[[dict[str, Any]], None]) -> Bug:
    """Answers of which something is not what it should be."""

    def altered(words: tuple[str, ...], ran: Ran) -> Ran:
        if ran.code or "json" not in words:
            return ran
        found = json.loads(ran.out)
        change(found)
        return ran._replace(out=json.dumps(found))

    return altered


def quantity(name: str, change: Callable[[int], int]) -> Bug:
    """Answers with another value of a quantity."""

    def changed(report: dict[str, Any]) -> None:
        if name in report["quantities"]:
            report["quantities"][name] = change(report["quantities"][name])

    return altered(changed)


def one_more_a_row(report: dict[str, Any]) -> None:
    for row in report["rows"]:
        row["parameters"] = row.get("parameters", 0) + 1


def inverse(value: int) -> int:
    """The more, the less."""
    return -value


BUGS: dict[str, list[Bug]] = {
    "valid_is_answered": [refusing("params"), refusing("flops")],
    "the_twin_agrees": [refusing("crosscheck")],
    "the_public_class_agrees": [refusing("crosscheck")],
    "totals_grow": [quantity("params.total", inverse), quantity("kv.total_bytes", inverse)],
    "layers_double": [altered(one_more_a_row)],
    "rows_add_up": [quantity("params.total", lambda n: n + 1), quantity("flops.forward", lambda n: n - 1)],
    "units_change_no_json": [lambda words, ran: ran._replace(out=ran.out + " ") if "gb" in words else ran],
    "a_batch_is_so_many_times_one": [quantity("kv.total_bytes", lambda n: n + 1)],
    "longer_is_no_less": [quantity("kv.total_bytes", inverse), quantity("flops.forward", inverse)],
    "more_memory_fits_still": [
        quantity("serve.kv_budget_bytes", inverse),
        quantity("serve.fits", lambda fits: not fits),
    ],
    "more_requests_need_no_less": [quantity("serve.kv_bytes", inverse), quantity("serve.fits", lambda fits: not fits)],
    "recomputation_keeps_no_more": [quantity("train.activation_bytes", inverse)],
    "more_tokens_keep_no_less": [quantity("train.activation_bytes", inverse)],
    "more_replicas_hold_no_more": [quantity("train.optimizer_bytes", inverse), quantity("train.params_bytes", inverse)],
}


@pytest.mark.parametrize(("name", "number"), [(name, n) for name, bugs in BUGS.items() for n in range(len(bugs))])
def test_a_law_finds_a_planted_bug(name: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*words: str) -> Ran:
        answer = Ran(0, "", "") if words[0] == "crosscheck" else run(*words)  # which takes seconds, and is right
        return BUGS[name][number](words, answer)

    monkeypatch.setattr(asking, "run", wrong)
    assert any(LAWS[name](Random(f"{name}:1:{index}")) for index in range(100))


def test_every_law_has_a_planted_bug() -> None:
    assert list(BUGS) == list(LAWS)
