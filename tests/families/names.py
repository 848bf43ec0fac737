"""Names that the public classes give their tensors, and archcalc's paths: one common name for both."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from functools import cache
from math import prod

RENAMED = (
    # a name of either side                               the common one
    (r"^(?:model\.)?language_model\.lm_head\.", "lm_head."),
    (r"^(?:model\.language_model|language_model\.model)\.", "model."),
    (r"^(?:embed_tokens|layers|norm)\.", r"model.\g<0>"),
    (r"^model\.(visual|vision_tower|mm_projector)\.", r"\1."),
    # a mixture of experts
    (r"\.block_sparse_moe\.", ".mlp."),
    (r"\.mlp\.router(\.layer)?\.weight$", ".mlp.gate.weight"),
    (r"\.mlp\.(?:moe_statics\.|gate\.moe_statics\.)?e_score_correction_bias$", ".mlp.gate.e_score_correction_bias"),
    (r"\.experts\.\*\.w1\.", ".experts.*.gate_proj."),
    (r"\.experts\.\*\.w2\.", ".experts.*.down_proj."),
    (r"\.experts\.\*\.w3\.", ".experts.*.up_proj."),
    # Kimi Linear
    (r"\.self_attn\.forget_gate\.", ".self_attn."),
    # the tower of Kimi K2.5
    (r"^vision_tower\.(?:encoder\.blocks|layers)\.(\d+)\.", r"vision_tower.\1."),
    (r"^(vision_tower\.\d+)\.wo\.", r"\1.attn.proj."),
    (r"^vision_tower\.encoder\.final_layernorm\.", "vision_tower.final_layernorm."),
    (r"^vision_tower\.patch_embed\.pos_emb\.\w+$", "vision_tower.patch_embed.pos_emb"),
    (r"^mm_projector\.(?:proj\.0|in_proj)\.", "mm_projector.0."),
    (r"^mm_projector\.(?:proj\.2|out_proj)\.", "mm_projector.2."),
)

OURS = (
    # Kimi K2.5: its checkpoint counts the norms and linears of a block from 0, its class from 1
    (r"^(vision_tower\.\d+)\.norm1\.", r"\1.norm2."),
    (r"^(vision_tower\.\d+)\.norm0\.", r"\1.norm1."),
    (r"^(vision_tower\.\d+\.mlp)\.fc1\.", r"\1.fc2."),
    (r"^(vision_tower\.\d+\.mlp)\.fc0\.", r"\1.fc1."),
)

FUSED = {
    # what a class or a checkpoint keeps in one tensor and the other side in several
    "glm4": ((r"\.mlp\.(?:gate|up)_proj\.", ".mlp.gate_up_proj."),),
    "phi3": (
        (r"\.mlp\.(?:gate|up)_proj\.", ".mlp.gate_up_proj."),
        (r"\.self_attn\.[qkv]_proj\.", ".self_attn.qkv_proj."),
    ),
    "kimi_linear": ((r"\.self_attn\.[qkv]_conv1d\.", ".self_attn.conv1d."),),
    "kimi_k25": ((r"^(vision_tower\.\d+)\.(?:wqkv|attn\.[qkv]_proj)\.", r"\1.attn.qkv."),),
}

STACK = re.compile(r"(.*\.experts)\.(gate_up_proj|down_proj)")
"""Experts of a layer in one tensor: [experts, 2 * width, hidden] or [experts, hidden, width]."""


def common(path: str, model_type: str) -> str:
    """The common name of a tensor of the public class."""
    return _renamed(path, (*RENAMED, *FUSED.get(model_type, ())))


def named(elements: Mapping[str, int], model_type: str) -> Counter[str]:
    """archcalc's elements by common name."""
    found: Counter[str] = Counter()
    for path, count in elements.items():
        found[_renamed(common(path, model_type), OURS)] += count
    return found


def public(shapes: Mapping[str, tuple[int, ...]], model_type: str) -> Counter[str]:
    """A public class's elements by common name, stacks of experts taken apart."""
    found: Counter[str] = Counter()
    for name, shape in shapes.items():
        paths = _matrices(name)
        for path in paths:
            found[common(path, model_type)] += prod(shape) // len(paths)
    return found


def _matrices(name: str) -> tuple[str, ...]:
    """The matrices of one expert that a stack holds, or the tensor itself."""
    stack = STACK.fullmatch(name)
    if stack is None:
        return (name,)
    matrices = ("gate_proj", "up_proj") if stack[2] == "gate_up_proj" else ("down_proj",)
    return tuple(f"{stack[1]}.*.{matrix}.weight" for matrix in matrices)


@cache
def _renamed(path: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, name in rules:
        path = re.sub(pattern, name, path)
    return path


def differences(ours: Mapping[str, int], theirs: Mapping[str, int]) -> list[str]:
    """A line for each name of which the two sides hold different numbers of elements."""
    names = sorted({*ours, *theirs})
    return [
        f"{name}: {ours.get(name, 0):,} here, {theirs.get(name, 0):,} in the public class"
        for name in names
        if ours.get(name, 0) != theirs.get(name, 0)
    ]
