"""`archcalc specs`."""

from __future__ import annotations

from archcalc.cli.options import Assumptions, Format, Output, Units


def command(
    format_name: Format = None, output: Output = None, units: Units = "gib", assumptions: Assumptions = False
) -> None:
    """List the bundled specs."""
    from archcalc.cli.output import emit
    from archcalc.documents.specs import specs_report

    emit(specs_report(), format_name, output, units, assumptions)
