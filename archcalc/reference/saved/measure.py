"""Everything a spec's model keeps for backward, segment by segment."""

from __future__ import annotations

from collections.abc import Mapping

from archcalc.reference.fields import Section
from archcalc.reference.norm_kinds import norm_name
from archcalc.reference.patterns import layer_kinds
from archcalc.reference.saved.ends import Loss, embedding_bytes, head_bytes
from archcalc.reference.saved.layer import kind_storages
from archcalc.reference.saved.modules import dtype_of, kind_of
from archcalc.reference.saved.options import Core, Kernels, Options, RouterProbs
from archcalc.reference.saved.vision import (
    patch_embed_bytes,
    projector_bytes,
    vision_block_bytes,
    vision_norm_bytes,
)

Plain = Mapping[str, object]


def measure(
    spec: Mapping[str, Plain],
    *,
    seq: int,
    batch: int = 1,
    patches: int = 0,
    kernels: Kernels = "fused",
    core: Core = "flash",
    router_probs: RouterProbs = "act",
    recompute: frozenset[str] = frozenset(),
    fp8: frozenset[str] = frozenset(),
    loss: Loss = "kernels",
) -> dict[str, int]:
    """Bytes kept by one of each segment [bytes], by the module path of the first such segment.

    Each kind of layer stands once, under the first layer of that kind (`model.layers.1` for layers 1 to 60), the
    tower's blocks under block 0, final norm with head and loss under `lm_head`, learned positions and the embedding's
    norm with the token embedding. No patches, no tower.

    Args:
        spec: the whole spec as a plain mapping; `backbone`, `vision` and `projector` are read.
        seq: tokens of one sequence.
        batch: sequences of a micro-batch.
        patches: patches of one chunk that goes through the tower and the projector.
        kernels: see `Options`, as the rest; `loss` as in `Head`.

    Raises:
        InputError: a key or a name isn't known.
    """
    backbone, tokens = spec["backbone"], seq * batch
    section = Section(backbone, "backbone")
    prefix = "language_model." if spec.get("vision") else ""
    options = Options(kernels=kernels, core=core, router_probs=router_probs, recompute=recompute, fp8=fp8)
    found = {f"{prefix}model.embed_tokens": _embedding(section, tokens, kernels)}
    kinds = layer_kinds(section)
    for kind in dict.fromkeys(kinds):
        storages = kind_storages(backbone, kind, tokens=tokens, batch=batch, options=options)
        found[f"{prefix}model.layers.{kinds.index(kind)}"] = sum(storage.bytes for storage in storages)
    found[f"{prefix}lm_head"] = head_bytes(backbone, tokens=tokens, kernels=kernels, loss=loss)
    return found | (_tower(spec, patches) if patches and prefix else {})


def _embedding(backbone: Section, tokens: int, kernels: Kernels) -> int:
    normed = backbone.has("embedding_norm")
    return embedding_bytes(
        hidden=backbone.integer("hidden_size"),
        vocabulary=backbone.integer("vocab_size"),
        tokens=tokens,
        positions=backbone.optional_integer("position_embeddings"),
        norm=kind_of(backbone, norm_name(backbone, "embedding_norm")) if normed else None,
        kernels=kernels,
        dtype=dtype_of(backbone),
    )


def _tower(spec: Mapping[str, Plain], patches: int) -> dict[str, int]:
    vision = spec["vision"]
    found = {
        "vision_tower.patch_embed": patch_embed_bytes(vision, patches),
        "vision_tower.encoder.blocks.0": vision_block_bytes(vision, patches),
        "vision_tower.encoder.final_layernorm": vision_norm_bytes(vision, patches),
    }
    if spec.get("projector"):
        found["mm_projector"] = projector_bytes(spec["projector"], vision, patches)
    return found
