"""`archcalc validate`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer


def command(
    specs: Annotated[list[str], typer.Argument(metavar="SPEC...", help="Spec files or bundled names.")],
) -> None:
    """Check specs: exit 1 if one is invalid, 2 if one can't be read. Reports every error of every file."""
    from archcalc.errors import ArchcalcError, SpecError
    from archcalc.spec.loader import load_spec

    worst = 0
    for argument in specs:
        try:
            spec = load_spec(argument)
        except ArchcalcError as error:
            print(error.render(), file=sys.stderr)
            worst = max(worst, 1 if isinstance(error, SpecError) else 2)
        else:
            print(f"{argument}: valid ({spec.title})")
    raise typer.Exit(worst)
