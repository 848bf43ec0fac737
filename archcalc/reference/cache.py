"""What a decoder keeps between steps: one set of named tensors a layer, rows along the second axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

Features = Mapping[str, tuple[int, ...]]
"""Name of a cached tensor -> features of one row, such as {"latent": (512,), "rope_key": (64,)}."""


class Cache:
    """Allocated once for `capacity` rows and filled step by step.

    Args:
        layers: cached features of each layer, in order.
        batch: sequences.
        capacity: most rows a sequence can have [tokens].
    """

    def __init__(
        self,
        layers: Sequence[Features],
        batch: int,
        capacity: int,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.capacity = capacity
        self.length = 0
        self.layers: list[dict[str, Tensor]] = [
            {
                name: torch.zeros((batch, capacity, *features), device=device, dtype=dtype)
                for name, features in layer.items()
            }
            for layer in layers
        ]

    def extend(self, layer: int, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Write new rows after the cached ones and return all rows, in the new rows' dtype.

        Raises:
            ValueError: for other names or features than the cache was made for, or past its capacity.
        """
        held = self.layers[layer]
        if held.keys() != rows.keys():
            raise ValueError(f"layer {layer} caches {sorted(held)}, not {sorted(rows)}")
        whole = {}
        for name, new in rows.items():
            end = self.length + new.shape[1]
            place = held[name][:, self.length : end]
            if place.shape != new.shape:
                raise ValueError(f"layer {layer}: {name} has {tuple(new.shape)}, room is for {tuple(place.shape)}")
            place.copy_(new)
            whole[name] = held[name][:, :end].to(new.dtype)
        return whole

    def advance(self, rows: int) -> None:
        """Count `rows` more as cached, once all layers have written them."""
        self.length += rows
