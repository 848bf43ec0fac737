"""`archcalc schema`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def command(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="spec, plan, hardware, engine or books.")] = "spec",
    output: Annotated[Path | None, typer.Option("-o", "--output", metavar="FILE", help="Write to a file.")] = None,
) -> None:
    """Print the JSON Schema of a file kind, as editors use it."""
    from archcalc.cli.output import write_file
    from archcalc.documents.books_file import Books
    from archcalc.files.model import Spec
    from archcalc.files.schema import schema_text
    from archcalc.hardware import Hardware
    from archcalc.serving.engine import Engine
    from archcalc.training.plan import Plan

    text = schema_text(kind, {"spec": Spec, "plan": Plan, "hardware": Hardware, "engine": Engine, "books": Books})
    if output is None or output == Path("-"):
        sys.stdout.write(text)
    else:
        write_file(output, text.encode())
