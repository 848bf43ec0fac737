"""`archcalc import`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from archcalc.cli.options import Assumptions, Format, Output, Units

STDOUT = Path("-")


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
    units: Units = "gib",
    assumptions: Assumptions = False,
) -> None:
    """Read a Hugging Face config.json as a spec, and print the spec."""
    from archcalc.cli.output import emit
    from archcalc.documents.importing import imported, receipt

    document = imported(source)
    if explain:
        emit(receipt(document), format_name, output, units, assumptions)
    else:
        _print(document.text, format_name, output)
    supplied = [row for row in document.receipt if row.default]
    if strict and supplied:
        from archcalc.errors import CheckFailed

        listed = ", ".join(row.key for row in supplied)
        raise CheckFailed(f"{len(supplied)} values are defaults of the class: {listed}")


def _print(text: str, format_name: str | None, output: list[Path] | None) -> None:
    """The spec's text on stdout, or in files. Raises InputError for a format of reports."""
    from archcalc.errors import InputError

    if format_name is not None:
        raise InputError(
            f"import prints YAML, not {format_name}", value=format_name, hint="--explain prints a report in that format"
        )
    from archcalc.cli.output import PICTURES, write_file
    from archcalc.render import ENDINGS

    for path in output or ():
        ending = path.suffix.lower()
        if ending in PICTURES or ending.removeprefix(".") in ENDINGS:
            raise InputError(
                f"import prints YAML, which {path.name} does not say",
                value=str(path),
                hint="end it in .yaml; --explain prints a report in other formats",
            )
    for path in output or (STDOUT,):
        if path == STDOUT:
            sys.stdout.write(text)
        else:
            write_file(path, text.encode())
