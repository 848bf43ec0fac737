"""Options of the commands that are about files of any kind; apart, so that no other command makes them at its start."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

KindName = Annotated[
    str | None,
    typer.Option(
        "--kind",
        metavar="KIND",
        help="spec, plan, hardware, engine or stack. [default: what the name or the file says]",
    ),
]
Copies = Annotated[
    list[Path] | None,
    typer.Option("-o", "--output", metavar="FILE", help="Write to a file, its schema beside it. Repeatable."),
]
Force = Annotated[bool, typer.Option("--force", help="Write over another file that is there already.")]
