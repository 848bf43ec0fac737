"""`archcalc serve`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from archcalc.cli.options import AsName, Batch, Context, Dcp, Dp, Format, KvDtype, Output, SpecArgument, Units


def command(
    spec: SpecArgument,
    gpu: Annotated[
        str | None,
        typer.Option("--gpu", metavar="NAME", help="A bundled GPU (h200), a hardware file, or all for a table."),
    ] = None,
    gpus: Annotated[
        str | None,
        typer.Option("--gpus", metavar="N", help="GPUs, or auto: the fewest that fit. [default: tp x dp, or auto]"),
    ] = None,
    tp: Annotated[
        int | None, typer.Option("--tp", min=1, metavar="N", help="Tensor parallel. [default: gpus / dp]")
    ] = None,
    dp: Dp = 1,
    ep: Annotated[
        str,
        typer.Option("--ep", metavar="N", help="Expert parallel: 1 (experts divided like tp), N, or all."),
    ] = "1",
    dcp: Dcp = 1,
    context: Context = None,
    batch: Batch = 1,
    kv_dtype: KvDtype = "bf16",
    as_name: AsName = "released",
    language_only: Annotated[
        bool, typer.Option("--language-only", help="Load neither vision tower nor projector.")
    ] = False,
    vision: Annotated[
        Literal["replicated", "sharded"] | None,
        typer.Option("--vision", help="The tower whole on each GPU, or divided by tp. [default: the engine's]"),
    ] = None,
    utilization: Annotated[
        float | None, typer.Option("--utilization", metavar="SHARE", help="Of the visible memory: 0.9.")
    ] = None,
    overhead: Annotated[
        str | None,
        typer.Option("--overhead", metavar="SIZE", help="Instead of activation, CUDA graphs and non-torch: 8GiB."),
    ] = None,
    batched_tokens: Annotated[
        str | None,
        typer.Option("--batched-tokens", metavar="N", help="Tokens of one step: 8k. [default: the engine's]"),
    ] = None,
    block_size: Annotated[
        str | None,
        typer.Option("--block-size", metavar="N", help="Tokens of a cache page. [default: the engine's]"),
    ] = None,
    engine: Annotated[
        str, typer.Option("--engine", metavar="NAME", help="A bundled engine profile, or a file.")
    ] = "vllm",
    check: Annotated[bool, typer.Option("--check", help="Exit 1 if it does not fit.")] = False,
    format_name: Format = None,
    output: Output = None,
    units: Units = "gib",
) -> None:
    """Serving memory on each GPU: whether it fits, and what is left for requests."""
    from archcalc.cli.output import emit
    from archcalc.cli.sizes import parse_device_memory, parse_number
    from archcalc.documents.serve import serve
    from archcalc.errors import CheckFailed
    from archcalc.files.loader import load_spec
    from archcalc.units import parse_context

    loaded, experts = load_spec(spec), parse_number(ep, "--ep", "all")
    report = serve(
        loaded,
        gpu=gpu,
        gpus=None if gpus is None else parse_number(gpus, "--gpus", "auto"),
        tp=tp,
        dp=dp,
        ep="all" if experts is None else experts,
        dcp=dcp,
        context=None if context is None else parse_context(context),
        batch=batch,
        kv_dtype=kv_dtype,
        as_=as_name,
        language_only=language_only,
        vision=vision,
        utilization=utilization,
        overhead=None if overhead is None else parse_device_memory(overhead),
        batched_tokens=None if batched_tokens is None else parse_context(batched_tokens),
        block_size=None if block_size is None else parse_context(block_size),
        engine=engine,
    )
    emit(report, format_name, output, units)
    if check and not report.quantities["serve.fits"]:
        raise CheckFailed(report.title if gpu != "all" else f"{loaded.title} fits on no GPU")
