"""`archcalc weights`."""

from __future__ import annotations

from typing import Annotated

import typer

from archcalc.cli.options import AsName, Assumptions, Format, Output, SpecArgument, Units

HELP = "Weight bytes of the released checkpoint, or of another storage."


def command(
    spec: SpecArgument,
    as_name: AsName = "released",
    optimizer: Annotated[
        str | None,
        typer.Option("--optimizer", metavar="NAME", help="Size a training checkpoint too: adamw, muon, ..."),
    ] = None,
    format_name: Format = None,
    output: Output = None,
    units: Units = "gib",
    assumptions: Assumptions = False,
) -> None:
    """Answer a command line."""
    from archcalc.cli.output import emit
    from archcalc.documents.weights import weights
    from archcalc.hf.spec import load_spec

    emit(weights(load_spec(spec), as_=as_name, optimizer=optimizer), format_name, output, units, assumptions)
