"""`archcalc params`. Its annotations are not postponed: typer would evaluate each of them twice at every start."""

from typing import Annotated

import typer

from archcalc.cli.options import Assumptions, Format, Output, SpecArgument, Units, whole

HELP = "Exact parameter counts: totals, then the tree of modules."


def command(
    spec: SpecArgument,
    depth: Annotated[
        int | None, typer.Option("--depth", parser=whole(1), metavar="N", help="Levels of the module tree to show.")
    ] = None,
    top: Annotated[
        int | None, typer.Option("--top", parser=whole(1), metavar="N", help="Only the N largest parts.")
    ] = None,
    by: Annotated[str | None, typer.Option("--by", metavar="GROUP", help="Group by component, role or dtype.")] = None,
    explain: Annotated[
        str | None,
        typer.Option("--explain", metavar="PATH", help="What a part is for, and how its count comes about."),
    ] = None,
    format_name: Format = None,
    output: Output = None,
    units: Units = "gib",
    assumptions: Assumptions = False,
) -> None:
    """Answer a command line."""
    from archcalc.cli.output import emit
    from archcalc.documents.params import params
    from archcalc.hf.spec import load_spec

    emit(params(load_spec(spec), depth=depth, top=top, by=by, explain=explain), format_name, output, units, assumptions)
