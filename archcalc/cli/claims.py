"""`archcalc claims`."""

from __future__ import annotations

from typing import Annotated

import typer

from archcalc.cli.options import Assumptions, Format, Output, SpecArgument, Units

HELP = "Judge the spec's published claims: verdict, cause, explanation."


def command(
    spec: SpecArgument,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 if any claim is refuted.")] = False,
    format_name: Format = None,
    output: Output = None,
    units: Units = "gib",
    assumptions: Assumptions = False,
) -> None:
    """Answer a command line."""
    from archcalc.cli.output import emit
    from archcalc.documents.claims import claims, placed
    from archcalc.errors import CheckFailed, InputError
    from archcalc.hf.spec import load_located

    loaded, document = load_located(spec)
    try:
        report = claims(loaded)
    except InputError as error:
        raise placed(error, document) from None
    emit(report, format_name, output, units, assumptions)
    refuted = [finding for finding in report.findings if finding["verdict"] == "refuted"]
    if strict and refuted:
        raise CheckFailed(f"{len(refuted)} of {len(report.findings)} claims refuted")
