"""`archcalc plot KIND`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from archcalc.cli.options import (
    FORMATS,
    LAYOUT,
    AsName,
    Assumptions,
    BatchedTokens,
    BlockSize,
    Dcp,
    Dp,
    Draft,
    Eager,
    EngineName,
    Ep,
    Gpus,
    LanguageOnly,
    LoraRank,
    MaxNumSeqs,
    Mtp,
    OffloadExperts,
    Overhead,
    Overrides,
    Pp,
    SamplerName,
    SpecArguments,
    Tp,
    Units,
    Utilization,
    VisionTower,
    any_case,
)

if TYPE_CHECKING:
    from archcalc.documents.sweep.cases import Model

Lengths = Annotated[
    str | None,
    typer.Option("--context", metavar="FROM..TO", help="Lengths: 4k..256k. [default: to the model's limit]"),
]
Batches = Annotated[str | None, typer.Option("--batch", metavar="B,...", help="Sequences: 1,8. [default: 1]")]
KvDtypes = Annotated[
    str | None,
    typer.Option(
        "--kv-dtype", metavar="NAME,...", help="Cache dtypes: bf16,fp8. [default: bf16]", rich_help_panel=LAYOUT
    ),
]
PLAN_OPTION = typer.Option("--plan", metavar="PLAN", help="A plan file, or a bundled plan. Repeatable.")
Files = Annotated[
    list[Path] | None,
    typer.Option(
        "-o", "--output", metavar="FILE", help="Write a picture (.svg, .png) or its numbers (.csv, .json). Repeatable."
    ),
]
Numbers = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="NAME",
        callback=any_case(*FORMATS),
        help="The numbers as table, json, csv, markdown or github. [default: a text plot]",
    ),
]


class _Kinds(TyperGroup):
    """The kinds of plots by name."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        from archcalc.errors import InputError

        if args and args[0].startswith("-") and args[0] not in ("-h", "--help"):
            hint = "options stand after it, such as archcalc plot kv k25 --context 4k..256k"
            raise InputError(f"{args[0]} stands before the kind of plot", value=args[0], hint=hint)
        found: list[str] = super().parse_args(ctx, args)
        return found

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        from archcalc.errors import InputError, did_you_mean, in_its_case, show_value

        kinds, args = ", ".join(self.commands), [in_its_case(args[0], self.commands), *args[1:]]
        if args[0] not in self.commands:
            hint = did_you_mean(args[0], self.commands) or f"plot one of {kinds}, such as archcalc plot kv k25"
            raise InputError(f"no kind of plot is named {show_value(args[0])}", value=args[0], hint=hint)
        return super().resolve_command(ctx, args)


command = typer.Typer(
    cls=_Kinds,
    subcommand_metavar="KIND SPEC...",
    help="Curves of memory, KV cache, FLOPs and training memory: as pictures, text, or the numbers behind them.",
)


@command.command(
    help="Serving memory of each device against context; with --plan, training memory against sequence length."
)
def memory(
    ctx: typer.Context,
    specs: SpecArguments,
    context: Annotated[
        str | None,
        typer.Option(
            "--context",
            metavar="FROM..TO",
            help="Lengths: 4k..256k. [default: to the model's limit; around the plan's seq]",
        ),
    ] = None,
    batch: Batches = None,
    gpu: Annotated[
        list[str] | None,
        typer.Option(
            "--gpu", metavar="NAME", help="A bundled GPU or hardware file, whose memory is the limit. Repeatable."
        ),
    ] = None,
    as_name: AsName = "released",
    gpus: Gpus = None,
    tp: Tp = None,
    pp: Pp = None,
    dp: Dp = None,
    ep: Ep = None,
    dcp: Dcp = None,
    kv_dtype: KvDtypes = None,
    block_size: BlockSize = None,
    vision: VisionTower = None,
    engine: EngineName = "vllm",
    utilization: Utilization = None,
    batched_tokens: BatchedTokens = None,
    max_num_seqs: MaxNumSeqs = None,
    sampler: SamplerName = None,
    eager: Eager = False,
    language_only: LanguageOnly = False,
    draft: Draft = None,
    mtp: Mtp = False,
    lora_rank: LoraRank = 0,
    offload_experts: OffloadExperts = None,
    overhead: Overhead = None,
    plan: Annotated[list[str] | None, PLAN_OPTION] = None,
    override: Overrides = None,
    output: Files = None,
    format_name: Numbers = None,
    units: Units = "gib",
    assumptions: Assumptions = False,
) -> None:
    """Plot of the kind `memory`."""
    from archcalc.cli.output import emit_figure
    from archcalc.documents.sizes import serving_flags
    from archcalc.documents.sweep import ask

    given = [p for p in ctx.command.params if p.name and _is_given(ctx, p.name)]
    if plan:
        ask.check_trained([param.opts[0] for param in given if param.name not in _TRAINED])
    elif override:
        ask.check_trained(["--set"], planned=False)
    figure = ask.memory(
        _models(specs, units),
        **_swept(context, batch, kv_dtype),
        gpu=gpu or (),
        plan=plan or (),
        set=override or (),
        tp=tp,
        pp=pp,
        dp=dp,
        dcp=dcp,
        as_=as_name,
        language_only=language_only,
        vision=vision,
        utilization=utilization,
        sampler=sampler,
        eager=eager,
        engine=engine,
        draft=draft,
        mtp=mtp,
        lora_rank=lora_rank,
        **serving_flags(
            gpus=gpus,
            ep=ep,
            overhead=overhead,
            batched_tokens=batched_tokens,
            max_num_seqs=max_num_seqs,
            block_size=block_size,
            offload_experts=offload_experts,
        ),
    )
    emit_figure(figure, format_name, output, units, assumptions)


@command.command(help="KV cache against context.")
def kv(
    specs: SpecArguments,
    context: Lengths = None,
    batch: Batches = None,
    tp: Tp = None,
    pp: Pp = None,
    dp: Dp = None,
    dcp: Dcp = None,
    kv_dtype: KvDtypes = None,
    block_size: BlockSize = None,
    output: Files = None,
    format_name: Numbers = None,
    units: Units = "gib",
    assumptions: Assumptions = False,
) -> None:
    """Plot of the kind `kv`."""
    from archcalc.cli.output import emit_figure
    from archcalc.documents.sweep import ask
    from archcalc.units import parse_context

    several, page = _models(specs, units), 1 if block_size is None else parse_context(block_size)
    mesh: dict[str, Any] = {"tp": tp or 1, "pp": pp or 1, "dp": dp or 1, "dcp": dcp or 1, "block_size": page}
    figure = ask.kv(several, **_swept(context, batch, kv_dtype), **mesh)
    emit_figure(figure, format_name, output, units, assumptions)


@command.command(help="FLOPs of a prefill against its length.")
def flops(
    specs: SpecArguments,
    context: Lengths = None,
    batch: Batches = None,
    output: Files = None,
    format_name: Numbers = None,
    units: Units = "gib",
    assumptions: Assumptions = False,
) -> None:
    """Plot of the kind `flops`."""
    from archcalc.cli.output import emit_figure
    from archcalc.documents.sweep import ask

    emit_figure(ask.flops(_models(specs, units), **_swept(context, batch)), format_name, output, units, assumptions)


@command.command(help="Training memory of every pipeline rank under a plan.")
def train(
    specs: SpecArguments,
    plan: Annotated[list[str], PLAN_OPTION],
    override: Overrides = None,
    output: Files = None,
    format_name: Numbers = None,
    units: Units = "gib",
    assumptions: Assumptions = False,
) -> None:
    """Plot of the kind `train`."""
    from archcalc.cli.output import emit_figure
    from archcalc.documents.sweep import ask

    figure = ask.train(_models(specs, units), plan=plan, set=override or ())
    emit_figure(figure, format_name, output, units, assumptions)


_TRAINED = {"specs", "context", "plan", "override", "output", "format_name", "units", "assumptions"}
"""What `plot memory --plan` looks at."""


def _is_given(ctx: typer.Context, name: str) -> bool:
    """Whether an option stands on the command line, whatever its value."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _models(specs: list[str], units: str) -> list[Model]:
    """The specs; unknown units are refused before anything is computed."""
    from archcalc.documents.sweep.cases import models
    from archcalc.units import check_units

    check_units(units)
    return models(specs)


def _swept(context: str | None, batch: str | None, kv_dtype: str | None = None) -> dict[str, Any]:
    """What is drawn over, and for which sequences and caches, where it is given."""
    from archcalc.documents.sweep.words import parse_batches, parse_ends, parse_names

    given = (("context", context, parse_ends), ("batch", batch, parse_batches), ("kv_dtype", kv_dtype, parse_names))
    return {name: parse(text) for name, text, parse in given if text is not None}
