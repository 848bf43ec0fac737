"""`archcalc show`."""

from __future__ import annotations

import sys

from archcalc.cli.options import SpecArgument


def command(spec: SpecArgument) -> None:
    """Print a spec's YAML text: the start of a spec of your own."""
    from archcalc.errors import harmless
    from archcalc.hf.spec import load_located

    _, document = load_located(spec)
    text = document.text
    if sys.stdout.isatty():  # a file may hold what a terminal would obey
        text = "\n".join("\t".join(map(harmless, line.split("\t"))) for line in text.splitlines()) + "\n"
    sys.stdout.write(text)
