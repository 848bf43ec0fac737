"""`archcalc diff`."""

from __future__ import annotations

from typing import Annotated

import typer

from archcalc.cli.options import Assumptions, Format, Gpus, Output, Overrides, Units

SIDE = "a spec in each form that a SPEC may have, a saved JSON report, or git:REV:path of a file; /dev/null is nothing."


HELP = "What changed between two specs or reports: before, after, delta, percent, by quantity, path and field."


def command(
    base: Annotated[str, typer.Argument(metavar="BASE", help=f"What was: {SIDE}")],
    head: Annotated[str, typer.Argument(metavar="HEAD", help="What is: as BASE.")],
    fail_on: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-on",
            metavar="NAME:LIMIT",
            help="Exit 1 if a quantity moves further: params.total:+1%, kv.bytes_per_token:±0, weights.bytes:+2GiB,"
            " params.total:+1B. Repeatable.",
        ),
    ] = None,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit 1 if a quantity, a path or a field that matters changed.")
    ] = False,
    gpu: Annotated[
        str | None,
        typer.Option("--gpu", metavar="NAME", help="Compare serving on it too: a bundled GPU or a hardware file."),
    ] = None,
    gpus: Gpus = None,
    plan: Annotated[
        str | None,
        typer.Option("--plan", metavar="PLAN", help="Compare training under it too: a bundled plan or a plan file."),
    ] = None,
    override: Overrides = None,
    seq: Annotated[
        str | None, typer.Option("--seq", metavar="N", help="Text tokens of the compared prefill. [default: 4k]")
    ] = None,
    image: Annotated[
        list[str] | None,
        typer.Option(
            "--image",
            metavar="HxW",
            help="An image of the compared prefill, in pixels. Repeatable. [default: none, and a tower at 1024x768]",
        ),
    ] = None,
    context: Annotated[
        str | None,
        typer.Option(
            "--context", metavar="N", help="Tokens of the compared cache: 256k. [default: 128k; served, the limit]"
        ),
    ] = None,
    format_name: Format = None,
    output: Output = None,
    units: Units = "gib",
    assumptions: Assumptions = False,
) -> None:
    """Answer a command line."""
    from archcalc.cli.output import emit
    from archcalc.documents.diff import changed, diff_report, exceeded
    from archcalc.documents.sizes import parse_images, serving_flags

    report = diff_report(
        base,
        head,
        limits=fail_on or [],
        plan=plan,
        set=override or (),
        gpu=gpu,
        image=parse_images(image),
        **serving_flags(gpus=gpus, seq=seq, context=context),
    )
    emit(report, format_name, output, units, assumptions)
    failed = exceeded(report)
    if failed is not None:
        raise failed
    if exit_code and changed(report):
        raise typer.Exit(1)
