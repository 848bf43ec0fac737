"""`archcalc serve`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from archcalc.cli.options import (
    AsName,
    Assumptions,
    Batch,
    BatchedTokens,
    BlockSize,
    Context,
    Dcp,
    Dp,
    Draft,
    Eager,
    EngineName,
    Ep,
    Format,
    Gpus,
    KvDtype,
    LanguageOnly,
    LoraRank,
    MaxNumSeqs,
    Mtp,
    OffloadExperts,
    Output,
    Overhead,
    Pp,
    SamplerName,
    SpecArgument,
    Tp,
    Units,
    Utilization,
    VisionTower,
)

if TYPE_CHECKING:
    from archcalc.documents.document import Report


HELP = "Serving memory on each GPU: whether it fits, what is left for requests, and what would make it fit."


def command(
    spec: SpecArgument,
    gpu: Annotated[
        str | None,
        typer.Option("--gpu", metavar="NAME", help="A bundled GPU (h200), a hardware file, or all for a table."),
    ] = None,
    context: Context = None,
    batch: Batch = 1,
    as_name: AsName = "released",
    gpus: Gpus = None,
    tp: Tp = None,
    pp: Pp = None,
    dp: Dp = None,
    ep: Ep = None,
    dcp: Dcp = None,
    kv_dtype: KvDtype = "bf16",
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
    price: Annotated[
        list[str] | None,
        typer.Option("--price", metavar="NAME=X", help="Of one GPU an hour: h100=2.1. Sorts --gpu all. Repeatable."),
    ] = None,
    log: Annotated[
        str | None,
        typer.Option("--log", metavar="FILE", help="What vLLM or SGLang printed: each term of it beside ours."),
    ] = None,
    within: Annotated[
        str | None,
        typer.Option(
            "--within", metavar="P%", help="Exit 1 where weights, cache or tokens of the log are further off."
        ),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Exit 1 if it does not fit.")] = False,
    format_name: Format = None,
    output: Output = None,
    units: Units = "gib",
    assumptions: Assumptions = False,
) -> None:
    """Answer a command line."""
    from archcalc.cli.output import emit
    from archcalc.documents.serve import serve
    from archcalc.documents.sizes import parse_prices, serving_flags
    from archcalc.errors import CheckFailed
    from archcalc.hf.spec import load_spec

    loaded = load_spec(spec)
    flags: dict[str, Any] = serving_flags(
        gpus=gpus,
        ep=ep,
        context=context,
        overhead=overhead,
        batched_tokens=batched_tokens,
        max_num_seqs=max_num_seqs,
        block_size=block_size,
        offload_experts=offload_experts,
    )
    report: Report = serve(
        loaded,
        gpu=gpu,
        tp=tp,
        pp=pp,
        dp=dp,
        dcp=dcp,
        batch=batch,
        kv_dtype=kv_dtype,
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
        price=parse_prices(price),
        log=log,
        within=within,
        **flags,
    )
    emit(report, format_name, output, units, assumptions)
    if beyond := report.extra.get("beyond"):
        raise CheckFailed(f"further than {within} from the log: {', '.join(beyond)}")
    if check and not report.quantities["serve.fits"]:
        raise CheckFailed(report.title if gpu != "all" else f"{loaded.title} fits on no GPU")
