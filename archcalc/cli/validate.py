"""`archcalc validate`."""

from __future__ import annotations

import sys

import typer

from archcalc.cli.options import SpecArguments


def command(specs: SpecArguments) -> None:
    """Check specs: exit 1 if one is invalid, 2 if one can't be read. Reports every error of every file."""
    from archcalc.errors import ArchcalcError, SpecError, harmless

    worst = 0
    for argument in specs:
        try:
            title = _checked(argument)
        except ArchcalcError as error:
            print(error.render(), file=sys.stderr)
            worst = max(worst, 1 if isinstance(error, SpecError) else 2)
        else:
            print(harmless(f"{argument}: valid ({title})"))
    raise typer.Exit(worst)


def _checked(argument: str) -> str:
    """The title of a valid spec whose claims are about quantities that it has. Raises InputError or SpecError."""
    from archcalc.cli.claims import placed
    from archcalc.documents.claims import claimed_quantities
    from archcalc.errors import InputError
    from archcalc.hf.spec import load_located

    spec, document = load_located(argument)
    try:
        claimed_quantities(spec)
    except InputError as error:
        raise placed(error, document) from None
    return spec.title
