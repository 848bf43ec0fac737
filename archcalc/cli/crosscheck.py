"""`archcalc crosscheck`."""

from __future__ import annotations

from typing import Annotated

import typer

from archcalc.cli.options import Assumptions, Format, Output, SpecArgument, Units
from archcalc.cli.streams import tell
from archcalc.errors import harmless

HELP = "Compare every number with a torch model on the meta device; exit 1 on any difference."


def command(
    spec: SpecArgument,
    against: Annotated[
        str, typer.Option("--against", metavar="WHOM", help="twin (our torch model) or transformers.")
    ] = "twin",
    only: Annotated[
        str | None, typer.Option("--only", metavar="KINDS", help="params,flops,kv,weights,activations,schedule.")
    ] = None,
    format_name: Format = None,
    output: Output = None,
    units: Units = "gib",
    assumptions: Assumptions = False,
) -> None:
    """Answer a command line."""
    from archcalc.cli.output import emit
    from archcalc.documents.sweep.words import parse_names
    from archcalc.errors import CheckFailed
    from archcalc.hf.spec import load_with_config
    from archcalc.proof import crosscheck

    kinds = [] if only is None else parse_names(only)
    loaded, config = load_with_config(spec)
    report = crosscheck(loaded, against=against, only=kinds, progress=_tell, config=config)
    emit(report, format_name, output, units, assumptions)
    different = sum(1 for finding in report.findings if finding["difference"])
    if different:
        raise CheckFailed(f"{different} of {len(report.findings)} numbers differ")


def _tell(what: str) -> None:
    tell(harmless(f"{what} ..."))
