"""Options that several commands have, spelled once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from archcalc.documents.sizes import MOST_NUMBER
from archcalc.errors import in_its_case, show_value
from archcalc.units import UNITS, whole_number

SpecArgument = Annotated[
    str,
    typer.Argument(
        metavar="SPEC", help="A spec file, a bundled name (k25), a config.json, a model folder, or hf:ORG/NAME."
    ),
]
SpecArguments = Annotated[
    list[str],
    typer.Argument(
        metavar="SPEC...", help="Spec files, bundled names (k25), config.json files, model folders, or hf:ORG/NAME."
    ),
]


def any_case(*choices: str) -> Any:
    """A callback that gives an option the choice that its text is in another case."""

    def chosen(text: str | None) -> str | None:
        return None if text is None else in_its_case(text, choices)

    return chosen


def whole(least: int, most: int = MOST_NUMBER) -> Any:
    """A parser of whole numbers in a range, with or without commas between groups of three digits."""

    def parsed(text: str | int) -> int:
        number = whole_number(str(text))
        if number is None:
            raise ValueError(f"{show_value(str(text))} is not a whole number of {least} or more")
        if not least <= number <= most:
            raise ValueError(f"{show_value(str(text))} is not from {least:,} to {most:,}")
        return number

    return parsed


FORMATS = ("table", "json", "csv", "markdown", "github")
Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="NAME",
        callback=any_case(*FORMATS),
        help="table, json, csv, markdown or github. [default: table]",
    ),
]
Output = Annotated[
    list[Path] | None,
    typer.Option("-o", "--output", metavar="FILE", help="Write to a file; the ending names the format. Repeatable."),
]
Assumptions = Annotated[
    bool, typer.Option("--assumptions", help="List what no source gives and the numbers rest on, instead of a count.")
]
Units = Annotated[
    str,
    typer.Option("--units", metavar="UNITS", callback=any_case(*UNITS), help="Bytes as gib, gb or bytes."),
]
Context = Annotated[
    str | None, typer.Option("--context", metavar="N", help="Tokens a sequence: 256k. [default: the model's limit]")
]
Batch = Annotated[int, typer.Option("--batch", parser=whole(1), metavar="B", help="Sequences.")]
Images = Annotated[
    list[str] | None, typer.Option("--image", metavar="HxW", help="An image of each sequence, in pixels. Repeatable.")
]
Videos = Annotated[
    list[str] | None,
    typer.Option("--video", metavar="FRAMESxHxW", help="A video of each sequence: sampled frames. Repeatable."),
]
KvDtype = Annotated[
    str, typer.Option("--kv-dtype", metavar="NAME", help="bf16, fp8, fp8_ds_mla or int8.", rich_help_panel="Layout")
]
LAYOUT, ENGINE = "Layout", "Engine"
"""Panels of the help: options that `kv`, `serve` and `plot` share."""


MOST = 1_000_000
"""More devices than this along an axis are a slip of the finger."""


def _size(name: str, about: str) -> Any:
    return typer.Option(f"--{name}", parser=whole(1, MOST), metavar="N", help=about, rich_help_panel=LAYOUT)


Tp = Annotated[int | None, _size("tp", "Tensor parallel devices. [default: as many as the other sizes leave, or 1]")]
Pp = Annotated[int | None, _size("pp", "Pipeline stages.")]
Dp = Annotated[int | None, _size("dp", "Data parallel replicas of attention.")]
Dcp = Annotated[int | None, _size("dcp", "Decode context parallel, within tp.")]
Ep = Annotated[
    str | None,
    typer.Option(
        "--ep",
        metavar="N",
        help="Expert parallel: 1 (experts divided like tp), N, or all. [default: 1]",
        rich_help_panel=LAYOUT,
    ),
]
Gpus = Annotated[
    str | None,
    typer.Option(
        "--gpus",
        metavar="N",
        help="GPUs, or auto: the fewest that fit. [default: tp x pp x dp, or auto]",
        rich_help_panel=LAYOUT,
    ),
]
VisionTower = Annotated[
    Literal["replicated", "sharded"] | None,
    typer.Option(
        "--vision",
        case_sensitive=False,
        help="The tower whole on each GPU, or divided by tp. [default: the engine's]",
        rich_help_panel=LAYOUT,
    ),
]
BlockSize = Annotated[
    str | None,
    typer.Option(
        "--block-size", metavar="N", help="Tokens of a cache page; sequences take whole pages.", rich_help_panel=LAYOUT
    ),
]


def _engine(name: str, metavar: str, about: str) -> Any:
    return typer.Option(f"--{name}", metavar=metavar, help=about, rich_help_panel=ENGINE)


EngineName = Annotated[str, _engine("engine", "NAME", "vllm, vllm-0.8, vllm-v0, sglang, or a profile's file.")]
Utilization = Annotated[float | None, _engine("utilization", "SHARE", "Of the memory: 0.9.")]
Overhead = Annotated[str | None, _engine("overhead", "SIZE", "Instead of activation, CUDA graphs and non-torch: 8GiB.")]
BatchedTokens = Annotated[str | None, _engine("batched-tokens", "N", "Tokens of one step: 8k. [default: the engine's]")]
MaxNumSeqs = Annotated[str | None, _engine("max-num-seqs", "N", "Sequences of one step. [default: the engine's]")]
SamplerName = Annotated[
    Literal["torch", "flashinfer"] | None,
    typer.Option(
        "--sampler",
        case_sensitive=False,
        help="Whose kernels sample: torch's sort, or others. [default: the engine's]",
        rich_help_panel=ENGINE,
    ),
]
Eager = Annotated[bool, typer.Option("--eager", help="No CUDA graphs.", rich_help_panel=ENGINE)]
LanguageOnly = Annotated[
    bool, typer.Option("--language-only", help="Load neither vision tower nor projector.", rich_help_panel=ENGINE)
]
Draft = Annotated[str | None, _engine("draft", "SPEC", "A smaller model that proposes tokens.")]
Mtp = Annotated[
    bool,
    typer.Option("--mtp", help="The model's own prediction module proposes tokens.", rich_help_panel=ENGINE),
]
LoraRank = Annotated[
    int,
    typer.Option(
        "--lora-rank", parser=whole(0, 1 << 16), metavar="N", help="Room for an adapter.", rich_help_panel=ENGINE
    ),
]
OffloadExperts = Annotated[
    str | None,
    _engine("offload-experts", "N", "Routed experts of N layers in the host's memory, or host: of all."),
]
AsName = Annotated[
    str, typer.Option("--as", metavar="NAME", help="released, bf16, fp8, or a bundled spec whose storage to use.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Override a plan field: parallel.pp=8. Repeatable."),
]
