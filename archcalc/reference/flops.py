"""FLOPs of one full-size step, by module path, measured while the whole twin runs on meta."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from archcalc.reference import pixels
from archcalc.reference.attention import AttentionCore
from archcalc.reference.experts import StackedLinear
from archcalc.reference.fields import Section
from archcalc.reference.flopcount import ModuleFlops, Product
from archcalc.reference.guards import full_scores, refuse_gradient, refuse_halved_scores, refuse_zero, scores_of
from archcalc.reference.indexer import Indexer
from archcalc.reference.model import Model, MultimodalModel, build, new_cache, prediction_paths, text_of
from archcalc.reference.pixels import Grid

COUNTED = (nn.Linear, nn.Conv2d, nn.Conv3d, Product)
"""Modules that cost FLOPs; all others are gathers, norms and elementwise work, which count as none."""


def flops(
    spec: Mapping[str, object],
    *,
    seq: int,
    batch: int = 1,
    images: Sequence[tuple[int, int]] = (),
    videos: Sequence[tuple[int, int, int]] = (),
    context: int = 0,
    mla: Literal["expanded", "absorbed"] = "expanded",
    logits: Literal["all", "last"] = "all",
    backward: bool = False,
    mtp: bool = False,
    model: Model | None = None,
) -> dict[str, tuple[int, int]]:
    """Module path -> (forward, backward) [FLOPs, 2 a multiply-add]; backward is 0 unless asked for.

    Attention is counted with full scores: torch never halves causal ones. A sliding window and an indexer are
    counted with the keys that they leave: min(context + rows, window or index_topk) of each query. No gradient
    reaches an indexer: its backward is 0. Routing is balanced to within one
    row an expert. Pixels need no gradient, so the patch convolution's backward has its weight gradient only.
    Paths have no `.weight`; attention is `...self_attn.core` (`...blocks.{i}.core` in the vision tower); a
    routed expert matrix `...mlp.experts.*.gate_proj` stands for all experts of its layer. Parts that don't
    run are absent.

    Args:
        spec: plain mapping of a whole spec.
        seq: new text tokens of each sequence; its vision tokens come on top.
        batch: sequences; each has all the images and videos.
        images: (height, width) [px].
        videos: (sampled frames, height, width) [frames, px, px].
        context: tokens of each sequence that the cache already holds.
        mla: whether latents are expanded to keys and values or absorbed into the queries.
        logits: head on all rows or on each sequence's last.
        backward: also run the backward pass, from the sum of the logits; context must be 0.
        mtp: also run the prediction modules; their pass through the shared head is booked on the head.
        model: the twin of this spec on meta, if there is one already.

    Raises:
        InputError: for a spec the twin can't build, or images without a vision section.
        TwinError: when a part counts no FLOPs, or torch runs a product that it has no rule for.
    """
    if backward and context:
        raise ValueError("there is no backward pass through cached context")
    model = build(spec) if model is None else model
    chunks, vision_tokens = _vision_of(spec, images, videos)
    parts = {part: path for path, part in _parts(model) if _runs(path, model, vision=bool(chunks), mtp=mtp)}
    cache = new_cache(model, batch, context + vision_tokens + seq) if context else None
    if cache is not None:
        cache.advance(context)
    inputs = _inputs(model, chunks * batch, batch, vision_tokens, seq)
    scores = _watch_scores(parts, {part: _cached(path, model, context) for part, path in parts.items()})
    with nullcontext() if backward else torch.no_grad(), ModuleFlops(parts) as counted, scores as full:
        total = model(**inputs, cache=cache, absorbed=mla == "absorbed", last=logits == "last").sum()
        if mtp:
            total = total + _predictions(model, batch, vision_tokens + seq)
        if backward:
            total.backward()
    model.zero_grad()
    refuse_zero(counted.forward, "forward")
    for path, products in full.items():
        refuse_halved_scores(counted.forward[path], products)
    if backward:
        untrained = _untrained(model)
        inside = {path: count for path, count in counted.backward.items() if path.startswith(untrained)}
        refuse_gradient(inside)
        refuse_zero({path: count for path, count in counted.backward.items() if path not in inside}, "backward")
    return {path: (forward, counted.backward[path]) for path, forward in counted.forward.items()}


def _vision_of(
    spec: Mapping[str, object], images: Sequence[tuple[int, int]], videos: Sequence[tuple[int, int, int]]
) -> tuple[list[Grid], int]:
    if not images and not videos:
        return [], 0
    vision = Section(spec, "spec").section("vision")
    chunks = pixels.grids(vision, images, videos)
    return chunks, pixels.tokens(vision, chunks)


def _parts(model: Model) -> Iterator[tuple[str, nn.Module]]:
    for name, module in model.named_modules():
        if isinstance(module, COUNTED):
            stacked = isinstance(module, StackedLinear)
            yield name.replace(".experts.", ".experts.*.") if stacked else name, module


def _untrained(model: Model) -> tuple[str, ...]:
    """Path prefixes of what no gradient reaches, each with its final dot."""
    return tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, Indexer))


def _cached(path: str, model: Model, context: int) -> int:
    """Cached rows that a part sees: the prediction modules run without a cache."""
    return 0 if path.startswith(prediction_paths(model)) else context


@contextmanager
def _watch_scores(parts: Mapping[nn.Module, str], cached: Mapping[nn.Module, int]) -> Iterator[dict[str, int]]:
    """FLOPs that each attention core is to have: of all operands that reach it inside the block, or, where it has a
    limit, of no more keys than that."""
    full = {path: 0 for part, path in parts.items() if isinstance(part, AttentionCore)}

    def add(core: Any, operands: tuple[Any, ...]) -> None:
        query, key, value, *_ = operands
        if core.limit is None:
            full[parts[core]] += full_scores(query, key, value)
        else:
            full[parts[core]] += scores_of(query, min(cached[core] + query.shape[1], core.limit), value)

    hooks = [part.register_forward_pre_hook(add) for part in parts if isinstance(part, AttentionCore)]
    try:
        yield full
    finally:
        for hook in hooks:
            hook.remove()


def _runs(path: str, model: Model, *, vision: bool, mtp: bool) -> bool:
    if isinstance(model, MultimodalModel) and path.startswith(model.pictures):
        return vision
    return mtp or not path.startswith(prediction_paths(model))


def _inputs(
    model: Model, chunks: list[Grid], batch: int, vision_tokens: int, seq: int
) -> dict[str, Tensor | list[Grid]]:
    rows = vision_tokens + seq
    inputs: dict[str, Tensor | list[Grid]] = {"ids": torch.empty(batch, rows, dtype=torch.long, device="meta")}
    if chunks and isinstance(model, MultimodalModel):
        inputs["pixels"] = model.tower.pixels(sum(frames * height * width for frames, height, width in chunks))
        inputs["grids"] = chunks
        inputs["places"] = torch.empty(batch * vision_tokens, dtype=torch.long, device="meta")
    return inputs


def _predictions(model: Model, batch: int, seq: int) -> Tensor:
    text = text_of(model)
    ids = torch.empty(batch, seq, dtype=torch.long, device="meta")
    modules = range(len(text.model.layers) - text.model.depth)
    hidden = text.model.embed_tokens(ids)
    return torch.stack([text.predict(module, hidden, ids).sum() for module in modules]).sum()
