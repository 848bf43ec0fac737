"""`archcalc flops`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from archcalc.cli.options import Assumptions, Batch, Format, Images, Output, SpecArgument, Units, Videos

HELP = "FLOPs of a training step, a prefill or a decode step, part by part."


def command(
    spec: SpecArgument,
    phase: Annotated[
        Literal["train", "prefill", "decode"], typer.Option("--phase", case_sensitive=False, help="What is run.")
    ] = "prefill",
    batch: Batch = 1,
    seq: Annotated[
        str | None,
        typer.Option("--seq", metavar="N", help="New text tokens a sequence: 4096, 4k. [default: 4k; 1 in decode]"),
    ] = None,
    lengths: Annotated[
        str | None,
        typer.Option(
            "--lengths", metavar="N,...", help="Packed sequences in place of --seq and --batch: 512,1k or 4096,1024x3."
        ),
    ] = None,
    context: Annotated[str, typer.Option("--context", metavar="N", help="Tokens already cached: 128k.")] = "0",
    attention: Annotated[
        Literal["causal", "full"],
        typer.Option("--attention", case_sensitive=False, help="causal counts half of the new-by-new scores."),
    ] = "causal",
    logits: Annotated[
        Literal["all", "last"], typer.Option("--logits", case_sensitive=False, help="Where the head runs.")
    ] = "all",
    mla: Annotated[
        Literal["auto", "expanded", "absorbed"],
        typer.Option("--mla", case_sensitive=False, help="Form of latent attention; auto is absorbed in decode."),
    ] = "auto",
    image: Images = None,
    video: Videos = None,
    tokens: Annotated[
        str | None, typer.Option("--tokens", metavar="N", help="Scale a training step to a whole run: 15.5T.")
    ] = None,
    format_name: Format = None,
    output: Output = None,
    units: Units = "gib",
    assumptions: Assumptions = False,
) -> None:
    """Answer a command line."""
    from archcalc.cli.output import emit
    from archcalc.documents.flops import flops
    from archcalc.documents.sizes import parse_images, parse_lengths, parse_videos
    from archcalc.hf.spec import load_spec
    from archcalc.units import parse_context, parse_count

    report = flops(
        load_spec(spec),
        phase=phase,
        batch=batch,
        seq=None if seq is None else parse_context(seq),
        lengths=() if lengths is None else parse_lengths(lengths),
        context=parse_context(context),
        attention=attention,
        logits=logits,
        mla=mla,
        image=parse_images(image),
        video=parse_videos(video),
        tokens=None if tokens is None else parse_count(tokens),
    )
    emit(report, format_name, output, units, assumptions)
