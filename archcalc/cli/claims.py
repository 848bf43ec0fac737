"""`archcalc claims`."""

from __future__ import annotations

from typing import Annotated

import typer

from archcalc.cli.options import Format, Output, SpecArgument, Units


def command(
    spec: SpecArgument,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 if any claim is refuted.")] = False,
    format_name: Format = None,
    output: Output = None,
    units: Units = "gib",
) -> None:
    """Judge the spec's published claims: verdict, cause, explanation."""
    from archcalc.cli.output import emit
    from archcalc.errors import CheckFailed
    from archcalc.report.claims import claims_report
    from archcalc.spec.loader import load_spec

    report = claims_report(load_spec(spec))
    emit(report, format_name, output, units)
    refuted = [finding for finding in report.findings if finding["verdict"] == "refuted"]
    if strict and refuted:
        raise CheckFailed(f"{len(refuted)} of {len(report.findings)} claims refuted")
