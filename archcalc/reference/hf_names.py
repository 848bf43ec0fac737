"""Checkpoint paths against the parameter names that Hugging Face transformers uses inside its classes.

transformers renames while it loads, fuses expert matrices and splits the vision tower's wqkv. The rules
here are written out by hand, one a line, so that a name nobody expected shows up as a finding.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
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
        r"layers\.\d+\.(?:post_self_attn_layernorm|post_mlp_layernorm)",
        r"layers\.\d+\.self_attn\.(?:q_a_proj|q_a_layernorm|q_b_proj|kv_a_proj_with_mqa|kv_a_layernorm|kv_b_proj)",
        r"layers\.\d+\.self_attn\.(?:q_proj|k_proj|v_proj|qkv_proj|o_proj|q_norm|k_norm|core)",
        r"layers\.\d+\.self_attn\.indexer\.(?:wq_b|wk|k_norm|weights_proj|core)",
        r"layers\.\d+\.self_attn\.(?:f_a_proj|f_b_proj|g_a_proj|g_b_proj|b_proj|conv1d|o_norm)",
        r"layers\.\d+\.linear_attn\.(?:in_proj_(?:qkvz|ba|qkv|z|b|a)|conv1d|norm|out_proj|core)",
        r"layers\.\d+\.mlp\.(?:shared_experts?\.)?(?:gate_proj|up_proj|down_proj)",
        r"layers\.\d+\.mlp\.(?:gate_up_proj|gate|shared_expert_gate|moe_statics)",
        r"layers\.\d+\.(?:enorm|hnorm|eh_proj|shared_head\.norm)",
        r"layers\.\d+\.mlp\.experts\.\*\.(?:gate_proj|up_proj|down_proj)",
    )
)
_TEXT = re.compile(
    rf"model\.(?:{_TEXT_PARTS})\.(?:weight|bias|e_score_correction_bias)"
    r"|model\.layers\.\d+\.(?:self_attn|linear_attn)\.(?:A_log|dt_bias)"
    r"|lm_head\.(?:weight|bias)"
)
"""Every path of a text model, as checkpoints have it."""

_EXPERTS = (
    # a class's name                                                    the checkpoint's
    (r"(.*)\.block_sparse_moe\.(experts\..*)", r"\1.mlp.\2"),
    (r"(.*)\.block_sparse_moe\.router\.(.*)", r"\1.mlp.gate.\2"),
    (r"(.*)\.mlp\.router\.(.*)", r"\1.mlp.gate.\2"),
    (r"(.*)\.mlp\.gate\.moe_statics\.(.*)", r"\1.mlp.moe_statics.\2"),
    (r"(.*)\.mlp\.(e_score_correction_bias)", r"\1.mlp.gate.\2"),
    (r"(.*)\.self_attn\.forget_gate\.(.*)", r"\1.self_attn.\2"),
)
"""Inside layers, for every class: Granite's and Phi's routers, ERNIE's statistics, MiniMax's bias, Kimi's decays."""

_TEXT_INSIDE = ((r"model\.language_model\.(.*)", r"model.\1"),)
"""A text model beside a tower."""

_K25 = (
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

_QWEN_TOWER = (
    r"(?:patch_embed\.proj|blocks\.\d+\.(?:norm1|norm2|attn\.qkv|attn\.proj|mlp\.(?:fc1|fc2|linear_fc1|linear_fc2"
    r"|gate_proj|up_proj|down_proj))|(?:merger|deepstack_merger_list\.\d+)\.(?:norm|ln_q|mlp\.0|mlp\.2|linear_fc1"
    r"|linear_fc2))\.(?:weight|bias)|pos_embed\.weight"
)
_OLD_QWEN = ((rf"model\.visual\.({_QWEN_TOWER})", r"visual.\1"),)
_NEW_QWEN = ((rf"(model\.visual\.(?:{_QWEN_TOWER}))", r"\1"),)

_NEW_TYPES = ("qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe")
_TOWERS = {"kimi_k25": _K25, "qwen2_vl": _OLD_QWEN, "qwen2_5_vl": _OLD_QWEN, **dict.fromkeys(_NEW_TYPES, _NEW_QWEN)}
_TOWER = re.compile(r"model\.(?:visual|vision_tower|mm_projector)\..*")

_PLACES = {
    # where a checkpoint keeps the text model's `model` and its head
    "kimi_k25": ("language_model.model.", "language_model.lm_head."),
    **dict.fromkeys(_NEW_TYPES, ("model.language_model.", "lm_head.")),
}

_GATE_UP = (r"\.mlp\.(?:gate|up)_proj(?=\.|$)", ".mlp.gate_up_proj")
_FUSED = {
    "glm4": (_GATE_UP,),
    "phi3": (_GATE_UP, (r"\.self_attn\.[qkv]_proj(?=\.|$)", ".self_attn.qkv_proj")),
    "kimi_linear": ((r"\.self_attn\.[qkv]_conv1d(?=\.|$)", ".self_attn.conv1d"),),
}

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


def pieces(name: str, shape: tuple[int, ...], model_type: str) -> list[Piece]:
    """The checkpoint tensors behind one of transformers' parameters or buffers.

    Args:
        name: as `named_parameters()` gives it.
        shape: of the tensor; a stack of fused gate and up matrices is [experts, 2 * width, hidden].
        model_type: of the class: some rename their parts.
    """
    fused = re.fullmatch(r"(.*\.experts)\.(gate_up_proj|down_proj)", name)
    if fused is None:
        return [Piece(path=checkpoint_path(name, model_type), count=1, elements=_product(shape))]
    matrices = ("gate_proj", "up_proj") if fused[2] == "gate_up_proj" else ("down_proj",)
    each = _product(shape[1:]) // len(matrices)
    paths = [checkpoint_path(f"{fused[1]}.*.{matrix}.weight", model_type) for matrix in matrices]
    return [Piece(path=path, count=shape[0], elements=each) for path in paths]


def checkpoint_path(name: str, model_type: str) -> str:
    """The checkpoint's path for one of transformers' names; `transformers:NAME` if no rule knows it."""
    if name.startswith(UNMAPPED):
        return name
    if _TOWER.fullmatch(name):
        return _renamed(name, _TOWERS.get(model_type, ())) or UNMAPPED + name
    path = name
    for rules in (_TEXT_INSIDE if model_type in _TOWERS else (), _EXPERTS):
        path = _renamed(path, rules) or path
    if not _TEXT.fullmatch(path):
        return UNMAPPED + name
    model, head = _PLACES.get(model_type, ("model.", "lm_head."))
    return model + path.removeprefix("model.") if path.startswith("model.") else head + path.removeprefix("lm_head.")


def text_alone(path: str, model_type: str) -> str:
    """A path of the text model as it is where no tower stands beside it."""
    for place, plain in zip(_PLACES.get(model_type, ()), ("model.", "lm_head."), strict=False):
        if f"{path}.".startswith(place):
            return (plain + f"{path}.".removeprefix(place)).removesuffix(".")
    return path


def joined_path(path: str, model_type: str) -> str:
    """A checkpoint's path as one that the class has: of the few projections that it keeps in one tensor."""
    for pattern, name in _FUSED.get(model_type, ()):
        path = re.sub(pattern, name, path)
    return path


def prediction_path(name: str, depth: int) -> str:
    """The checkpoint's path for a name inside transformers' MtpModel; module k is layer `depth` + k of a text
    model."""
    for pattern, rest in _PREDICTION_RULES:
        match = re.fullmatch(pattern, name)
        if match:
            return f"model.layers.{depth + int(match[1])}.{match.expand(rest)}"
    return UNMAPPED + name


def _renamed(name: str, rules: Iterable[tuple[str, str]]) -> str | None:
    """By the first rule that fits; None if none does."""
    for pattern, path in rules:
        match = re.fullmatch(pattern, name)
        if match:
            return match.expand(path)
    return None


def _product(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
