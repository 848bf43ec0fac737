"""`archcalc card`."""

from __future__ import annotations

from archcalc.cli.options import Assumptions, Format, Output, SpecArgument, Units

HELP = "One screen about a model: sizes, cache, the fewest GPUs that serve it, what to ask next; also archcalc SPEC."


def command(
    spec: SpecArgument,
    format_name: Format = None,
    output: Output = None,
    units: Units = "gib",
    assumptions: Assumptions = False,
) -> None:
    """Answer a command line."""
    from archcalc.cli.output import emit
    from archcalc.documents.card import card
    from archcalc.hf.spec import load_spec

    emit(card(load_spec(spec), word=spec), format_name, output, units, assumptions)
