"""`archcalc train`."""

from __future__ import annotations

from typing import Annotated

import typer

from archcalc.cli.options import Format, Output, Overrides, SpecArgument, Units


def command(
    spec: SpecArgument,
    plan: Annotated[str, typer.Option("--plan", metavar="PLAN", help="A plan file, or a bundled plan (k2-pretrain).")],
    override: Overrides = None,
    rank: Annotated[
        int | None, typer.Option("--rank", metavar="R", help="List the terms of this rank. [default: the worst]")
    ] = None,
    format_name: Format = None,
    output: Output = None,
    units: Units = "gib",
) -> None:
    """Training memory on every pipeline rank at its worst moment."""
    from archcalc.cli.output import emit
    from archcalc.documents.train import train
    from archcalc.hf.spec import load_spec

    emit(train(load_spec(spec), plan=plan, set=override or (), rank=rank), format_name, output, units)
