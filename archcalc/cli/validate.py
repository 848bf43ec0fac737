"""`archcalc validate`."""

from __future__ import annotations

from typing import Annotated

import typer

from archcalc.cli.file_options import KindName

HELP = "Check files: exit 1 if one is invalid, 2 if one can't be read. Reports every error of every file."


def command(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help="Files of any kind, bundled names (k25), config.json files, folders, or hf:ORG/NAME.",
        ),
    ],
    kind: KindName = None,
) -> None:
    """Answer a command line."""
    from archcalc.cli.streams import tell
    from archcalc.documents.kinds import checked, given
    from archcalc.errors import ArchcalcError, SpecError, harmless
    from archcalc.render.inert import inert

    worst = 0
    for argument in files:
        try:
            file = given(argument, kind)
            title = checked(file)
        except ArchcalcError as error:
            tell(error.render())
            worst = max(worst, 1 if isinstance(error, SpecError) else 2)
        else:
            valid = "valid" if file.kind == "spec" else f"a valid {file.kind} file"
            print(inert(harmless(f"{argument}: {valid} ({title})")))
    raise typer.Exit(worst)
