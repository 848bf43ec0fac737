"""The table of docs/limits.md, made of the limits themselves: `python -m tests.limits_page` writes it."""

from __future__ import annotations

import re
from pathlib import Path

from archcalc.limits import LIMITS, PAGE

FILE = Path(__file__).resolve().parent.parent / PAGE
PLACE = re.compile("(<!-- limits: .*? -->\n).*?(<!-- /limits -->\n)", re.DOTALL)


def page(text: str) -> str:
    """The page with its table as the limits are now."""
    rows = [f"| `{limit.name}` | {limit.most:,} | {limit.unit} | {limit.of} |\n" for limit in LIMITS]
    table = "| limit | at most | of what | where it is said |\n|---|--:|---|---|\n" + "".join(rows)
    return PLACE.sub(lambda found: found[1] + table + found[2], text)


if __name__ == "__main__":
    FILE.write_text(page(FILE.read_text()))
