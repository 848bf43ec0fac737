"""`archcalc train`."""

from __future__ import annotations

from typing import Annotated

import typer

from archcalc.cli.options import Assumptions, Format, Output, Overrides, SpecArgument, Units

HELP = "Training memory on every pipeline rank at its worst moment."


def command(
    spec: SpecArgument,
    plan: Annotated[str, typer.Option("--plan", metavar="PLAN", help="A plan file, or a bundled plan (k2-pretrain).")],
    override: Overrides = None,
    rank: Annotated[
        int | None, typer.Option("--rank", metavar="R", help="List the terms of this rank. [default: the worst]")
    ] = None,
    explain: Annotated[
        str | None,
        typer.Option("--explain", metavar="TERM", help="What a term is made of: activations or transient."),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Exit 1 if it does not fit.")] = False,
    format_name: Format = None,
    output: Output = None,
    units: Units = "gib",
    assumptions: Assumptions = False,
) -> None:
    """Answer a command line."""
    from archcalc.cli.output import emit, say_warnings
    from archcalc.documents.train import train
    from archcalc.errors import CheckFailed
    from archcalc.hf.spec import load_spec

    report = train(load_spec(spec), plan=plan, set=override or (), rank=rank, explain=explain)
    emit(report, format_name, output, units, assumptions)
    say_warnings(report)
    if check and not report.quantities["train.fits"]:
        raise CheckFailed(report.title)
