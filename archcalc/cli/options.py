"""Options that every command has, spelled once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SpecArgument = Annotated[str, typer.Argument(metavar="SPEC", help="A spec file, or the name of a bundled spec (k25).")]
Format = Annotated[
    str | None, typer.Option("--format", metavar="NAME", help="table, json, csv, markdown or github. [default: table]")
]
Output = Annotated[
    list[Path] | None,
    typer.Option("-o", "--output", metavar="FILE", help="Write to a file; the ending names the format. Repeatable."),
]
Units = Annotated[str, typer.Option("--units", metavar="UNITS", help="Bytes as gib, gb or bytes.")]
