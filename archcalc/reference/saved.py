"""Bytes that autograd keeps from forward to backward, measured on the twin's own modules: the second opinion on
activations.

One of each kind of segment is built from a spec's plain mapping, in its dtype, and run forward on the meta device
(shapes and no data, so the full sizes of a trillion-parameter model cost nothing). Every storage that the graph still
holds at the end is counted once. No formula stands here: what is counted is what `torch.autograd` was given to keep.
A segment is charged its own input: its first operation saves it, and the segment before doesn't.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from archcalc.errors import InputError
from archcalc.reference.fields import Section
from archcalc.reference.kernels.options import Options
from archcalc.reference.kernels.recompute import checkpointed
from archcalc.reference.model import TextModel, factory
from archcalc.reference.patterns import layer_kinds
from archcalc.reference.projector import PatchMerger
from archcalc.reference.storages import saved_bytes
from archcalc.reference.vision import MoonViT3D

Loss = Literal["kernels", "bf16", "chunked"]
CHUNK = 1024
"""Tokens of a chunk of the chunked loss; what is kept doesn't depend on it."""


def measure(
    spec: Mapping[str, object], *, seq: int, batch: int = 1, patches: int = 0, loss: Loss = "kernels", **how: Any
) -> dict[str, int]:
    """Bytes kept by one of each segment [bytes], by the module path of the first such segment.

    Each kind of layer stands once, under the first layer of that kind (`model.layers.1` for layers 1 to 60), the
    tower's blocks under block 0, final norm with head and loss under `lm_head`, learned positions and the embedding's
    norm with the token embedding. No patches, no tower; no option reaches it.

    Args:
        spec: the whole spec as a plain mapping; `backbone`, `vision` and `projector` are read.
        seq: tokens of one sequence.
        batch: sequences of a micro-batch; beside their number only the `unfused` core's score matrix depends on it.
        patches: patches of one chunk that goes through the tower and the projector.
        loss: see `head_loss`.
        how: fields of `Options`.

    Raises:
        InputError: a key or a name isn't known, or the patches don't fill whole merge groups.
    """
    if loss not in get_args(Loss):
        raise InputError(f"loss: {loss} is none of {', '.join(get_args(Loss))}", value=loss)
    root = Section(spec, "spec")
    prefix = "language_model." if root.has("vision") else ""
    segments = _text(root.section("backbone"), (batch, seq), loss, Options(**how))
    found = {f"{prefix}{path}": kept for path, kept in segments}
    return found | (dict(_tower(root, patches)) if patches and prefix else {})


def _text(section: Section, sizes: tuple[int, int], loss: Loss, options: Options) -> Iterator[tuple[str, int]]:
    kinds = layer_kinds(section)
    model = TextModel(section, factory(section, options=options), list(dict.fromkeys(kinds)))
    backbone = model.model
    ids = torch.zeros(sizes, dtype=torch.int64, device="meta")
    x = backbone.embed_tokens(ids).detach().requires_grad_()
    now = backbone.now(x)
    owned = [*_owned(model), *now.angles.values()]  # rotary angles are the model's, not a layer's
    owned += [] if now.blocks is None else [now.blocks.outputs]  # kept by the layers that made them
    yield "model.embed_tokens", saved_bytes(lambda: backbone.embedded(backbone.embed_tokens(ids)), owned)
    for kind, layer in zip(dict.fromkeys(kinds), backbone.layers, strict=True):
        theirs = [*owned, *now.picked.values()]  # what earlier layers picked, they keep
        yield f"model.layers.{kinds.index(kind)}", saved_bytes(partial(layer, x, now), theirs)
    last = partial(backbone.source, x, now)
    yield "lm_head", saved_bytes(lambda: head_loss(model, last().flatten(0, 1), ids.flatten(), loss), owned)


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


def _tower(root: Section, patches: int) -> Iterator[tuple[str, int]]:
    section = root.section("vision")
    tower = MoonViT3D(section, factory(section, options=Options()))
    embed, encoder, grids = tower.patch_embed, tower.encoder, [(1, 1, patches)]  # any grid stands for all
    kernel = embed.proj.weight
    pixels = kernel.new_empty(patches, *kernel.shape[1:])  # they need no gradient, but give the weight's
    x = kernel.new_empty(patches, kernel.shape[0], requires_grad=True)
    angles = encoder.angles(grids)
    yield "vision_tower.patch_embed", _kept(embed, lambda: embed(pixels, grids))
    block = encoder.blocks[0]
    yield "vision_tower.encoder.blocks.0", saved_bytes(lambda: block(x, angles, grids), [*_owned(block), angles])
    yield "vision_tower.encoder.final_layernorm", _kept(encoder, lambda: encoder.final_layernorm(x))
    if root.has("projector"):
        yield "mm_projector", _projector(root.section("projector"), tower, patches)


def _projector(section: Section, tower: MoonViT3D, patches: int) -> int:
    height, width = tower.merge
    if patches % (height * width):
        raise InputError(f"{patches} patches don't fill groups of {height} x {width}")
    make = factory(section, options=Options())
    merger = PatchMerger(section, height * width, make)
    x = torch.empty(patches // (height * width), height * width, section.integer("mm_hidden_size"), **make.at)
    return _kept(merger, lambda: merger(x.requires_grad_()))


def _kept(module: nn.Module, run: Callable[[], Tensor]) -> int:
    return saved_bytes(run, _owned(module))


def _owned(module: nn.Module) -> list[Tensor]:
    """Parameters and buffers: what a count of activations leaves out."""
    return [*module.parameters(), *module.buffers()]
