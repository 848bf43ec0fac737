"""What transformers' own cache object holds after a run of the class on meta."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch

from archcalc.reference.hf import Public
from archcalc.reference.hf_flops import Unrunnable, run
from archcalc.reference.hf_names import UNMAPPED, checkpoint_path

MIXER = re.compile(r"(?:.*\.)?layers\.(\d+)\.(?:self_attn|linear_attn)")

_INSIDE = {"keys": "", "values": "", "conv_states": "", "recurrent_states": "", "indexer_keys": ".indexer"}
"""The cache's attributes, and where in the mixer they belong."""


def cached(built: Public, *, tokens: int, batch: int = 1) -> dict[str, int]:
    """Bytes by module path that a cache of so many tokens of each sequence holds, with everything in bf16 but what the
    class itself keeps in fp32.

    A window of W keeps W - 1 rows: the next query brings its own key. A short convolution keeps all K columns. An
    attribute of the cache that no rule knows gets a path of its own, which matches nothing.

    Args:
        built: from `hf.build`, on meta.
        tokens: of each sequence.
        batch: sequences.

    Raises:
        Unrunnable: when the class fails.
    """
    output: Any = run(built, seq=tokens, batch=batch, use_cache=True)
    layers: list[Any] = output.past_key_values.layers
    paths = _mixers(built)
    if len(layers) != len(paths):
        raise Unrunnable(f"its cache has {len(layers)} layers, and the class has {len(paths)}")
    held: dict[str, int] = {}
    for path, layer in zip(paths, layers, strict=True):
        for name, tensor in _tensors(layer):
            inside = f"{path}{_INSIDE[name]}" if name in _INSIDE else f"{UNMAPPED}{path}.{name}"
            held[inside] = held.get(inside, 0) + tensor.numel() * tensor.element_size()
    return held


def _mixers(built: Public) -> list[str]:
    """The checkpoint's path of every layer's mixer, in order. Towers call theirs otherwise."""
    found: dict[int, str] = {}
    for name, _ in built.model.named_modules():
        match = MIXER.fullmatch(name)
        if match:
            path = checkpoint_path(f"{name}.core.weight", built.model_type)
            found[int(match[1])] = path.removesuffix(".core.weight")
    return [found[i] for i in sorted(found)]


def _tensors(layer: Any) -> Iterator[tuple[str, torch.Tensor]]:
    for name, value in vars(layer).items():
        for tensor in value.values() if isinstance(value, dict) else (value,):
            if isinstance(tensor, torch.Tensor) and not name.startswith("_"):
                yield name, tensor
