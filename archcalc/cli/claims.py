"""`archcalc claims`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from archcalc.cli.options import Assumptions, Format, Output, SpecArgument, Units

if TYPE_CHECKING:
    from archcalc.errors import InputError
    from archcalc.files.model import Spec
    from archcalc.files.yaml_loader import Document


def command(
    spec: SpecArgument,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 if any claim is refuted.")] = False,
    format_name: Format = None,
    output: Output = None,
    units: Units = "gib",
    assumptions: Assumptions = False,
) -> None:
    """Judge the spec's published claims: verdict, cause, explanation."""
    from archcalc.cli.output import emit
    from archcalc.documents.claims import claims
    from archcalc.errors import CheckFailed, InputError
    from archcalc.hf.spec import load_located

    loaded, document = load_located(spec)
    try:
        report = claims(loaded)
    except InputError as error:
        raise placed(error, loaded, document) from None
    emit(report, format_name, output, units, assumptions)
    refuted = [finding for finding in report.findings if finding["verdict"] == "refuted"]
    if strict and refuted:
        raise CheckFailed(f"{len(refuted)} of {len(report.findings)} claims refuted")


def placed(error: InputError, spec: Spec, document: Document) -> InputError:
    """The error about a claim's quantity, at the claim that it is about."""
    from archcalc.errors import SpecError

    name = str(error.value)
    i = next((i for i, claim in enumerate(spec.claims) if claim.quantity in (name, f"params[{name}]")), None)
    if i is None:
        return error
    problem = document.problem(error.message, ("claims", i, "quantity"), value=error.value, hint=error.hint)
    return SpecError.from_problems([problem])
