"""docs/families.md and docs/models.md say what the registry, the tests and the commands say."""

from __future__ import annotations

import pytest

from archcalc.hf.backward import class_of
from tests.families import pages
from tests.families.bases import BASES

STALE = "stale: run `python -m tests.families.pages`"


@pytest.mark.parametrize("name", ["families", "models"])
def test_the_tables_are_current(name: str) -> None:
    path = getattr(pages, name.upper())
    assert path.read_text() == pages.page(path, getattr(pages, name)()), STALE


def test_every_type_is_compared_with_a_class_or_says_which_header_it_is_judged_by() -> None:
    rows = [line.split(" | ") for line in pages.families().splitlines() if line.startswith("| `")]
    read = {row[0].strip("| `"): row for row in rows[: len(pages.ROWS)]}
    assert set(read) == set(pages.ROWS)
    assert all(row[2].startswith("parameters") for row in read.values())
    assert {name for name, row in read.items() if row[1] == "header"} == {"mimo", "kimi_k3"}


def test_a_type_is_compared_because_it_has_a_small_config() -> None:
    types = {base.split()[0] for base in BASES}
    assert {name for name in pages.ROWS if class_of(name)} == types


def test_released_bytes_that_a_page_names_are_asked_for() -> None:
    """Those of bundled specs by tests/calc/test_weights.py, the others by tests/hf/test_quant.py."""
    others = {release for release in pages.RELEASES.values() if pages.checkpoints()[release]["spec"] is None}
    assert others == {"qwen3-30b-a3b-fp8"}
    assert set(pages.RELEASES) <= set(pages.ROWS)
