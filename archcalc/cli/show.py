"""`archcalc show`."""

from __future__ import annotations

import sys

from archcalc.cli.options import SpecArgument


def command(spec: SpecArgument) -> None:
    """Print a spec's YAML text: the start of a spec of your own."""
    from archcalc.errors import harmless
    from archcalc.spec.loader import find, load_spec
    from archcalc.spec.yaml_loader import read

    load_spec(spec)
    text = read(str(find(spec))).decode()
    sys.stdout.write("\n".join(harmless(line) for line in text.split("\n")))
