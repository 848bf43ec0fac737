"""Edits of a config: integers halved, doubled, one more, booleans flipped, keys removed or null, foreign keys added."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

Path = tuple[str, ...]
Edit = tuple[str, dict[str, Any]]

REMOVED = object()

FOREIGN: dict[str, Any] = {
    "head_dim": 12,
    "attention_bias": True,
    "attention_out_bias": True,
    "qkv_bias": True,
    "use_bias": True,
    "mlp_bias": True,
    "lm_head_bias": True,
    "use_qk_norm": True,
    "tie_word_embeddings": True,
    "num_key_value_heads": 3,
    "intermediate_size": 11,
    "num_experts": 3,
    "num_local_experts": 3,
    "n_routed_experts": 3,
    "moe_num_experts": 3,
    "n_shared_experts": 2,
    "num_shared_experts": 2,
    "shared_expert_intermediate_size": 6,
    "shared_intermediate_size": 6,
    "moe_intermediate_size": 6,
    "first_k_dense_replace": 2,
    "moe_layer_freq": 2,
    "decoder_sparse_step": 2,
    "mlp_only_layers": [1],
    "mlp_layer_types": ["dense", "sparse", "dense", "sparse"],
    "layer_types": ["full_attention", "full_attention", "linear_attention", "full_attention"],
    "full_attention_interval": 3,
    "sliding_window": 8,
    "use_sliding_window": True,
    "q_lora_rank": 6,
    "kv_lora_rank": 6,
    "qk_nope_head_dim": 6,
    "qk_rope_head_dim": 4,
    "v_head_dim": 6,
    "index_n_heads": 2,
    "index_head_dim": 8,
    "indexer_types": ["full", "full", "shared", "shared"],
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 6,
    "num_nextn_predict_layers": 2,
    "partial_rotary_factor": 0.6,
    "rotary_dim": 4,
    "num_layers": 2,
    "n_layer": 2,
    "d_model": 16,
    "ffn_hidden_size": 7,
    "per_layer_config": {"1": {"intermediate_size": 7}},
    "hidden_size_per_layer_input": 4,
    "some_new_size": 4,
}
"""Keys of other families: what a class doesn't read has no effect, or the reader refuses it."""

FOREIGN_TO_TOWERS: dict[str, Any] = {
    "depth": 2,
    "num_hidden_layers": 2,
    "num_layers": 2,
    "num_attention_heads": 2,
    "head_dim": 12,
    "embed_dim": 16,
    "mlp_ratio": 3,
    "in_chans": 1,
    "num_channels": 1,
    "spatial_patch_size": 2,
    "qkv_hidden_size": 32,
    "vt_hidden_size": 32,
    "mm_hidden_size": 32,
    "some_new_size": 4,
}


def edits(config: dict[str, Any], seed: str, *, pairs: int = 12) -> Iterator[Edit]:
    """The config itself, each edit of it, and some pairs of edits, with a label each."""
    singles = [*_singles(config), *_foreign(config)]
    yield "as it is", config
    for path, value in singles:
        yield _label(path, value), _with(config, path, value)
    chance = random.Random(seed)
    for _ in range(pairs):
        two = chance.sample(singles, 2)
        yield " and ".join(_label(*one) for one in two), _with(_with(config, *two[0]), *two[1])


def _singles(config: dict[str, Any]) -> Iterator[tuple[Path, Any]]:
    for path, value in _leaves(config, ()):
        if path[-1] == "model_type":
            continue
        if isinstance(value, bool):
            yield path, not value
        elif isinstance(value, int):
            yield from ((path, value // 2), (path, value + 1), (path, 2 * value))
        if value is not None:
            yield path, None
        yield path, REMOVED


def _foreign(config: dict[str, Any]) -> Iterator[tuple[Path, Any]]:
    sections = {"": config} | {key: config[key] for key in ("text_config", "vision_config") if key in config}
    for section, there in sections.items():
        foreign = FOREIGN_TO_TOWERS if section == "vision_config" else FOREIGN
        yield from (((*filter(None, [section]), key), value) for key, value in foreign.items() if key not in there)


def _leaves(section: dict[str, Any], path: Path) -> Iterator[tuple[Path, Any]]:
    for key, value in section.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*path, key))
        yield (*path, key), value


def _with(config: dict[str, Any], path: Path, value: Any) -> dict[str, Any]:
    edited = copy.deepcopy(config)
    section = edited
    for key in path[:-1]:
        inside = section.get(key)
        if not isinstance(inside, dict):  # an edit before this one took the section away
            return edited
        section = inside
    if value is REMOVED:
        section.pop(path[-1], None)
    else:
        section[path[-1]] = value
    return edited


def _label(path: Path, value: Any) -> str:
    return f"{'.'.join(path)} {'removed' if value is REMOVED else repr(value)}"
