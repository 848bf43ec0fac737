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
    from archcalc.documents.sweep.cases import Case, Model, Range
    from archcalc.documents.sweep.figure import Figure

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


@command.command()
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
    """Serving memory of each device against context; with --plan, training memory against sequence length."""
    from archcalc.cli.output import emit_figure
    from archcalc.cli.sizes import serving_flags
    from archcalc.errors import InputError

    given = [p for p in ctx.command.params if p.name and _is_given(ctx, p.name)]
    extra = ", ".join(param.opts[0] for param in given if param.name not in _TRAINED)
    if plan and extra:
        hint = f"leave out --plan, or {extra}"
        raise InputError(f"plot memory --plan draws training memory, and does not look at {extra}", hint=hint)
    if override and not plan:
        raise InputError("--set overrides a field of a plan", hint="add --plan k2-pretrain, or a plan file")
    several = _models(specs, units)
    if plan:
        figure = _trained(several, plan, override, context)
    else:
        from archcalc.documents.sweep.memory import memory_figure

        figure = memory_figure(
            _cases(several, batch, kv_dtype),
            _range(context, *_default(several)),
            gpu or [],
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


@command.command()
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
    """KV cache against context."""
    from archcalc.calc.kv_cache import Mesh
    from archcalc.cli.output import emit_figure
    from archcalc.documents.sweep.kv import kv_figure
    from archcalc.units import parse_context

    several, page = _models(specs, units), 1 if block_size is None else parse_context(block_size)
    mesh = Mesh(tp=tp or 1, pp=pp or 1, dp=dp or 1, dcp=dcp or 1, block_size=page)
    figure = kv_figure(_cases(several, batch, kv_dtype), _range(context, *_default(several)), mesh)
    emit_figure(figure, format_name, output, units, assumptions)


@command.command()
def flops(
    specs: SpecArguments,
    context: Lengths = None,
    batch: Batches = None,
    output: Files = None,
    format_name: Numbers = None,
    units: Units = "gib",
    assumptions: Assumptions = False,
) -> None:
    """FLOPs of a prefill against its length."""
    from archcalc.cli.output import emit_figure
    from archcalc.documents.sweep.flops import flops_figure

    several = _models(specs, units)
    figure = flops_figure(_cases(several, batch, ""), _range(context, *_default(several)))
    emit_figure(figure, format_name, output, units, assumptions)


@command.command()
def train(
    specs: SpecArguments,
    plan: Annotated[list[str], PLAN_OPTION],
    override: Overrides = None,
    output: Files = None,
    format_name: Numbers = None,
    units: Units = "gib",
    assumptions: Assumptions = False,
) -> None:
    """Training memory of every pipeline rank under a plan."""
    from archcalc.cli.output import emit_figure
    from archcalc.documents.sweep.training import train_figure, trainings

    figure = train_figure(trainings(_models(specs, units), plan, tuple(override or ())))
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
    from archcalc.units import format_bytes

    format_bytes(0, units)
    return models(specs)


def _cases(several: list[Model], batch: str | None, kv_dtype: str | None) -> list[Case]:
    from archcalc.documents.sweep.cases import cases

    dtypes = _names("bf16" if kv_dtype is None else kv_dtype)
    return cases(several, dtypes, _numbers("1" if batch is None else batch))


def _trained(several: list[Model], plans: list[str], override: list[str] | None, context: str | None) -> Figure:
    """Training memory from a quarter of the plans' sequence to eight times it, unless a range is given."""
    from archcalc.documents.sweep.training import training_memory_figure, trainings

    found = trainings(several, plans, tuple(override or ()))
    seqs = [training.plan.batch.seq for training in found]
    return training_memory_figure(found, _range(context, max(1, min(seqs) // 4), 8 * max(seqs)))


def _default(several: list[Model]) -> tuple[int, int]:
    """From 4k, or less for a short model, to the longest model's limit."""
    limit = max(model.spec.backbone.max_position_embeddings for model in several)
    return min(4096, max(1, limit // 16)), limit


def _range(text: str | None, low: int, high: int) -> Range:
    from archcalc.documents.sweep.cases import span
    from archcalc.errors import InputError, show_value
    from archcalc.units import parse_range

    if text is not None and ".." not in text:
        raise InputError(
            f"--context {show_value(text)} is no range", value=text, hint="write two lengths, such as 4k..256k"
        )
    return span(*(parse_range(text) if text is not None else (low, high)))


def _numbers(text: str) -> list[int]:
    """Whole positive numbers with commas between them, each once. Raises InputError."""
    from archcalc.errors import InputError, show_value

    words = _names(text)
    for word in words:
        if not (word.isascii() and word.isdecimal() and len(word) < 10 and int(word)):
            raise InputError(
                f"--batch {show_value(word)} is no number of sequences", value=text, hint="write --batch 1,8"
            )
    return list(dict.fromkeys(map(int, words)))


def _names(text: str) -> list[str]:
    return list(dict.fromkeys(word.strip() for word in text.split(",")))
