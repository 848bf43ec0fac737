"""A command line that can't be used, told in one line and a hint."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from archcalc.cli.slips import slip
from archcalc.errors import did_you_mean, harmless

if TYPE_CHECKING:
    import typer

_ONE_OF = re.compile(r"(.*)'(.*)' is not one of ('.*')\.?", re.DOTALL)
"""How typer tells of a choice that there is not."""

_CHOICES = re.compile(r"(.*)\. Choose from:\s*(.*)", re.DOTALL)
"""How it tells of a choice that is missing, the choices on lines of their own."""


def usage_error(error: typer.TyperException, arguments: list[str]) -> str:
    """What typer refused of a command line, as the text of an error."""
    message, hint = slip(error, arguments) or _told(error)
    return f"error: {harmless(message)}\nhint: {harmless(hint)}"


def _told(error: typer.TyperException) -> tuple[str, str]:
    """typer's own message, in one line, and a hint."""
    context = getattr(error, "ctx", None)
    hint = f"{context.command_path if context else 'archcalc'} --help says how"
    message = error.format_message().replace("Value error, ", "", 1)
    if found := _ONE_OF.fullmatch(message):
        before, given, quoted = found.groups()
        choices = quoted[1:-1].split("', '")
        return f"{before}'{given}' is not one of {', '.join(choices)}", did_you_mean(given, choices) or hint
    if found := _CHOICES.fullmatch(message):
        return found[1], f"one of {' '.join(found[2].split())}"
    return message, hint
