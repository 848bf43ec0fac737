"""Options that every command has, spelled once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SpecArgument = Annotated[str, typer.Argument(metavar="SPEC", help="A spec file, or the name of a bundled spec (k25).")]
Format = Annotated[
    str | None, typer.Option("--format", metavar="NAME", help="table, json, csv, markdown or github. [default: table]")
]
Output = Annotated[
    list[Path] | None,
    typer.Option("-o", "--output", metavar="FILE", help="Write to a file; the ending names the format. Repeatable."),
]
Units = Annotated[str, typer.Option("--units", metavar="UNITS", help="Bytes as gib, gb or bytes.")]
Batch = Annotated[int, typer.Option("--batch", min=1, metavar="B", help="Sequences.")]
Images = Annotated[
    list[str] | None, typer.Option("--image", metavar="HxW", help="An image of each sequence, in pixels. Repeatable.")
]
Videos = Annotated[
    list[str] | None,
    typer.Option("--video", metavar="FRAMESxHxW", help="A video of each sequence: sampled frames. Repeatable."),
]
KvDtype = Annotated[str, typer.Option("--kv-dtype", metavar="NAME", help="bf16, fp8, fp8_ds_mla or int8.")]
Tp = Annotated[int, typer.Option("--tp", min=1, metavar="N", help="Tensor parallel devices.")]
Dcp = Annotated[int, typer.Option("--dcp", min=1, metavar="N", help="Decode context parallel, within tp.")]
Dp = Annotated[int, typer.Option("--dp", min=1, metavar="N", help="Data parallel replicas of attention.")]
