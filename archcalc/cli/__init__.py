"""The command line: one thin file a command. `main` is the entry point and the only place that sets exit codes."""

from __future__ import annotations

import sys


def main(arguments: list[str] | None = None) -> int:
    """Run archcalc and return its exit code.

    0: answered. 1: a check that was asked for did not pass. 2: could not answer. 3: a bug of ours.
    """
    from archcalc.cli.app import run

    return run(sys.argv[1:] if arguments is None else arguments)
