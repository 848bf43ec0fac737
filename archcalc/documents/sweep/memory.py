"""Serving memory of each device against the context: weights, overhead, KV cache, and where they pass the limit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from archcalc.documents.conventions import ENGINES_PAD, padding_notes
from archcalc.documents.document import Column
from archcalc.documents.serve_words import verdict
from archcalc.documents.sweep.cases import CONTEXT, Case, Range
from archcalc.documents.sweep.figure import Figure, Layer, Limit, Mark, Series, series
from archcalc.documents.sweep.placed import Placed, assumed, placed
from archcalc.limits import PANELS
from archcalc.serving.memory import Serving
from archcalc.units import format_int

USABLE = Column("limit_bytes", "usable", "bytes")
TERMS = (
    Column("weights_bytes", "weights", "bytes"),
    Column("overhead_bytes", "overhead", "bytes"),
    Column("kv_bytes", "KV cache", "bytes"),
    Column("total_bytes", "total", "bytes"),
    USABLE,
    Column("margin_bytes_low", "left, from", "bytes"),
    Column("margin_bytes_high", "to", "bytes"),
    Column("verdict", "verdict"),
)
CROSSINGS = (
    "where the memory ends",
    (
        Column("last_context", "longest that fits", "tokens"),
        Column("last_context_low", "at least", "tokens"),
        Column("last_context_high", "at most", "tokens"),
        USABLE,
        Column("layout", "layout"),
    ),
)
LAYERS = (
    Layer("weights", ("weights_bytes",), hue=0),
    Layer("overhead", ("overhead_bytes",), hue=5),
    Layer("KV cache", ("kv_bytes",), hue=3),
)
COUNTING = "Weights, overhead at the middle of what is assumed, and KV cache in whole pages, as `serve` counts them"


def memory_figure(found: Sequence[Case], over: Range, gpu: Sequence[str] = (), **flags: Any) -> Figure:
    """Weights, overhead and KV cache of each device against the context: a stack for each case, or else lines.

    `gpu` are files or bundled names, `flags` those of `serve`; without a GPU devices have any size.

    Raises:
        InputError: a model that can't be divided so, a cache dtype that does not fit it, or too many cases.
    """
    held = placed(found, gpu, over.high, **flags)
    lines, words = len(held) > PANELS.most, list(dict.fromkeys(each.words for each in held))
    subject = "each device" if any(each.where.devices > 1 for each in held) else "one device"
    inputs: dict[str, Any] = {}
    for each in held:  # the tower's place is known where there is one
        inputs |= {name: value for name, value in each.inputs.items() if value is not None or name not in inputs}
    judged = "; the verdict is that of the middle, tight where the ends disagree" if gpu else ""
    drawn = [_series(each, over, lines=lines, several=len(gpu) > 1) for each in held]
    notes = [note for each in held for note in each.notes()]
    if any(len({row.get("limit_bytes") for row in each.rows.values()}) > 1 for each in drawn):
        notes.append(
            "What is usable depends on the fullest stage or on the context; the line is the longest context's."
        )
    notes += padding_notes((size for each in held for size in each.found.best.padded), ENGINES_PAD)
    return Figure(
        kind="memory",
        text=f"memory of {subject} against context",
        series=drawn,
        over=over,
        shape="lines" if lines else "areas",
        across=CONTEXT,
        x_label="context of a sequence [tokens]",
        y_label=f"memory of {subject}",
        heading=f"memory of {subject}",
        columns=TERMS,
        subtitle=words[0] if len(words) == 1 else "",
        inputs=inputs if gpu else {"gpu": [], **inputs},
        crossings=CROSSINGS,
        assumptions=assumed(held),
        conventions=(f"{COUNTING}: of the device with the least left at each context{judged}.",),
        notes=list(dict.fromkeys(notes)),
    )


def _series(each: Placed, over: Range, *, lines: bool, several: bool) -> Series:
    """A stack with the model's own limit, or as one of many lines its height, whose name has the verdict."""
    rows = {x: _row(each, each.at(x)) for x in over.drawn()}
    words, limit = "", None
    crossing: dict[str, Any] = {}
    marks: tuple[Mark, ...] = ()
    if each.gpu:
        last, low, high = (each.last(list(rows), end) for end in ("middle", "high", "low"))
        words, limit = _verdict(each, last, low, high, over), _limit(each, several=several)
        if any(not row["fits"] for x, row in rows.items() if last is None or x < last):
            words += ", not at every length before"
        crossing = {"last_context": last, "last_context_low": low, "last_context_high": high}
        crossing |= {"limit_bytes": limit.value, "layout": each.layout}
        if last is not None and over.low <= last < over.high:
            marks = (Mark(last, each.at(last).usable, words),)
    return series(
        each,
        rows,
        (Layer(words, ("total_bytes",)),) if lines else LAYERS,
        over,
        crossing,
        verdict=words,
        limit=limit,
        marks=marks,
        edge=None if lines else over.edge(each.model.spec),
    )


def _row(each: Placed, s: Serving) -> dict[str, Any]:
    """What `serve` says at one context."""
    held = {"weights_bytes": s.weights_bytes, "overhead_bytes": s.overhead_bytes, "kv_bytes": s.kv_bytes}
    row: dict[str, Any] = {**held, "total_bytes": sum(held.values()), "gpus": s.where.devices, "layout": each.layout}
    if each.gpu is None:
        return row
    low, high = s.margins
    left = {"margin_bytes": s.margin, "margin_bytes_low": low, "margin_bytes_high": high}
    return {**row, "limit_bytes": s.usable, **left, "fits": s.fits, "verdict": verdict(s.word, s.fits)}


def _limit(each: Placed, *, several: bool) -> Limit:
    """The line that the stack should stay under; the longest context's, where it depends on that."""
    s, engine = each.found.best, each.question.engine
    of = "the visible memory" if engine.share_of == "visible" else "what is free before weights are loaded"
    more = " and what comes on top" if any(term.outside for term in s.worst.terms) else ""
    whose = f" of {each.gpu.key}" if several and each.gpu else ""
    fixed = engine.reserve is None or not several or each.question.load.utilization is not None
    share = f"{float(s.worst.share) * 100:g} %" if fixed else "the default share"
    short = ("usable", f"of {each.gpu.key}") if each.gpu else ("usable",)
    return Limit(s.usable, f"usable{whose}, {share} of {of}{more} ({engine.name})", short)


def _verdict(each: Placed, last: int | None, low: int | None, high: int | None, over: Range) -> str:
    """In words, the longest context that fits: 0 where none does, None where all do [tokens]; and between which two it
    lies by what is assumed, where the range shows some of that."""
    if last is None:
        found = "fits at any length"
    elif last < 1:
        found = "the cache does not fit at any length" if each.at(1).kv_budget else "weights and overhead do not fit"
    elif last < over.low:
        found = f"fits up to {format_int(last)} tokens, before this range"
    else:
        found = f"fits up to {format_int(last)} tokens{', past this range' if last >= over.high else ''}"
    if low == high or low is None or low >= over.high or (high is not None and high < over.low):
        return found
    return f"{found.removesuffix(', past this range')}, tight from {format_int(low + 1)}"
