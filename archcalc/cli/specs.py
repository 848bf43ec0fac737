"""`archcalc specs`."""

from __future__ import annotations

from typing import Annotated

import typer

from archcalc.cli.options import Assumptions, Format, Output, Units

HELP = "List the bundled specs, or the plans, GPUs, engines or stacks."


def command(
    kind: Annotated[
        str, typer.Option("--kind", metavar="KIND", help="spec, plan, hardware, engine or stack.")
    ] = "spec",
    format_name: Format = None,
    output: Output = None,
    units: Units = "gib",
    assumptions: Assumptions = False,
) -> None:
    """Answer a command line."""
    from archcalc.cli.output import emit
    from archcalc.documents.specs import specs_report

    emit(specs_report(kind), format_name, output, units, assumptions)
