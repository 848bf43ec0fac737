"""The receipt of a serving answer: each of its terms beside what an engine printed when it started."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any

from archcalc.documents.document import Column, Table, Unit
from archcalc.documents.serve_words import OVERHEAD_LABELS
from archcalc.errors import InputError, show_value
from archcalc.serving.engine import Bounds, End
from archcalc.serving.log import MEASURED, Logged
from archcalc.serving.memory import Device, Serving
from archcalc.units import format_bytes, format_int

COLUMNS = (
    Column("term", "memory of one GPU"),
    Column("ours", "ours", "own"),
    Column("low", "ours, low", "own"),
    Column("high", "ours, high", "own"),
    Column("theirs", "the log's", "own"),
    Column("difference", "difference", "own"),
    Column("percent", "of the log's", "share"),
    Column("line", "line", "int"),
    Column("within", "within", "bool"),
)
LOADED = ("absorbed", "rotary", "draft", "mtp", "lora")
"""Terms that an engine counts as weights: they are loaded beside the checkpoint's tensors."""
LOADED_WORDS = {
    "absorbed": "absorbed copies",
    "rotary": "rotary tables",
    "draft": "draft model",
    "mtp": "prediction module",
    "lora": "adapters",
}
RANGES = {"activation_bytes": "activation", "non_torch_bytes": "non_torch", "cuda_graphs_bytes": "cuda_graphs"}
"""Terms of which a range is assumed: the log's figure lies in it or not, and no check fails for it."""
LABELS = {
    "total_bytes": "visible memory",
    **{term: OVERHEAD_LABELS[kind] for term, kind in RANGES.items()},
    "kv_bytes": "room for KV cache",
    "tokens": "cached tokens of one engine",
}
NAMES = {"vllm": "vLLM", "sglang": "SGLang"}
PRINTED = (1 << 30) // 200
"""Half of the last digit that engines print [bytes]."""
SAME_SHARE = Fraction(1, 2000)
SAME_MEMORY = Fraction(1, 200)
"""Differences up to which a utilization and a GPU's memory are the ones that were asked for."""


def receipt(serving: Serving, logged: Logged, within: Fraction | None) -> tuple[Table, list[str], list[str]]:
    """What was computed beside what an engine printed, notes on what they differ in, and the terms beyond `within`.

    `within` is a share of the log's weights, cache memory and cached tokens; None: nothing is checked.

    Raises:
        InputError: a log that has none of what `within` checks.
    """
    rows = list(_rows(serving, logged, within))
    if within is not None and all(row["term"] in {"total_bytes", *RANGES} for row in rows):
        hint = "give the log from the engine's start, at level INFO, or leave out --within"
        raise InputError("--within has nothing to check: the log says neither weights nor cache", hint=hint)
    beyond = [row["term"] for row in rows if row["within"] is False and row["term"] not in RANGES]
    title = f"this answer beside the log of {NAMES[logged.engine]}" + (f" {logged.version}" if logged.version else "")
    return Table("receipt", title, COLUMNS, rows), [*_asked(serving, logged), *_read(serving, logged)], beyond


def parse_within(text: str) -> Fraction:
    """How far a term may be off, as a share: "5%" is 1/20. Raises InputError."""
    found = re.fullmatch(r"\s*([0-9]{1,3}(?:\.[0-9]{1,6})?)\s*%\s*", text)
    if found is None or (share := Fraction(found[1]) / 100) > 1:
        raise InputError(
            f"{show_value(text)} is not a percentage up to 100%", value=text, hint="write it as in --within 5%"
        )
    return share


# -- rows ----------------------------------------------------------------------------------------------------------


def _rows(serving: Serving, logged: Logged, within: Fraction | None) -> Iterator[dict[str, Any]]:
    for term in ("total_bytes", *MEASURED):
        theirs, ours = getattr(logged, term), _ours(serving, term)
        if theirs is None or ours is None:
            continue
        value, bounds = ours
        unit: Unit = "tokens" if term == "tokens" else "bytes"
        yield {
            "term": term,
            "label": _weights_label(serving) if term == "weights_bytes" else LABELS[term],
            "unit": unit,
            "ours": value,
            "low": bounds.low,
            "high": bounds.high,
            "theirs": theirs,
            "difference": value - theirs,
            "percent": (value - theirs) / abs(theirs) if theirs else None,
            "line": logged.lines[term],
            "within": _verdict(term, value, bounds, theirs, within),
        }


def _verdict(term: str, ours: int, bounds: Bounds, theirs: int, within: Fraction | None) -> bool | None:
    if term in RANGES:
        return bounds.low - PRINTED <= theirs <= bounds.high + PRINTED
    if within is None or term == "total_bytes":
        return None
    return abs(ours - theirs) <= within * abs(theirs)


def _ours(serving: Serving, term: str) -> tuple[int, Bounds] | None:
    """Our figure with its range, or None where there is none."""
    if term == "total_bytes":
        return serving.visible, Bounds(serving.visible, serving.visible)
    if term == "kv_bytes":
        ends = [serving.worst.room(end) for end in ("low", "high")]
        return serving.worst.room(), Bounds(min(ends), max(ends))
    if term == "tokens":
        found = [_tokens(serving, end) for end in ("low", "middle", "high")]
        known = sorted(n for n in found if n is not None)
        return None if found[1] is None else (found[1], Bounds(known[0], known[-1]))
    if term == "weights_bytes":
        held = [_loaded(device) for device in serving.devices]
        most = max(held, key=lambda bounds: bounds.middle)
        return most.middle, most
    if serving.load.overhead is not None:
        return None
    kinds = [_sum(device, (RANGES[term],)) for device in serving.devices]
    most = max(kinds, key=lambda bounds: bounds.high)
    return most.middle, most


def _loaded(device: Device) -> Bounds:
    return Bounds(device.weights_bytes, device.weights_bytes) + _sum(device, LOADED)


def _sum(device: Device, kinds: Iterable[str]) -> Bounds:
    found = [term.bounds for term in device.terms if term.kind in kinds]
    return Bounds(sum(b.low for b in found), sum(b.high for b in found))


def _tokens(serving: Serving, end: End) -> int | None:
    """Cached tokens of one of dp engines at an end of what is assumed, as `Serving.max_tokens` counts them."""
    rooms = [(device, max(0, device.room(end))) for device in serving.devices]
    longest = min((n for d, room in rooms if (n := d.cache.longest(room)) is not None), default=None)
    if longest is None or not serving.pool.hybrid:
        return longest
    return min(room * serving.load.context // d.sequence_bytes for d, room in rooms)


def _weights_label(serving: Serving) -> str:
    """What stands beside the checkpoint's tensors in the row of the weights."""
    kinds = {term.kind for device in serving.devices for term in device.terms}
    words = [LOADED_WORDS[kind] for kind in LOADED if kind in kinds]
    return f"weights with {', '.join(words)}" if words else "weights"


# -- notes ---------------------------------------------------------------------------------------------------------


def _asked(serving: Serving, logged: Logged) -> Iterator[str]:
    """What the engine was told otherwise than this answer was asked, with what to type."""
    asked, context = serving.worst, serving.load.context
    if serving.load.overhead is None and asked.share_of_free != (logged.engine == "sglang"):
        yield f"The log is of {NAMES[logged.engine]}, this answer is not: add --engine {logged.engine}."
    if logged.utilization is not None and abs(logged.utilization - asked.share) > SAME_SHARE:
        used, ours = float(logged.utilization), float(asked.share)
        yield f"The log (line {logged.lines['utilization']}) used --utilization {used!r}, this answer {ours!r}."
    if logged.total_bytes is not None and abs(logged.total_bytes - asked.visible) > SAME_MEMORY * asked.visible:
        theirs, ours_bytes = format_bytes(logged.total_bytes), format_bytes(asked.visible)
        yield (
            f"The log's GPU (line {logged.lines['total_bytes']}) has {theirs}, that of this answer {ours_bytes}: name"
            f" another with --gpu, or a file that says memory_visible_bytes: {theirs.replace(' ', '')}."
        )
    if logged.max_model_len is not None and logged.max_model_len != context:
        line = logged.lines["max_model_len"]
        yield f"The log (line {line}) used --context {logged.max_model_len}, this answer {context}."


def _read(serving: Serving, logged: Logged) -> Iterator[str]:
    """How the log was read."""
    for term in MEASURED:
        if term in logged.spans:
            word = "least" if getattr(logged, term) == logged.spans[term][0] else "most"
            low, high = (format_int(n) if term == "tokens" else format_bytes(n) for n in logged.spans[term])
            name = "weights" if term == "weights_bytes" else LABELS[term]
            yield f"Ranks print {low} to {high}, {name}: the {word} is taken."
    if logged.starts > 1:
        yield f"The log has {logged.starts} starts of the engine: the last one is read."
    if logged.block_size is not None:
        yield f"The log prints pages: its tokens are those times {logged.block_size} tokens a page."
    if serving.load.overhead is not None and any(getattr(logged, term) is not None for term in RANGES):
        yield "With --overhead, activation, non-torch memory and CUDA graphs are not compared."
