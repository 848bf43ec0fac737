"""`python -m tests.training.goldens`: what archcalc says of Megatron-LM's functional tests.

With a CSV file: of its rows (see `rows.table`). With --write: the tables of docs/validation.md are made anew.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.training.goldens.rows import rows, table
from tests.training.goldens.table import MARKS, PAGE, generated, page

if __name__ == "__main__":
    arguments = sys.argv[1:]
    if arguments == ["--write"]:
        PAGE.write_text(page(rows()))
    else:
        some = table(Path(arguments[0])) if arguments else rows()
        print(generated(some).removeprefix(MARKS[0]).removesuffix(MARKS[1]).strip())
