"""What a decoder keeps between steps: one set of named tensors a layer, rows along the second axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Features = Mapping[str, tuple[int, ...]]
"""Name of a cached tensor -> features of one row, such as {"latent": (512,), "rope_key": (64,)}."""


class State(NamedTuple):
    """One tensor of a sequence that doesn't grow with it, in a dtype of its own.

    Attributes:
        features: of one sequence.
        dtype: whatever the cached rows have.
    """

    features: tuple[int, ...]
    dtype: torch.dtype


class Cache:
    """Allocated once for `capacity` rows and filled step by step.

    Args:
        layers: cached features of each attention module, in running order.
        batch: sequences.
        capacity: most rows a sequence can have [tokens].
        windows: for each of them the most rows it needs, or None for all; a window keeps the newest.
        states: for each of them what has one entry a sequence; it starts as zeros.
    """

    def __init__(
        self,
        layers: Sequence[Features],
        batch: int,
        capacity: int,
        *,
        device: torch.device,
        dtype: torch.dtype,
        windows: Sequence[int | None] | None = None,
        states: Sequence[Mapping[str, State]] | None = None,
    ) -> None:
        self.capacity = capacity
        self.length = 0
        self.windows = [None] * len(layers) if windows is None else list(windows)
        self.layers: list[dict[str, Tensor]] = [
            {
                name: torch.zeros((batch, min(capacity, window or capacity), *features), device=device, dtype=dtype)
                for name, features in layer.items()
            }
            for layer, window in zip(layers, self.windows, strict=True)
        ]
        self._states: list[dict[str, Tensor]] = [
            {name: torch.zeros((batch, *one.features), device=device, dtype=one.dtype) for name, one in layer.items()}
            for layer in states or [{}] * len(layers)
        ]

    def states(self, layer: int) -> dict[str, Tensor]:
        """What a layer has one of a sequence, [batch, *features] each: to be read, and written in place."""
        return self._states[layer]

    def held(self) -> list[dict[str, Tensor]]:
        """All tensors of each layer by name."""
        return [rows | states for rows, states in zip(self.layers, self._states, strict=True)]

    def extend(self, layer: int, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Write new rows after the cached ones; return what was cached and the new rows, in the new rows' dtype.

        A layer may write its names in parts.

        Raises:
            ValueError: for other names or features than the cache was made for, or past its capacity.
        """
        held = self.layers[layer]
        if not rows.keys() <= held.keys():
            raise ValueError(f"layer {layer} caches {sorted(held)}, not {sorted(rows)}")
        write = self._append if self.windows[layer] is None else self._roll
        whole = {}
        for name, new in rows.items():
            room = (*held[name].shape[:1], min(new.shape[1], self.capacity - self.length), *held[name].shape[2:])
            if room != tuple(new.shape):
                raise ValueError(f"layer {layer}: {name} has {tuple(new.shape)}, room is for {room}")
            whole[name] = write(held[name], new)
        return whole

    def _append(self, held: Tensor, new: Tensor) -> Tensor:
        end = self.length + new.shape[1]
        held[:, self.length : end].copy_(new)
        return held[:, :end].to(new.dtype)

    def _roll(self, held: Tensor, new: Tensor) -> Tensor:
        """Oldest first; what no longer fits falls out, once it has been returned."""
        whole = torch.cat((held[:, : self.length], new.to(held.dtype)), dim=1)
        newest = whole[:, -held.shape[1] :]
        held[:, : newest.shape[1]].copy_(newest)
        return whole.to(new.dtype)

    def advance(self, rows: int) -> None:
        """Count `rows` more as cached, once all layers have written them."""
        self.length += rows
