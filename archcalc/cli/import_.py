"""`archcalc import`."""

from __future__ import annotations

from typing import Annotated

import typer

from archcalc.cli.file_options import Force
from archcalc.cli.options import Assumptions, Format, Output, Units

HELP = "Read a Hugging Face config.json as a spec, and print the spec."


def command(
    source: Annotated[
        str, typer.Argument(metavar="FILE|DIR|hf:ORG/NAME", help="A config.json, a model folder, or hf:ORG/NAME[@REV].")
    ],
    explain: Annotated[bool, typer.Option("--explain", help="Print what became of each key of the config.")] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit 1 if the model's class supplies anything that the file leaves out.")
    ] = False,
    format_name: Format = None,
    output: Output = None,
    force: Force = False,
    units: Units = "gib",
    assumptions: Assumptions = False,
) -> None:
    """Answer a command line."""
    from archcalc.cli.copies import deliver
    from archcalc.cli.output import emit
    from archcalc.documents.importing import imported, receipt
    from archcalc.errors import InputError

    document = imported(source)
    if explain:
        emit(receipt(document), format_name, output, units, assumptions)
    elif format_name is not None:
        raise InputError(
            f"import prints YAML, not {format_name}", value=format_name, hint="--explain prints a report in that format"
        )
    else:
        deliver(document.text, "spec", output, force=force)
    supplied = [row for row in document.receipt if row.default]
    if strict and supplied:
        from archcalc.errors import CheckFailed

        listed = ", ".join(row.key for row in supplied)
        raise CheckFailed(f"{len(supplied)} values are defaults of the class: {listed}")
