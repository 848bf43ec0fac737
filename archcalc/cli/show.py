"""`archcalc show`."""

from __future__ import annotations

from typing import Annotated

import typer

from archcalc.cli.file_options import Copies, Force, KindName

HELP = "Print a file's YAML text, or write it with its schema: the start of one of your own."


def command(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="A bundled name (k25, h200), a file, a config.json, or hf:ORG/NAME."),
    ],
    kind: KindName = None,
    output: Copies = None,
    force: Force = False,
) -> None:
    """Answer a command line."""
    from archcalc.cli.copies import deliver
    from archcalc.documents.kinds import content, given

    file = given(name, kind)
    content(file)
    deliver(file.document.text, file.kind, output, force=force, ours=file.bundled)
