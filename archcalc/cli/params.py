"""`archcalc params`."""

from __future__ import annotations

from typing import Annotated

import typer

from archcalc.cli.options import Format, Output, SpecArgument, Units


def command(
    spec: SpecArgument,
    depth: Annotated[
        int | None, typer.Option("--depth", min=1, metavar="N", help="Levels of the module tree to show.")
    ] = None,
    top: Annotated[int | None, typer.Option("--top", min=1, metavar="N", help="Only the N largest parts.")] = None,
    by: Annotated[str | None, typer.Option("--by", metavar="GROUP", help="Group by component, role or dtype.")] = None,
    explain: Annotated[
        str | None,
        typer.Option("--explain", metavar="PATH", help="What a part is for, and how its count comes about."),
    ] = None,
    format_name: Format = None,
    output: Output = None,
    units: Units = "gib",
) -> None:
    """Exact parameter counts: totals, then the tree of modules."""
    from archcalc.cli.output import emit
    from archcalc.errors import InputError
    from archcalc.files.loader import load_spec

    if explain is not None and (depth, top, by) != (None, None, None):
        raise InputError("--explain shows one part; it goes without --depth, --top and --by")
    loaded = load_spec(spec)
    if explain is None:
        from archcalc.documents.params import params_report

        report = params_report(loaded, depth=depth, top=top, by=by)
    else:
        from archcalc.documents.explain import explain_report

        report = explain_report(loaded, explain)
    emit(report, format_name, output, units)
