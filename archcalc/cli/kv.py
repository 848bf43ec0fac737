"""`archcalc kv`."""

from __future__ import annotations

from typing import Annotated

import typer

from archcalc.cli.options import (
    Batch,
    Context,
    Dcp,
    Dp,
    Format,
    Images,
    KvDtype,
    Output,
    SpecArgument,
    Tp,
    Units,
    Videos,
)


def command(
    spec: SpecArgument,
    context: Context = None,
    batch: Batch = 1,
    kv_dtype: KvDtype = "bf16",
    tp: Tp = 1,
    dcp: Dcp = 1,
    pp: Annotated[int, typer.Option("--pp", min=1, metavar="N", help="Pipeline stages.")] = 1,
    dp: Dp = 1,
    block_size: Annotated[
        str, typer.Option("--block-size", metavar="N", help="Tokens of a page; sequences take whole pages.")
    ] = "1",
    memory: Annotated[
        str | None,
        typer.Option("--memory", metavar="SIZE", help="How many tokens fit into this much: 46.80GiB."),
    ] = None,
    image: Images = None,
    video: Videos = None,
    format_name: Format = None,
    output: Output = None,
    units: Units = "gib",
) -> None:
    """KV cache: bytes a token, in total, on each device; or how many tokens fit."""
    from archcalc.calc.kv_cache import Mesh
    from archcalc.cli.output import emit
    from archcalc.cli.sizes import parse_device_memory, parse_sides
    from archcalc.documents.kv import kv_report
    from archcalc.errors import InputError
    from archcalc.files.loader import load_spec
    from archcalc.units import parse_context
    from archcalc.workload import Workload

    loaded = load_spec(spec)
    length = loaded.backbone.max_position_embeddings if context is None else parse_context(context)
    if length < 1:
        raise InputError(f"--context must be at least 1, not {length}", value=length)
    workload = Workload(
        batch=batch,
        context=length,
        images=tuple((h, w) for h, w in parse_sides(image, 2)),
        videos=tuple((f, h, w) for f, h, w in parse_sides(video, 3)),
    )
    mesh = Mesh(tp=tp, dcp=dcp, pp=pp, dp=dp, block_size=parse_context(block_size))
    room = None if memory is None else parse_device_memory(memory)
    emit(kv_report(loaded, workload, kv_dtype=kv_dtype, mesh=mesh, memory=room), format_name, output, units)
