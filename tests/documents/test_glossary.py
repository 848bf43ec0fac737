"""docs/glossary.md says what the code says."""

from __future__ import annotations

from archcalc.documents.glossary import glossary_text
from archcalc.documents.quantities import QUANTITIES
from tests.support import ROOT


def test_the_glossary_is_current() -> None:
    stale = "stale: run `python -m archcalc.documents.glossary > docs/glossary.md`"
    assert (ROOT / "docs" / "glossary.md").read_text() == glossary_text(), stale


def test_every_quantity_has_one_row() -> None:
    rows = [line.split("`")[1] for line in glossary_text().splitlines() if line.startswith("| `")]
    assert sorted(rows) == sorted([*QUANTITIES, "params[PATH]"])
