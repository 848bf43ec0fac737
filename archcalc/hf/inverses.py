"""The rules of the dialects backwards: which keys of a config give a field the value that a spec has."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from archcalc.hf.draft import Draft

Write: TypeAlias = Callable[[Draft, Any], None]
"""What puts the keys of a field's value. A rule without one has a value that follows from other fields."""

WriteKinds: TypeAlias = Callable[[Draft, Sequence[str]], None]
"""What puts the keys of a pattern: one name a layer."""


# -- rotary embedding -------------------------------------------------------------------------------------------------


def rope_theta(draft: Draft, value: Any) -> None:
    """`rope_theta` beside the others, which every class still reads. A class that turns nothing has a `Fixed`."""
    if value is None:
        draft.clash(None, "a number")
    else:
        draft.put("rope_theta", value)


def rope_scaling(draft: Draft, value: Any) -> None:
    """`rope_scaling` with today's `rope_type`; a class without scaling gets no key."""
    if value is not None:
        said = {name: part for name, part in value.items() if part is not None}
        draft.put("rope_scaling", {"rope_type": said.pop("type"), **said})


def multimodal_rope(draft: Draft, value: Any) -> None:
    """The same, with the sections of a head that turn by time, height and width: Qwen-VL's classes split a head so."""
    half = draft.values["rotary_half"]
    side = half * 3 // 8
    sections = {"mrope_section": [half - 2 * side, side, side]}
    rope_scaling(draft, value)
    draft.data["rope_scaling"] = {"rope_type": "default", **draft.data.get("rope_scaling", {}), **sections}


def theta_of(key: str) -> Write:
    """The rotary base of one layer type (Gemma 3), under its old key."""

    def write(draft: Draft, value: Any) -> None:
        if value is None:
            draft.clash(None, "a number")
        else:
            draft.put(key, value)

    return write


def rotary_dim(draft: Draft, value: Any) -> None:
    """`partial_rotary_factor`: the share of `head_dim` that the class rounds down to so many features."""
    head_dim = draft.values["head_dim"]
    factor = 1.0 if value is None else value / head_dim
    draft.put("partial_rotary_factor", factor if int(head_dim * factor) == (value or head_dim) else _above(factor))


def _above(factor: float) -> float:
    return math.nextafter(factor, 1.0)


# -- attention --------------------------------------------------------------------------------------------------------


def same(key: str) -> Write:
    """The field's value under a key."""
    return lambda draft, value: draft.put(key, value)


def every_head(draft: Draft, value: Any) -> None:
    """`num_attention_heads` of latent attention, and `num_key_value_heads`: the classes divide the two."""
    draft.put("num_attention_heads", value)
    draft.put("num_key_value_heads", value)


def scaled_head_dim(draft: Draft, value: Any) -> None:
    """`head_dim`, and the scale of the scores that goes with it (Gemma 3)."""
    draft.put("head_dim", value)
    draft.put("query_pre_attn_scalar", value)


def when(key: str, value: str) -> Write:
    """A flag that stands for one value, and for null where it is off."""

    def write(draft: Draft, found: Any) -> None:
        draft.put(key, found is not None)
        if found not in (value, None):
            draft.clash(found, value)

    return write


def inside(key: str, name: str) -> Write:
    """A key of a mapping inside the config."""
    return lambda draft, value: draft.put_inside(key, name, value)


def mtp(key: str) -> Write:
    """The claimed prediction modules; no key where there are none."""

    def write(draft: Draft, value: Any) -> None:
        if value:
            draft.put(key, value)

    return write


# -- towers -----------------------------------------------------------------------------------------------------------


def mlp_ratio(draft: Draft, value: Any) -> None:
    """Qwen2-VL: the feed-forward's width as a multiple of `embed_dim`."""
    width = draft.values["hidden_size"]
    draft.put("mlp_ratio", value // width if value % width == 0 else value / width)


def outer(key: str) -> Write:
    """A key of the mapping around."""

    def write(draft: Draft, value: Any) -> None:
        if draft.outer is not None:
            draft.outer.put(key, value)

    return write


# -- layer patterns ---------------------------------------------------------------------------------------------------


def constant(name: str) -> WriteKinds:
    """Every layer alike."""

    def write(draft: Draft, kinds: Sequence[str]) -> None:
        if set(kinds) - {name}:
            draft.clash("several kinds", "one kind of layer")

    return write


def named(key: str, names: dict[str, str]) -> WriteKinds:
    """A list with a word a layer."""
    words = {kind: word for word, kind in names.items()}

    def write(draft: Draft, kinds: Sequence[str]) -> None:
        draft.put(key, [words[kind] for kind in kinds])

    return write


def first_dense(key: str) -> WriteKinds:
    """How many dense layers stand before the first sparse one."""
    return lambda draft, kinds: draft.put(key, kinds.index("moe") if "moe" in kinds else len(kinds))


def sparse_step(draft: Draft, kinds: Sequence[str]) -> None:
    """Every layer sparse but for those listed."""
    draft.put("decoder_sparse_step", 1)
    draft.put("mlp_only_layers", [i for i, kind in enumerate(kinds) if kind == "dense"])


def used_windows(key: str, names: dict[str, str]) -> WriteKinds:
    """A list of layer types, and `use_sliding_window` where one slides."""

    def write(draft: Draft, kinds: Sequence[str]) -> None:
        draft.put("use_sliding_window", "sliding" in kinds)
        named(key, names)(draft, kinds)

    return write


def upper_windows(draft: Draft, kinds: Sequence[str]) -> None:
    """Windows from one layer on."""
    draft.put("use_sliding_window", "sliding" in kinds)
    draft.put("max_window_layers", kinds.index("sliding") if "sliding" in kinds else len(kinds))


def every_window(draft: Draft, kinds: Sequence[str]) -> None:
    """One window for all layers, or an explicit null: some classes have a default."""
    if "sliding" not in kinds:
        draft.put("sliding_window", None)


def every_window_if_used(draft: Draft, kinds: Sequence[str]) -> None:
    """The same, with a flag."""
    draft.put("use_sliding_window", "sliding" in kinds)


def smollm(draft: Draft, kinds: Sequence[str]) -> None:
    """Windows and rotation, each with a list of its own."""
    slides = ["sliding" if kind.startswith("sliding") else "full" for kind in kinds]
    used_windows("layer_types", {"full_attention": "full", "sliding_attention": "sliding"})(draft, slides)
    draft.put("no_rope_layers", [int(not kind.endswith("_nope")) for kind in kinds])


def ernie(draft: Draft, kinds: Sequence[str]) -> None:
    """From the first sparse layer to the last, every n-th."""
    sparse = [i for i, kind in enumerate(kinds) if kind == "moe"] or [len(kinds)]
    draft.put("moe_layer_start_index", sparse[0])
    draft.put("moe_layer_end_index", sparse[-1])
    draft.put("moe_layer_interval", sparse[1] - sparse[0] if len(sparse) > 1 else sparse[0] + 1)


def kda(draft: Draft, kinds: Sequence[str]) -> None:
    """Two lists of layers, counted from 1; without a linear layer, the list of types."""
    if "linear" not in kinds:
        named("layer_types", {"full_attention": "full"})(draft, kinds)
        return
    for name, kind in (("full_attn_layers", "full"), ("kda_layers", "linear")):
        listed = [i for i, other in enumerate(kinds, start=1) if other == kind]
        draft.put_inside("linear_attn_config", name, listed)
