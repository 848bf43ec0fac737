"""Everything a spec's model keeps for backward, segment by segment."""

from __future__ import annotations

from collections.abc import Mapping

from archcalc.reference.fields import Section
from archcalc.reference.saved.ends import Loss, embedding_bytes, head_bytes
from archcalc.reference.saved.layer import layer_bytes
from archcalc.reference.saved.options import Core, Kernels, RouterProbs
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

    A layer pattern stands under its first layer (`model.layers.1` for layers 1 to 60), the tower's blocks
    under block 0, final norm with head and loss under `lm_head`. No patches, no tower.

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
    sizes = {"hidden": section.integer("hidden_size"), "vocabulary": section.integer("vocab_size")}
    found = {f"{prefix}model.embed_tokens": embedding_bytes(tokens=tokens, **sizes)}
    first, known = 0, dict[tuple[str, str], int]()
    for pattern in section.sections("layers"):
        kind = pattern.word("attention"), pattern.word("ffn")
        if kind not in known:
            known[kind] = layer_bytes(
                backbone,
                attention=kind[0],
                ffn=kind[1],
                tokens=tokens,
                batch=batch,
                kernels=kernels,
                core=core,
                router_probs=router_probs,
                recompute=recompute,
                fp8=fp8,
            )
        found[f"{prefix}model.layers.{first}"] = known[kind]
        first += pattern.integer("count")
    found[f"{prefix}lm_head"] = head_bytes(backbone, tokens=tokens, kernels=kernels, loss=loss)
    return found | (_tower(spec, patches) if patches and prefix else {})


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
