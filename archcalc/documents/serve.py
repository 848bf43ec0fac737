"""The `serve` report: what each GPU of a deployment holds, whether it fits, and what would make it fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any, Literal

from archcalc.documents.conventions import ENGINES_PAD, cache_lines, padding_notes
from archcalc.documents.document import Amount, Report, Table, Value
from archcalc.documents.flops import context_notes
from archcalc.documents.kept import File, held, held_spec
from archcalc.documents.receipt import parse_within, receipt
from archcalc.documents.said import spare
from archcalc.documents.serve_question import Asked, check_prices, inputs_of, question_of, tower_of
from archcalc.documents.serve_words import (
    ALL_COLUMNS,
    COUNTING,
    COUNTS,
    TERMS,
    assumptions,
    best_of,
    count_row,
    host_table,
    host_ways,
    lever_table,
    notes,
    overhead_table,
    term_rows,
    unloaded,
)
from archcalc.errors import InputError, in_its_case
from archcalc.files.loader import is_bundled
from archcalc.files.model import Spec
from archcalc.hardware import Hardware, bundled_hardware, hardware_names, load_hardware
from archcalc.serving.deployment import Vision
from archcalc.serving.engine import Sampler
from archcalc.serving.levers import Lever, levers
from archcalc.serving.log import Logged, load_log
from archcalc.serving.memory import Serving
from archcalc.serving.overhead import Load
from archcalc.serving.search import Found, called
from archcalc.units import format_int


def serve(
    spec: Spec,
    *,
    gpu: str | None = None,
    gpus: int | Literal["auto"] | None = None,
    tp: int | None = None,
    pp: int | None = None,
    dp: int | None = None,
    ep: int | Literal["all"] | None = None,
    dcp: int | None = None,
    context: int | None = None,
    batch: int = 1,
    kv_dtype: str = "bf16",
    as_: str = "released",
    engine: str = "vllm",
    utilization: float | None = None,
    overhead: int | None = None,
    batched_tokens: int | None = None,
    max_num_seqs: int | None = None,
    sampler: Sampler | None = None,
    eager: bool = False,
    block_size: int | None = None,
    language_only: bool = False,
    vision: Vision | None = None,
    draft: str | None = None,
    mtp: bool = False,
    lora_rank: int = 0,
    offload_experts: int | Literal["host"] | None = None,
    price: Mapping[str, float] | None = None,
    log: str | None = None,
    within: str | None = None,
) -> Report:
    """The `serve` command. `gpu`, `engine` and `draft` are files or bundled names, `log` is a file. `overhead` in
    [bytes]. Raises InputError."""
    asked = question_of(**locals())
    gpu = None if gpu is None else in_its_case(gpu, ("all",))
    if within is not None and log is None:
        raise InputError("--within says how far a log may be off", value=within, hint="add --log FILE")
    if log is not None and gpu == "all":
        raise InputError("a log is of one kind of GPU", value=log, hint="name it with --gpu")
    if gpu is None:
        raise InputError("no GPU is named", hint=f"add --gpu {', '.join(hardware_names())}, a file, or all")
    check_prices(asked.prices, gpu)
    if gpu == "all":
        report = serve_all_report(asked, list(bundled_hardware()))
    else:
        share = None if within is None else parse_within(within)
        report = serve_report(asked, load_hardware(gpu), None if log is None else load_log(log), share)
    return replace(report, extra={**report.extra, **_held(asked, gpu, engine, draft)})


def _held(asked: Asked, gpu: str, engine: str, draft: str | None) -> dict[str, Any]:
    """The files that an answer rests on, those that are not bundled. Raises InputError."""
    named = [File("engines", asked.question.engine.name, engine)]
    if gpu != "all":
        named.append(File("hardware", load_hardware(gpu).name, gpu))
    found = held(named)
    proposing = None if asked.question.draft is None else asked.question.draft.model
    if draft is None or not isinstance(proposing, Spec) or is_bundled(draft):
        return found
    return {"files": {**found.get("files", {}), **held_spec(proposing)}}


def serve_quantities(spec: Spec, *, gpu: str, **flags: Any) -> dict[str, Value]:
    """All `serve.*` quantities on one kind of GPU, under `flags` of `serve` and its defaults. Raises InputError."""
    asked, hardware = question_of(spec, **{**(serve.__kwdefaults__ or {}), **flags}), load_hardware(gpu)
    return _quantities(asked, asked.question.on(hardware), hardware)


def serve_report(
    asked: Asked, hardware: Hardware, logged: Logged | None = None, within: Fraction | None = None
) -> Report:
    """The answer on one kind of GPU; with counts left open, on the fewest that fit; beside what an engine `logged`,
    whose terms may be off by a share of `within`. Raises InputError."""
    question = asked.question
    found = question.on(hardware)
    best, where = found.best, found.best.where
    changes = levers(question, hardware, best, bundled_hardware())
    beside, said, beyond = ([], [], []) if logged is None else _beside(best, logged, within)
    laid = {name: getattr(where, name) for name in ("tp", "pp", "dp", "ep", "dcp")}
    chosen = {"gpus": where.devices, **laid, "kv_dtype": best.load.kv_dtype, "block_size": best.block_size}
    tried = Table("counts", "GPU counts tried", COUNTS, [count_row(s, hardware) for s in found.tries])
    return Report(
        command="serve",
        title=_title(asked, found, hardware),
        answer=[*_answer(best), *_other_layout(best, changes)],
        spec=asked.spec,
        inputs={**inputs_of(asked), "gpu": hardware.name, **chosen},
        quantities=_quantities(asked, found, hardware),
        rows=Table("rows", f"each of {where.devices}, {called(where)}", TERMS, term_rows(best)),
        tables=[
            *beside,
            *([tried] if len(found.tries) > 1 else []),
            overhead_table(best, question.engine),
            *host_table(best, hardware),
            *lever_table(changes, best),
        ],
        assumptions=[*assumptions(question, [(hardware, best)]), *asked.storage_unproven],
        conventions=(*COUNTING, *cache_lines(question.served.tape, "Cache", "dp")),
        notes=[
            *said,
            *asked.storage_notes,
            *notes(asked.spec, question, hardware, best),
            *_refusals(found),
            *([f"Searched: {found.searched}."] if found.searched else []),
        ],
        extra={
            "verdict": best.word,
            "layout": {"engine": question.engine.name, "gpu": hardware.name, **chosen, "vision": tower_of(asked)},
            **({"beyond": beyond} if within is not None else {}),
        },
    )


def _where(rows: Sequence[Mapping[str, Any]]) -> str:
    """The verdict on all GPUs: where it fits first, and on how many others."""
    best = best_of(rows)
    if best is None:
        return "fits on no GPU"
    verdict = "fits on" if best["verdict"] == "fits" else "just fits on"
    more = sum(row["fits"] for row in rows) - 1
    others = f"on {more} more" if more else "on none of the others"
    return f"{verdict} {best['gpus']} x {best['title']}, and {others} of {len(rows)} kinds of GPUs"


def _title(asked: Asked, found: Found, hardware: Hardware) -> str:
    """The verdict in a line."""
    best = found.best
    verdict = {"fits": "fits on", "does not fit": "does not fit on"}.get(best.word)
    if verdict is None:
        verdict = "just fits on" if best.fits else "just does not fit on"
    if not best.fits and len(found.tries) > 1:
        verdict = "does not fit even on"
    return f"{asked.spec.title} {verdict} {best.where.devices} x {hardware.title}"


def _answer(best: Serving) -> list[str | Amount]:
    """What is held, and what each GPU has left; where the ends of what is assumed disagree, both."""
    said: list[str | Amount] = [f"{_sequences(best.load)}, ", *spare(best.margin), " on each GPU"]
    if best.word == "tight":
        low, high = best.margins
        said += [" (", *spare(low), " to ", *spare(high), ")"]
    return said


def _other_layout(best: Serving, changes: Sequence[Lever]) -> Iterator[str]:
    """The flags under which the same load fits on as many of the same GPUs, where it does not as asked."""
    asked = (best.load, best.where.devices, best.visible)
    for change in changes if not best.fits else ():
        got = change.serving
        if got is not None and got.word == "fits" and (got.load, got.where.devices, got.visible) == asked:
            yield f"; fits with {change.flags}"
            return


def _quantities(asked: Asked, found: Found, hardware: Hardware) -> dict[str, Value]:
    best, bounds = found.best, found.best.kv_bounds
    limits = {
        "serve.max_tokens": best.max_tokens,
        "serve.max_context": best.max_context,
        "serve.max_batch": best.max_batch,
        "serve.price_per_hour": asked.cost(hardware, best.where.devices),
    }
    return {
        "serve.fits": best.fits,
        "serve.gpus": best.where.devices,
        "serve.weights_bytes": best.weights_bytes,
        "serve.overhead_bytes": best.overhead_bytes,
        "serve.kv_bytes": best.kv_bytes,
        "serve.kv_budget_bytes": best.kv_budget,
        "serve.kv_bytes_low": bounds.low,
        "serve.kv_bytes_high": bounds.high,
        "serve.margin_bytes": best.margin,
        **{name: n for name, n in limits.items() if n is not None},
        "serve.context_limit": asked.spec.backbone.max_position_embeddings,
        **_host_quantities(found, hardware),
    }


def serve_all_report(asked: Asked, gpus: list[Hardware]) -> Report:
    """The answer on every kind of GPU: the cheapest first where prices are known, else the fewest. Raises InputError
    where the model can be divided on none of them."""
    question, best, refused = asked.question, [], {}
    for hardware in gpus:
        try:
            best.append((hardware, question.on(hardware).best))
        except InputError as error:
            refused[hardware.name] = error
    if not best:
        raise next(iter(refused.values()))
    rows = []
    for hardware, s in best:
        price = asked.cost(hardware, s.where.devices)
        row = {"path": hardware.name, "title": hardware.title, **count_row(s, hardware), "price_per_hour": price}
        rows.append(row)

    def order(row: Mapping[str, Any]) -> tuple[Any, ...]:
        cost = row["price_per_hour"]
        return (not row["fits"], cost is None, cost or 0, row["gpus"], row["visible_bytes"], row["path"])

    rows.sort(key=order)
    count, priced = question.spread.fixed, any(row["price_per_hour"] is not None for row in rows)
    sorting = "the cheapest first" if priced else "the fewest first"
    columns = [c for c in ALL_COLUMNS if priced or c.key != "price_per_hour"]
    return Report(
        command="serve",
        title=f"{asked.spec.title} {_where(rows)}: {_sequences(question.load)}",
        spec=asked.spec,
        inputs={**inputs_of(asked), "gpu": "all"},
        quantities={
            "serve.fits": any(s.fits for _, s in best),
            "serve.context_limit": asked.spec.backbone.max_position_embeddings,
        },
        rows=Table(
            "rows",
            f"the fewest GPUs that fit, {sorting}" if count is None else f"{count} of each GPU, {sorting}",
            tuple(columns),
            rows,
        ),
        assumptions=[*assumptions(question, best), *asked.storage_unproven],
        conventions=(*COUNTING, *cache_lines(question.served.tape, "Cache", "dp")),
        notes=[
            *asked.storage_notes,
            *context_notes(asked.spec, question.load.context),
            *unloaded(asked.spec, question.load),
            *padding_notes((each for _, s in best for each in s.padded), ENGINES_PAD),
            *(f"{name} was left out: {error.message}." for name, error in refused.items()),
        ],
    )


def _beside(best: Serving, logged: Logged, within: Fraction | None) -> tuple[list[Table], list[str], list[str]]:
    """The receipt, what to know of it, and the terms that are further off than they may be."""
    table, said, beyond = receipt(best, logged, within)
    return [table._replace(leads=True)], said, beyond


def _host_quantities(found: Found, hardware: Hardware) -> dict[str, Value]:
    """What experts in the host's memory take there, and the speed that reading them allows."""
    host = found.best.host
    if host is None:
        return {}
    read: dict[str, Value] = {"serve.host_bytes": host.nbytes, "serve.host_bytes_per_token": host.token_bytes}
    ways = host_ways(found.best, hardware)
    if ways:
        read["serve.host_tokens_per_second"] = max(float(host.tokens_per_second(speed)) for speed in ways.values())
    return read


def _sequences(load: Load) -> str:
    return f"{load.batch} x {format_int(load.context)} tokens in {load.kv_dtype}"


def _refusals(found: Found) -> list[str]:
    """Why layouts were left out, where one of them might have fitted."""
    if found.best.fits:
        return []
    return [
        f"{name} was left out: {error.message}{f' ({error.hint})' if error.hint else ''}."
        for name, error in list(found.refused.items())[:4]
    ]
