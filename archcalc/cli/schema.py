"""`archcalc schema`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def command(
    kind: Annotated[
        str, typer.Argument(metavar="KIND", help="spec, plan, hardware, engine, stack, books or budgets.")
    ] = "spec",
    output: Annotated[Path | None, typer.Option("-o", "--output", metavar="FILE", help="Write to a file.")] = None,
) -> None:
    """Print the JSON Schema of a file kind, as editors use it."""
    from pydantic import BaseModel

    from archcalc.cli.output import write_file
    from archcalc.documents.books_file import Books
    from archcalc.documents.budgets_file import Budgets
    from archcalc.files.model import Spec
    from archcalc.files.schema import schema_text
    from archcalc.hardware import Hardware
    from archcalc.serving.engine import Engine
    from archcalc.training.plan import Plan
    from archcalc.training.stack import Stack

    known: dict[str, type[BaseModel]] = {
        "spec": Spec,
        "plan": Plan,
        "hardware": Hardware,
        "engine": Engine,
        "stack": Stack,
        "books": Books,
        "budgets": Budgets,
    }
    text = schema_text(kind, known)
    if output is None or output == Path("-"):
        sys.stdout.write(text)
    else:
        write_file(output, text.encode())
