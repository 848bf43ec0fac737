"""Bytes that autograd keeps from forward to backward, measured on the twin's own modules: the second opinion on
activations.

One of each kind of segment is built from a spec's plain mapping, in its dtype, and run forward on the meta device
(shapes and no data, so the full sizes of a trillion-parameter model cost nothing). Every storage that the graph still
holds at the end is counted once. No formula stands here: what is counted is what `torch.autograd` was given to keep.
A segment is charged its own input: its first operation saves it, and the segment before doesn't.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from archcalc.errors import InputError
from archcalc.reference.fields import Section
from archcalc.reference.kernels.options import Options
from archcalc.reference.kernels.recompute import checkpointed
from archcalc.reference.model import TextModel, factory, levels, projector_of, tower_of
from archcalc.reference.patterns import layer_kinds
from archcalc.reference.pixels import Grid
from archcalc.reference.places import text_path
from archcalc.reference.storages import saved_bytes
from archcalc.reference.tower import Tower, owned
from archcalc.reference.training import Training

Loss = Literal["kernels", "bf16", "chunked"]
CHUNK = 1024
"""Tokens of a chunk of the chunked loss; what is kept doesn't depend on it."""


def measure(
    spec: Mapping[str, object],
    *,
    seq: int,
    batch: int = 1,
    patches: int = 0,
    loss: Loss = "kernels",
    training: Training | None = None,
    **how: Any,
) -> dict[str, int]:
    """Bytes kept by one of each segment [bytes], by the module path of the first such segment.

    Each kind of layer stands once, under the first layer of that kind (`model.layers.1` for layers 1 to 60), and so do
    the tower's blocks, final norm with head and loss under `lm_head`, learned positions and the embedding's norm with
    the token embedding. No patches, no tower; of the options only the kernels reach it.

    Args:
        spec: the whole spec as a plain mapping; `backbone`, `vision` and `projector` are read.
        seq: tokens of one sequence.
        batch: sequences of a micro-batch; beside their number only the `unfused` core's score matrix depends on it.
        patches: patches of one chunk that goes through the tower and the projector.
        loss: see `head_loss`.
        training: what of the text model trains; all of it by default.
        how: fields of `Options`.

    Raises:
        InputError: a key or a name isn't known, or the patches don't fill whole merge groups.
    """
    if loss not in get_args(Loss):
        raise InputError(f"loss: {loss} is none of {', '.join(get_args(Loss))}", value=loss)
    root = Section(spec, "spec")
    vision, options = root.optional_section("vision"), Options(**how)
    segments = _text(root.section("backbone"), (batch, seq), loss, options, training or Training())
    found = {text_path(vision, path): kept for path, kept in segments}
    return found | ({} if vision is None or not patches else dict(_tower(root, vision, patches, options)))


def _text(
    section: Section, sizes: tuple[int, int], loss: Loss, options: Options, training: Training
) -> Iterator[tuple[str, int]]:
    kinds = layer_kinds(section)
    make = factory(section, options=options)
    model = TextModel(section, make, list(dict.fromkeys(kinds)))
    training.prepare(model, make)
    backbone = model.model
    ids = torch.zeros(sizes, dtype=torch.int64, device="meta")
    x = backbone.embed_tokens(ids).detach().requires_grad_(training.entry)
    now = backbone.now(x)
    of_model = [*owned(model), *now.angles.values()]  # rotary angles are the model's, not a layer's
    of_model += [] if now.blocks is None else [now.blocks.outputs]  # kept by the layers that made them
    yield "model.embed_tokens", saved_bytes(lambda: backbone.embedded(backbone.embed_tokens(ids)), of_model)
    for kind, layer in zip(dict.fromkeys(kinds), backbone.layers, strict=True):
        theirs = [*of_model, *now.picked.values()]  # what earlier layers picked, they keep
        yield f"model.layers.{kinds.index(kind)}", saved_bytes(partial(layer, x, now), theirs)
    last = partial(backbone.source, x, now)
    yield "lm_head", saved_bytes(lambda: head_loss(model, last().flatten(0, 1), ids.flatten(), loss), of_model)


def head_loss(model: TextModel, x: Tensor, labels: Tensor, loss: Loss) -> Tensor:
    """Final norm, output projection, mean cross-entropy of [T,W], [T] int64. No region of the layers reaches it.

    Args:
        model: whose norm, head and kernels.
        loss: `kernels`: what they do with whole logits: eager ones upcast them and keep the fp32 log-softmax, fused
            ones keep the fp32 softmax. `bf16`: eager cross-entropy on logits that are not upcast. `chunked`: logits
            of `CHUNK` tokens at a time, dropped and computed again in backward.
    """
    x = model.model.norm(x)
    if loss == "kernels":
        return model.model.norm.kernels.cross_entropy(model.lm_head(x), labels)
    if loss == "bf16":
        return functional.cross_entropy(model.lm_head(x), labels)

    def summed(x: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(model.lm_head(x).float(), labels, reduction="sum")

    pieces = zip(x.split(CHUNK), labels.split(CHUNK), strict=True)
    return torch.stack([checkpointed(True, summed, *piece) for piece in pieces]).sum() / labels.numel()


def _tower(root: Section, vision: Section, patches: int, options: Options) -> Iterator[tuple[str, int]]:
    kernels = Options(kernels=options.kernels)
    tower = tower_of(vision, factory(vision, options=kernels))
    height, width = tower.merge
    if patches % (height * width):
        raise InputError(f"{patches} patches don't fill groups of {height} x {width}")
    for path, of_model, run in tower.pieces(patches):
        yield path, saved_bytes(run, of_model)
    section = root.section("projector")
    make = factory(section, options=kernels)
    projector, grids = projector_of(section, tower, levels(vision), make), tower.grids(patches)
    for path, merger in projector.pieces():
        x = torch.empty(patches // (height * width), height * width, projector.features, **make.at, requires_grad=True)
        yield path, saved_bytes(partial(_projected, tower, merger, x, grids), owned(merger))


def _projected(tower: Tower, merger: nn.Module, x: Tensor, grids: list[Grid]) -> Tensor:
    """Features of one level as the backbone wants them."""
    return tower.in_order(merger(x), grids)
