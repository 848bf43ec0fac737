"""`archcalc kv`."""

from __future__ import annotations

from typing import Annotated

import typer

from archcalc.cli.options import (
    Assumptions,
    Batch,
    BlockSize,
    Context,
    Dcp,
    Dp,
    Format,
    Images,
    KvDtype,
    Output,
    Pp,
    SpecArgument,
    Tp,
    Units,
    Videos,
)

HELP = "KV cache: bytes a token, in total, on each device; or how many tokens fit."


def command(
    spec: SpecArgument,
    context: Context = None,
    batch: Batch = 1,
    tp: Tp = None,
    pp: Pp = None,
    dp: Dp = None,
    dcp: Dcp = None,
    kv_dtype: KvDtype = "bf16",
    block_size: BlockSize = None,
    memory: Annotated[
        str | None,
        typer.Option("--memory", metavar="SIZE", help="How many tokens fit into this much: 46.80GiB."),
    ] = None,
    image: Images = None,
    video: Videos = None,
    format_name: Format = None,
    output: Output = None,
    units: Units = "gib",
    assumptions: Assumptions = False,
) -> None:
    """Answer a command line."""
    from archcalc.cli.output import emit
    from archcalc.documents.kv import kv
    from archcalc.documents.sizes import parse_device_memory, parse_images, parse_videos
    from archcalc.hf.spec import load_spec
    from archcalc.units import parse_context

    report = kv(
        load_spec(spec),
        context=None if context is None else parse_context(context),
        batch=batch,
        kv_dtype=kv_dtype,
        tp=tp or 1,
        dcp=dcp or 1,
        pp=pp or 1,
        dp=dp or 1,
        block_size=1 if block_size is None else parse_context(block_size),
        memory=None if memory is None else parse_device_memory(memory),
        image=parse_images(image),
        video=parse_videos(video),
    )
    emit(report, format_name, output, units, assumptions)
