"""Count what a graph keeps for its backward pass, a storage at a time.

- A storage is known by its identity, never by `data_ptr()`, which is 0 for every meta tensor.
- A saved view keeps its whole storage, and one storage saved by many operations is held once.
- What the model owns (parameters, buffers, and views of them) is not an activation.
- Only what the graph still holds is counted, and sizes are read when asked for: a region that empties its
  outputs
  after use has then already done so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from weakref import ref

import torch
from torch import Tensor


class _Held:
    """What the graph holds in a saved tensor's place; it dies with the node that saved it."""

    __slots__ = ("__weakref__", "tensor")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedStorage:
    """One storage that the graph holds.

    Attributes:
        shape: of the first tensor that was saved on it, which may be a view of a part.
        dtype: of that tensor, such as `bfloat16`.
        bytes: of the whole storage [bytes].
    """

    shape: tuple[int, ...]
    dtype: str
    bytes: int


class SavedTensors:
    """Context manager that listens to what operations save inside it.

    Args:
        owned: tensors whose storages are not activations: parameters, buffers.
    """

    def __init__(self, owned: Iterable[Tensor] = ()) -> None:
        self._owned = [tensor.untyped_storage() for tensor in owned]
        self._held: list[ref[_Held]] = []
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda held: held.tensor)

    def _pack(self, tensor: Tensor) -> _Held:
        held = _Held(tensor.detach())
        self._held.append(ref(held))
        return held

    def __enter__(self) -> SavedTensors:
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)

    def storages(self) -> list[SavedStorage]:
        """Every storage held now, once, in the order of the first save; the graph's output must be alive."""
        seen = {storage._cdata for storage in self._owned}
        found = []
        alive = [held.tensor for held in (each() for each in self._held) if held is not None]
        for tensor in alive:  # the list keeps every storage, so no identity is used twice
            storage = tensor.untyped_storage()
            if storage._cdata not in seen:
                seen.add(storage._cdata)
                dtype = str(tensor.dtype).removeprefix("torch.")
                found.append(SavedStorage(shape=tuple(tensor.shape), dtype=dtype, bytes=storage.nbytes()))
        return found


def saved_storages(run: Callable[[], Tensor], owned: Iterable[Tensor] = ()) -> list[SavedStorage]:
    """The storages that the graph of `run()` holds when it has returned."""
    with SavedTensors(owned) as saved:
        output = run()
    found = saved.storages()
    del output  # the graph had to live until here
    return found


def saved_bytes(run: Callable[[], Tensor], owned: Iterable[Tensor] = ()) -> int:
    """Sum of `saved_storages` [bytes]."""
    return sum(storage.bytes for storage in saved_storages(run, owned))
