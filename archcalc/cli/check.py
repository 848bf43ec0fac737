"""`archcalc check`."""

from __future__ import annotations

from typing import Annotated

import typer

from archcalc.cli.options import Assumptions, Format, Output, Units

HELP = "Hold specs against budgets: exit 1 past one, 2 if something can't be read."


def command(
    path: Annotated[
        str, typer.Argument(metavar="BUDGETS", help="A file with the key `budgets`, or git:REV:path of one.")
    ],
    base: Annotated[
        str | None,
        typer.Option("--base", metavar="REV", help="The git revision that growth (max_increase) is measured from."),
    ] = None,
    allow_new: Annotated[
        bool, typer.Option("--allow-new", help="Let a spec pass that is new since --base, whatever its growth may be.")
    ] = False,
    format_name: Format = None,
    output: Output = None,
    units: Units = "gib",
    assumptions: Assumptions = False,
) -> None:
    """Answer a command line."""
    from archcalc.cli.output import emit
    from archcalc.documents.budgets import check, exceeded

    report = check(path, base=base, allow_new=allow_new)
    emit(report, format_name, output, units, assumptions)
    failed = exceeded(report)
    if failed is not None:
        raise failed
