"""`archcalc schema`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

STDOUT = Path("-")


HELP = "Print the JSON Schema of a file kind, as editors use it, or the reference of its keys."


def command(
    kind: Annotated[
        str, typer.Argument(metavar="KIND", help="spec, plan, hardware, engine, stack, books or budgets.")
    ] = "spec",
    format_name: Annotated[
        str | None,
        typer.Option("--format", metavar="NAME", help="json, or markdown: every key in words. [default: json]"),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Write to a file; .md is markdown, any other ending json."),
    ] = None,
) -> None:
    """Answer a command line."""
    from archcalc.cli.output import write_files
    from archcalc.documents.keys import reference
    from archcalc.documents.kinds import models
    from archcalc.errors import InputError
    from archcalc.files.schema import schema_text

    if format_name not in (None, "json", "markdown"):
        raise InputError(f"no schema in the format {format_name}", value=format_name, hint="use json or markdown")
    page = output is not None and output.suffix.lower() == ".md" if format_name is None else format_name == "markdown"
    text = (reference if page else schema_text)(kind, models())
    if output is None or output == STDOUT:
        sys.stdout.write(text)
    else:
        write_files({output: text.encode()})
