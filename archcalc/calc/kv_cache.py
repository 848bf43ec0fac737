"""The cache of a sequence as a function of its length: a fold over what the backbone's mixers keep between steps."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from math import inf
from typing import NamedTuple

from archcalc.calc.sharding import Shards, local_features
from archcalc.errors import InputError, did_you_mean
from archcalc.tape import Cache, Segment, Span, Tape, product
from archcalc.tape.values import ITEM_BYTES


class Item(NamedTuple):
    """How one kind of entry is stored: an element, and a scale for every `group` of them [bytes]."""

    nbytes: int
    scale: int = 0
    group: int = 1

    def size(self, elements: int) -> int:
        """So many elements with their scales [bytes]."""
        return elements * self.nbytes + -(-elements // self.group) * self.scale


class Layout(NamedTuple):
    """How a cache stores its entries by kind; `other` is for all kinds that are not named, None for none of them."""

    kinds: Mapping[str, Item]
    other: Item | None = None


_SCALED = Item(1, scale=4, group=128)

LAYOUTS: dict[str, Layout] = {
    "bf16": Layout({}, Item(2)),
    "fp8": Layout({}, Item(1)),
    "int8": Layout({}, Item(1)),
    "fp8_ds_mla": Layout({"latent": _SCALED, "rope": Item(2), "index": _SCALED}),
}
"""Cache dtypes by vLLM's names. `fp8_ds_mla`: FP8 latent with one fp32 scale for 128 elements, rotary key in bf16:
656 bytes a layer and token for a latent of 512 and a rotary key of 64, and 132 for an indexer's key of 128 (vLLM,
deepseek_v2.py, DeepseekV32IndexerCache). `int8` and `fp8` hold no scales."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mesh:
    """How attention is spread over devices.

    Attributes:
        tp: tensor parallel: key-value heads are divided, then replicated; an entry that all heads share is not divided.
        dcp: decode context parallel: the tokens of a sequence divided within the TP group (vLLM).
        pp: pipeline parallel: layers divided.
        dp: attention data parallel: sequences divided.
        block_size: tokens of a page; a sequence takes whole pages on each device.
    """

    tp: int = 1
    dcp: int = 1
    pp: int = 1
    dp: int = 1
    block_size: int = 1

    def __post_init__(self) -> None:
        for name in ("tp", "dcp", "pp", "dp", "block_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}", value=getattr(self, name))
        if self.dcp > self.tp or self.tp % self.dcp:
            raise InputError(
                f"dcp {self.dcp} does not divide tp {self.tp}: context is spread within the tp group",
                value=self.dcp,
                hint="choose a --dcp that divides --tp",
            )

    def pages(self, tokens: int) -> int:
        """Tokens that a sequence of `tokens` takes on one device, in whole pages."""
        per_device = -(-tokens // self.dcp)
        return -(-per_device // self.block_size) * self.block_size


def layout(name: str) -> Layout:
    """A cache layout by name. Raises InputError."""
    if name not in LAYOUTS:
        raise InputError(
            f"unknown cache dtype {name}",
            value=name,
            hint=did_you_mean(name, LAYOUTS) or f"one of {', '.join(LAYOUTS)}",
        )
    return LAYOUTS[name]


class CacheRow(NamedTuple):
    """What each layer of one segment keeps of a sequence, unsharded: entries of one kind, as many as `span` says."""

    path: str
    indices: tuple[int, ...]
    layers: int
    kind: str
    elements: int
    nbytes: int
    span: Span

    def at(self, tokens: int) -> int:
        """All layers' entries of a sequence of `tokens` [bytes]."""
        return self.layers * self.nbytes * self.span.entries(tokens)

    def growth(self, tokens: int) -> Fraction:
        """What one more token adds to that [bytes]."""
        return self.layers * self.nbytes * self.span.growth(tokens)


def cache_rows(tape: Tape, dtype: str) -> list[CacheRow]:
    """Every kind of entry by segment, `nbytes` and `elements` of one; entries of a module that are alike in kind and
    span together. Raises InputError for a layout without it."""
    rows: dict[tuple[str, tuple[int, ...], str, Span], CacheRow] = {}
    for segment, path, cache in _caches(tape):
        nbytes, elements = _stored(path, cache, dtype, Shards()), product(cache.features)
        key = (path, segment.indices, cache.kind, cache.span)
        row = rows.get(key) or CacheRow(path, segment.indices, segment.count, cache.kind, 0, 0, cache.span)
        rows[key] = row._replace(elements=row.elements + elements, nbytes=row.nbytes + nbytes)
    return list(rows.values())


Stage = tuple[tuple[Span, int], ...]
"""What the layers of a pipeline stage keep: bytes of an entry of all of them together, by span."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceCache:
    """The cache of one sequence on the fullest device that holds it, as a function of the sequence's length."""

    stages: tuple[Stage, ...]
    mesh: Mesh

    def at(self, tokens: int) -> int:
        """The cache of a sequence of `tokens`, in whole pages [bytes]."""
        return max(sum(n * span.entries(tokens, self.mesh.pages) for span, n in stage) for stage in self.stages)

    def growth(self, tokens: int) -> Fraction:
        """What one more token adds to a sequence of `tokens`, pages and stages aside [bytes]."""
        return sum((n * span.growth(tokens) for stage in self.stages for span, n in stage), Fraction(0))

    def fixed(self, tokens: int) -> Fraction:
        """What does not grow with the length: the whole less growth times length [bytes]."""
        whole = sum(n * span.entries(tokens) for stage in self.stages for span, n in stage)
        return whole - self.growth(tokens) * tokens

    def longest(self, memory: int, sequences: int = 1) -> int | None:
        """The most tokens that each of `sequences` may have within `memory` bytes, in whole pages of every device.

        The exact inverse of `at`; None where a sequence of any length fits, 0 where none does.
        """
        unit = self.mesh.block_size * self.mesh.dcp
        full = max((span.full_at for stage in self.stages for span, _ in stage), default=0)
        if full != inf and sequences * self.at(int(full)) <= memory:
            return None
        low, high = 0, 1
        while sequences * self.at(high * unit) <= memory:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if sequences * self.at(middle * unit) <= memory else (low, middle)
        return low * unit


def sequence_cache(tape: Tape, dtype: str, mesh: Mesh | None = None, *, mtp: bool = False) -> SequenceCache:
    """The cache of one sequence: one copy of it, or what the fullest device of a mesh holds; with `mtp` the
    multi-token-prediction modules' too, on the last stage.

    Heads are divided over TP, key-value heads replicated past their number; layers are divided over PP as
    `stage_layers` says. Raises InputError where heads and TP don't fit, or for a layout that does not know an entry.
    """
    mesh = mesh or Mesh()
    shards = Shards(tp=mesh.tp)
    kept: list[tuple[tuple[int, ...], Span, int]] = []
    for segment, path, cache in _caches(tape, ("backbone", "mtp") if mtp else ("backbone",)):
        kept.append((segment.indices, cache.span, _stored(path, cache, dtype, shards)))
        _check_dcp(cache, mesh)
    depth = sum(segment.count for segment in tape.segments if segment.part == "backbone" and segment.indices)
    ends = stage_layers(depth, mesh.pp)
    if mtp:  # modules are numbered on from the last layer
        ends[-1] = (ends[-1][0], max((depth, *(indices[-1] + 1 for indices, _, _ in kept if indices))))
    return SequenceCache(stages=tuple(_stage(kept, range(*pair)) for pair in ends), mesh=mesh)


def _check_dcp(cache: Cache, mesh: Mesh) -> None:
    """Raises InputError where context would be spread over devices that hold different heads, or a window would be
    (vLLM, v1/kv_cache_interface.py, SlidingWindowSpec: "DCP not support sliding window")."""
    if mesh.dcp > 1 and cache.span.kind == "window":
        raise InputError(
            f"dcp {mesh.dcp} can't divide a sliding window of {cache.span.size} tokens",
            value=mesh.dcp,
            hint="leave out --dcp",
        )
    for head in cache.features:
        copies = max(1, mesh.tp // head.size)
        if head.axis == "kv_heads" and mesh.dcp > copies:
            raise InputError(
                f"dcp {mesh.dcp} is more than the {copies} copies of {head.size} {head.name}",
                value=mesh.dcp,
                hint="decode context parallel divides what tensor parallel would replicate",
            )


def _caches(tape: Tape, parts: Collection[str] = ("backbone",)) -> Iterator[tuple[Segment, str, Cache]]:
    """Every entry of the backbone, or of the given parts, with the module that keeps it."""
    for segment in tape.segments:
        for op in segment.ops if segment.part in parts else ():
            for cache in op.caches:
                yield segment, op.path.rpartition(".")[0], cache


def _stored(path: str, cache: Cache, dtype: str, shards: Shards) -> int:
    """Bytes of one entry on one device, scales included. Raises InputError for a layout that does not know it."""
    how = layout(dtype)
    item = Item(ITEM_BYTES[cache.dtype]) if cache.dtype else how.kinds.get(cache.kind, how.other)
    if item is None:
        raise InputError(
            f"cache dtype {dtype} stores {', '.join(how.kinds)} and nothing else, and {path.replace('{i}', '*')} keeps"
            f" {cache.kind}",
            value=dtype,
            hint=f"use {', '.join(name for name, other in LAYOUTS.items() if other.other)}",
        )
    return item.size(local_features(cache.features, shards))


def stage_layers(depth: int, pp: int) -> list[tuple[int, int]]:
    """First and past-the-last layer of each of `pp` pipeline stages.

    Where they don't divide, stages before the last take one more, from the last but one on (vLLM,
    distributed/utils.py, get_pp_indices). Raises InputError for more stages than layers.
    """
    if pp > depth:
        raise InputError(f"pp {pp} is more than the {depth} layers", value=pp)
    size, more = divmod(depth, pp)
    cuts = [0]
    for stage in range(pp):
        cuts.append(cuts[-1] + size + (pp - 1 - more <= stage < pp - 1))
    return list(pairwise(cuts))


def among(indices: Sequence[int], stage: range) -> slice:
    """Which of some layers, in order, a stage has."""
    return slice(bisect_left(indices, stage.start), bisect_left(indices, stage.stop))


def _stage(kept: Iterable[tuple[tuple[int, ...], Span, int]], stage: range) -> Stage:
    """What layers of a stage keep, spans in the order in which its layers first do."""
    first: dict[Span, tuple[int, int]] = {}
    held: dict[Span, int] = {}
    for n, (indices, span, nbytes) in enumerate(kept):
        here = indices[among(indices, stage)]
        if here:
            first[span] = min(first.get(span, (here[0], n)), (here[0], n))
            held[span] = held.get(span, 0) + len(here) * nbytes
    return tuple((span, held[span]) for span in sorted(first, key=lambda span: first[span]))
