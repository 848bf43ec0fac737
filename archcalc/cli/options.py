"""Options that several commands have, spelled once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SpecArgument = Annotated[str, typer.Argument(metavar="SPEC", help="A spec file, or the name of a bundled spec (k25).")]
SpecArguments = Annotated[list[str], typer.Argument(metavar="SPEC...", help="Spec files or bundled names.")]
Format = Annotated[
    str | None, typer.Option("--format", metavar="NAME", help="table, json, csv, markdown or github. [default: table]")
]
Output = Annotated[
    list[Path] | None,
    typer.Option("-o", "--output", metavar="FILE", help="Write to a file; the ending names the format. Repeatable."),
]
Units = Annotated[str, typer.Option("--units", metavar="UNITS", help="Bytes as gib, gb or bytes.")]
Context = Annotated[
    str | None, typer.Option("--context", metavar="N", help="Tokens a sequence: 256k. [default: the model's limit]")
]
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
AsName = Annotated[
    str, typer.Option("--as", metavar="NAME", help="released, bf16, fp8, or a bundled spec whose storage to use.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Override a plan field: parallel.pp=8. Repeatable."),
]
