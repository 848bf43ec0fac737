"""KV cache: a fold over what attention caches, one token and one layer at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from archcalc.errors import InputError, did_you_mean
from archcalc.tape import Cache, Segment, Tape, product


class Layout(NamedTuple):
    """How a cache stores its elements [bytes an element], and the scales beside them.

    `scale_bytes` for every `scale_group` elements of a latent; 0 for none.
    """

    item_bytes: Mapping[str, int]
    scale_bytes: int = 0
    scale_group: int = 1
    needs: str = ""


def _uniform(size: int) -> dict[str, int]:
    return dict.fromkeys(("latent", "rope", "key", "value"), size)


LAYOUTS: dict[str, Layout] = {
    "bf16": Layout(_uniform(2)),
    "fp8": Layout(_uniform(1)),
    "int8": Layout(_uniform(1)),
    "fp8_ds_mla": Layout({"latent": 1, "rope": 2}, scale_bytes=4, scale_group=128, needs="multi-head latent attention"),
}
"""Cache dtypes by vLLM's names. `fp8_ds_mla`: FP8 latent with one fp32 scale for 128 elements, rotary key in
bf16: 656 bytes a layer and token for a latent of 512 and a rotary key of 64. `int8` and `fp8` hold no
scales."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mesh:
    """How attention is spread over devices.

    Attributes:
        tp: tensor parallel: key-value heads are divided, then replicated; an MLA latent is never divided.
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
    """What the layers of one segment cache for one token, unsharded [bytes a token and layer]."""

    path: str
    indices: tuple[int, ...]
    layers: int
    kind: str
    elements: int
    nbytes: int


def cache_rows(tape: Tape, dtype: str) -> list[CacheRow]:
    """Everything cached a token, by segment and kind. Raises InputError for a layout that does not fit."""
    how = layout(dtype)
    rows = []
    for segment, cache in _caches(tape):
        if cache.kind not in how.item_bytes:
            raise InputError(f"cache dtype {dtype} needs {how.needs}", value=dtype, hint="use bf16, fp8 or int8")
        path = f"{segment.path}.self_attn"
        elements = product(cache.features)
        rows.append(CacheRow(path, segment.indices, segment.count, cache.kind, elements, _stored(cache, how)))
    return rows


def bytes_per_token(tape: Tape, dtype: str) -> int:
    """Cache of one token over all layers, one copy of it [bytes]."""
    return sum(row.layers * row.nbytes for row in cache_rows(tape, dtype))


def bytes_per_token_and_device(tape: Tape, dtype: str, mesh: Mesh) -> int:
    """Cache of one token on the fullest device that holds it [bytes].

    Key-value heads are divided over TP and replicated past their number; layers are divided over PP, first
    stages taking one more where they don't divide. Raises InputError where heads and TP don't fit.
    """
    how = layout(dtype)
    cache_rows(tape, dtype)
    per_layer: dict[int, int] = {}
    for segment, cache in _caches(tape):
        heads = {d.name: d for d in cache.features if d.axis == "kv_heads"}
        nbytes = _stored(cache, how)
        for head in heads.values():
            if head.size % mesh.tp and mesh.tp % head.size:
                raise InputError(
                    f"{head.name} {head.size} can be neither divided nor replicated over tp {mesh.tp}",
                    value=mesh.tp,
                )
            copies = max(1, mesh.tp // head.size)
            if mesh.dcp > copies:
                raise InputError(
                    f"dcp {mesh.dcp} is more than the {copies} copies of {head.size} {head.name}",
                    value=mesh.dcp,
                    hint="decode context parallel divides what tensor parallel would replicate",
                )
            nbytes = nbytes // head.size * max(1, head.size // mesh.tp)
        for i in segment.indices:
            per_layer[i] = per_layer.get(i, 0) + nbytes
    layers = [per_layer[i] for i in sorted(per_layer)]
    if mesh.pp > len(layers):
        raise InputError(f"pp {mesh.pp} is more than the {len(layers)} layers", value=mesh.pp)
    return max(sum(stage) for stage in _stages(layers, mesh.pp))


def pages(tokens: int, mesh: Mesh) -> int:
    """Tokens that a sequence of `tokens` takes on one device, in whole pages."""
    per_device = -(-tokens // mesh.dcp)
    return -(-per_device // mesh.block_size) * mesh.block_size


def tokens_in(memory: int, token_bytes: int, mesh: Mesh) -> int:
    """Tokens that fit into `memory` bytes of each device, in whole pages; DCP and DP devices hold others."""
    return memory // (token_bytes * mesh.block_size) * mesh.block_size * mesh.dcp * mesh.dp


def check_heads(tape: Tape, tp: int) -> None:
    """Raises InputError unless every attention's heads divide over `tp`."""
    for segment in tape.segments:
        for op in segment.ops:
            for storage in op.outputs if op.kind == "attention" and segment.part == "backbone" else ():
                for d in storage.features:
                    if d.axis == "heads" and d.size % tp:
                        raise InputError(
                            f"{d.name} {d.size} can't be divided over tp {tp}",
                            value=tp,
                            hint=f"choose a tp that divides {d.size}",
                        )


def _caches(tape: Tape) -> list[tuple[Segment, Cache]]:
    return [
        (segment, cache)
        for segment in tape.segments
        if segment.part == "backbone"
        for op in segment.ops
        for cache in op.caches
    ]


def _stored(cache: Cache, how: Layout) -> int:
    """Bytes of one token and layer, scales included."""
    elements = product(cache.features)
    scales = -(-elements // how.scale_group) * how.scale_bytes if cache.kind == "latent" else 0
    return elements * how.item_bytes[cache.kind] + scales


def _stages(layers: list[int], pp: int) -> list[list[int]]:
    """Layers cut into `pp` runs; the first ones are one longer where they don't divide."""
    size, more = divmod(len(layers), pp)
    cuts = [0]
    for stage in range(pp):
        cuts.append(cuts[-1] + size + (stage < more))
    return [layers[a:b] for a, b in pairwise(cuts)]
