"""What a serving engine printed of its memory when it started, read from its log.

Each rank prints the same lines: the most weights and overhead, and the least cache, are taken, as those decide what
fits. SGLang prints one for a model and one for its draft, for each pool and each sort of graph: a rank's lines add up.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from archcalc.errors import InputError
from archcalc.files.text_file import contents
from archcalc.limits import LOG_BYTES, hold
from archcalc.serving.log_lines import (
    RULES,
    SHORTEST,
    EngineName,
    Rule,
    Seen,
    read_line,
    starts_engine,
    uncoloured,
    version_in,
)

MAX_LINE = 1 << 20
"""Characters of a line."""

MEASURED = ("weights_bytes", "activation_bytes", "non_torch_bytes", "cuda_graphs_bytes", "kv_bytes", "tokens")
"""Terms of which a log must have one."""
TERMS = ("total_bytes", "utilization", *MEASURED, "max_model_len")
DEFAULT_BLOCK = 16
"""Tokens of a page where a log counts its pages and does not say how large they are (V0's default)."""
LOOKED_FOR = (
    "Model loading took",
    "Available KV cache memory",
    "GPU KV cache size",
    "model weights take",
    "Load weight end",
    "KV Cache is allocated",
)

_LEAST = frozenset({"kv_bytes", "tokens", "blocks", "block_size", "max_model_len"})
_FIRST = frozenset({"utilization", "total_bytes"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged:
    """What a log says, None where it does not.

    Attributes:
        engine: whose log it is.
        version: of the engine.
        total_bytes: visible memory of a device [bytes].
        utilization: the share of it that the engine was told to use.
        weights_bytes: with all that is loaded beside the checkpoint's tensors [bytes of a device].
        activation_bytes, non_torch_bytes, cuda_graphs_bytes: [bytes of a device].
        kv_bytes: room for the cache; negative where weights did not fit [bytes of a device].
        tokens: that one engine, or one scheduler, caches.
        max_model_len: the longest sequence [tokens].
        lines: the line of the log that each of these is from, from 1.
        spans: the least and the most where ranks print different values.
        starts: how often the engine was started; only the last start that came to its memory is read.
        block_size: tokens of a page by which `tokens` was multiplied; None where the log prints tokens.
    """

    engine: EngineName
    version: str | None = None
    total_bytes: int | None = None
    utilization: Fraction | None = None
    weights_bytes: int | None = None
    activation_bytes: int | None = None
    non_torch_bytes: int | None = None
    cuda_graphs_bytes: int | None = None
    kv_bytes: int | None = None
    tokens: int | None = None
    max_model_len: int | None = None
    lines: Mapping[str, int]
    spans: Mapping[str, tuple[int, int]]
    starts: int = 1
    block_size: int | None = None


@dataclass(slots=True)
class _Start:
    """The values of one start of an engine, by the form of their line."""

    seen: dict[Rule, list[Seen]] = field(default_factory=dict)
    version: tuple[str, int] | None = None

    def read(self, line: str, number: int) -> None:
        for rule, value in read_line(line, number):
            self.seen.setdefault(rule, []).append(value)
        if self.version is None and (name := version_in(line)):
            self.version = name, number

    @property
    def engine(self) -> EngineName | None:
        """The engine whose lines are more, or None where nothing is said of memory."""
        lines: dict[EngineName, int] = {}
        for engine in ("sglang", "vllm"):
            seen = {rule.term: len(found) for rule, found in self.seen.items() if rule.engine == engine}
            if not seen.keys().isdisjoint((*MEASURED, "blocks")) or {"before_bytes", "after_bytes"} <= seen.keys():
                lines[engine] = sum(seen.values())
        return max(lines, key=lines.__getitem__, default=None)


class _Found:
    """The value of each term of one engine, its line, and what ranks print else."""

    def __init__(self, engine: EngineName, start: _Start) -> None:
        self.values: dict[str, Any] = {}
        self.lines: dict[str, int] = {}
        self.spans: dict[str, tuple[int, int]] = {}
        for rule in RULES:
            if rule.engine == engine and rule.term not in self.values and rule in start.seen:
                self._take(rule, start.seen[rule])

    def _take(self, rule: Rule, seen: list[Seen]) -> None:
        found = _added(seen) if rule.summed else seen
        low = min(found, key=lambda each: (each.value, each.line))
        high = max(found, key=lambda each: (each.value, -each.line))
        taken = found[0] if rule.term in _FIRST else low if rule.term in _LEAST else high
        self.set(rule.term, taken.value, taken.line)
        if low.value != high.value:
            self.spans[rule.term] = int(low.value), int(high.value)

    def set(self, term: str, value: int | Fraction, line: int) -> None:
        self.values[term], self.lines[term] = value, line


def load_log(path: str | os.PathLike[str]) -> Logged:
    """What a log file says. Raises InputError for one that can't be read, or says nothing of memory."""
    source = os.fsdecode(path)
    raw = contents(path, LOG_BYTES.most + 1, "a log")
    try:
        if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise InputError("this is UTF-16 text", hint="save the log as UTF-8")
        hold(LOG_BYTES, len(raw))
        return read_log(raw.decode("utf-8", "replace"))
    except InputError as error:
        raise error.at(source=source) from None


def read_log(text: str) -> Logged:
    """What the text of a log says.

    Raises:
        InputError: no line on memory, numbers that can't be, or no text of a log.
    """
    hold(LOG_BYTES, len(text))
    if "\0" in text:
        raise InputError("this is a binary file, not the text of a log", hint="if it is compressed, unpack it")
    starts = [start for start in _starts(text) if start.engine]
    if not starts or (engine := starts[-1].engine) is None:
        raise InputError(
            "no line on memory of vLLM or SGLang was found",
            hint=f"looked for {', '.join(map(repr, LOOKED_FOR))} and their like: give the log from the engine's"
            " start, at level INFO",
        )
    return _logged(engine, starts[-1], len(starts))


def _starts(text: str) -> list[_Start]:
    """The starts of an engine in a log: one begins where one has come to its memory before."""
    starts = [_Start()]
    for number, line in enumerate(text.split("\n"), start=1):
        if len(line) > MAX_LINE:
            raise InputError(
                "a line is longer than 1 MiB", line=number, hint="is this a log? its lines take some hundred characters"
            )
        if len(line) < SHORTEST:
            continue
        plain = uncoloured(line)
        if starts_engine(plain) and starts[-1].engine:
            starts.append(_Start())
        starts[-1].read(plain, number)
    return starts


def _logged(engine: EngineName, start: _Start, starts: int) -> Logged:
    found = _Found(engine, start)
    values, lines = found.values, found.lines
    block_size = None
    if "tokens" not in values and "blocks" in values:
        block_size = max(1, values.get("block_size", DEFAULT_BLOCK))
        found.set("tokens", values["blocks"] * block_size, lines["blocks"])
    if "weights_bytes" not in values and {"before_bytes", "after_bytes"} <= set(values):
        found.set("weights_bytes", *_loaded(start))
    if "non_torch_bytes" not in values and {"consumed", "weights_bytes"} <= set(values):
        found.set("non_torch_bytes", values["consumed"] - values["weights_bytes"], lines["consumed"])
    version = start.version if engine == "vllm" else None
    kept = {term: values[term] for term in TERMS if term in values}
    return Logged(
        engine=engine,
        version=None if version is None else version[0],
        **kept,
        lines={**{term: lines[term] for term in kept}, **({} if version is None else {"version": version[1]})},
        spans={term: span for term, span in found.spans.items() if term in kept},
        starts=starts,
        block_size=block_size,
    )


def _added(seen: list[Seen]) -> list[Seen]:
    """The sum of each rank's lines, at its first one."""
    ranks: dict[str, Seen] = {}
    for each in seen:
        before = ranks.get(each.rank)
        ranks[each.rank] = each if before is None else before._replace(value=before.value + each.value)
    return list(ranks.values())


def _loaded(start: _Start) -> tuple[int, int]:
    """The most weights of a rank, where it prints only what is free before and after them, and the line."""
    free = {rule.term: seen for rule, seen in start.seen.items() if rule.term in ("before_bytes", "after_bytes")}
    before = {each.rank: each for each in _added(free["before_bytes"])}
    after = [each for each in _added(free["after_bytes"]) if each.rank in before]
    if not after:
        before, after = {"": free["before_bytes"][0]}, [free["after_bytes"][0]._replace(rank="")]
    used = [(int(before[each.rank].value - each.value), each.line) for each in after]
    return max(used, key=lambda pair: (pair[0], -pair[1]))
