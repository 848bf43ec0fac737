"""Checkpoint paths against the parameter names that Hugging Face transformers uses inside its classes.

transformers renames while it loads, fuses expert matrices and splits the vision tower's wqkv. The rules
here are written out by hand, one a line, so that a name nobody expected shows up as a finding.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

UNMAPPED = "transformers:"
"""Prefix of the path of a parameter or buffer that no rule knows."""

DERIVED = re.compile(
    r"(^|\.)((?:(?:sliding|full)_attention_)?(?:original_)?inv_freq|time_position_embeddings|embed_scale)$"
)
"""Buffers that transformers computes from the config: no checkpoint has them. Gemma 3 has its frequencies by type of
layer, and the root of the hidden size as a factor on its embeddings."""

_TEXT_PARTS = "|".join(
    (
        r"embed_tokens",
        r"norm",
        r"layers\.\d+\.(?:input_layernorm|post_attention_layernorm)",
        r"layers\.\d+\.(?:pre_feedforward_layernorm|post_feedforward_layernorm)",
        r"layers\.\d+\.self_attn\.(?:q_a_proj|q_a_layernorm|q_b_proj|kv_a_proj_with_mqa|kv_a_layernorm|kv_b_proj)",
        r"layers\.\d+\.self_attn\.(?:q_proj|k_proj|v_proj|o_proj|q_norm|k_norm|core)",
        r"layers\.\d+\.self_attn\.indexer\.(?:wq_b|wk|k_norm|weights_proj|core)",
        r"layers\.\d+\.mlp\.(?:shared_experts\.)?(?:gate_proj|up_proj|down_proj)",
        r"layers\.\d+\.mlp\.gate",
        r"layers\.\d+\.(?:enorm|hnorm|eh_proj|shared_head\.norm)",
        r"layers\.\d+\.mlp\.experts\.\*\.(?:gate_proj|up_proj|down_proj)",
    )
)
_TEXT = re.compile(rf"model\.(?:{_TEXT_PARTS})\.(?:weight|bias|e_score_correction_bias)|lm_head\.weight")

_RULES = (
    # transformers' name, as a pattern                                  the checkpoint's path
    (r"model\.language_model\.(.*)", r"language_model.model.\1"),
    (r"lm_head\.(.*)", r"language_model.lm_head.\1"),
    (r"model\.vision_tower\.patch_embed\.proj\.(.*)", r"vision_tower.patch_embed.proj.\1"),
    (
        r"model\.vision_tower\.patch_embed\.pos_emb\.position_embeddings",
        r"vision_tower.patch_embed.pos_emb.weight",
    ),
    (r"model\.vision_tower\.layers\.(\d+)\.norm1\.(.*)", r"vision_tower.encoder.blocks.\1.norm0.\2"),
    (r"model\.vision_tower\.layers\.(\d+)\.norm2\.(.*)", r"vision_tower.encoder.blocks.\1.norm1.\2"),
    (
        r"model\.vision_tower\.layers\.(\d+)\.attn\.[qkv]_proj\.(.*)",
        r"vision_tower.encoder.blocks.\1.wqkv.\2",
    ),
    (r"model\.vision_tower\.layers\.(\d+)\.attn\.proj\.(.*)", r"vision_tower.encoder.blocks.\1.wo.\2"),
    (r"model\.vision_tower\.layers\.(\d+)\.mlp\.fc1\.(.*)", r"vision_tower.encoder.blocks.\1.mlp.fc0.\2"),
    (r"model\.vision_tower\.layers\.(\d+)\.mlp\.fc2\.(.*)", r"vision_tower.encoder.blocks.\1.mlp.fc1.\2"),
    (r"model\.vision_tower\.final_layernorm\.(.*)", r"vision_tower.encoder.final_layernorm.\1"),
    (r"model\.mm_projector\.pre_norm\.(.*)", r"mm_projector.pre_norm.\1"),
    (r"model\.mm_projector\.in_proj\.(.*)", r"mm_projector.proj.0.\1"),
    (r"model\.mm_projector\.out_proj\.(.*)", r"mm_projector.proj.2.\1"),
)

_PREDICTION_RULES = (
    (r"layers\.(\d+)\.(enorm|hnorm|eh_proj)\.weight", r"\2.weight"),
    (r"layers\.(\d+)\.post_norm\.weight", r"shared_head.norm.weight"),
    (r"layers\.(\d+)\.mtp_block\.(.*)", r"\2"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What one of transformers' tensors is, or is a part of, in a checkpoint.

    Attributes:
        path: the checkpoint's path, or `transformers:NAME` if no rule knows the name.
        count: identical tensors (experts of the layer).
        elements: of one of them, as far as this tensor goes.
    """

    path: str
    count: int
    elements: int


def pieces(name: str, shape: tuple[int, ...], *, multimodal: bool) -> list[Piece]:
    """The checkpoint tensors behind one of transformers' parameters or buffers.

    Args:
        name: as `named_parameters()` gives it.
        shape: of the tensor; a stack of fused gate and up matrices is [experts, 2 * width, hidden].
        multimodal: whether the class is Kimi K2.5's, which renames its parts.
    """
    fused = re.fullmatch(r"(.*\.mlp\.experts)\.(gate_up_proj|down_proj)", name)
    if fused is None:
        return [Piece(path=checkpoint_path(name, multimodal=multimodal), count=1, elements=_product(shape))]
    matrices = ("gate_proj", "up_proj") if fused[2] == "gate_up_proj" else ("down_proj",)
    each = _product(shape[1:]) // len(matrices)
    paths = [checkpoint_path(f"{fused[1]}.*.{matrix}.weight", multimodal=multimodal) for matrix in matrices]
    return [Piece(path=path, count=shape[0], elements=each) for path in paths]


def checkpoint_path(name: str, *, multimodal: bool) -> str:
    """The checkpoint's path for one of transformers' names; `transformers:NAME` if no rule knows it."""
    if name.startswith(UNMAPPED):
        return name
    if not multimodal:
        return name if _TEXT.fullmatch(name) else UNMAPPED + name
    for pattern, path in _RULES:
        match = re.fullmatch(pattern, name)
        if match:
            renamed = match.expand(path)
            text = renamed.removeprefix("language_model.")
            return renamed if text == renamed or _TEXT.fullmatch(text) else UNMAPPED + name
    return UNMAPPED + name


def prediction_path(name: str, depth: int) -> str:
    """The checkpoint's path for a name inside transformers' MtpModel; module k is layer `depth` + k of a text
    model."""
    for pattern, rest in _PREDICTION_RULES:
        match = re.fullmatch(pattern, name)
        if match:
            return f"model.layers.{depth + int(match[1])}.{match.expand(rest)}"
    return UNMAPPED + name


def _product(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
