"""FLOPs of each module, forward and backward, counted by torch's own rules while the whole model runs.

The rules are torch's `flop_registry`, the table behind `torch.utils.flop_counter.FlopCounterMode` (2 FLOPs a
multiply-add). Its own per-module table is not used: it tracks the backward pass by tensor hooks, so while two
modules wait for the gradient of an input they share, one's FLOPs are booked on both. Here an operation
belongs to the module that was running when its autograd node was made: nodes are numbered in order, so module
boundaries are positions in that order.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from torch.utils.hooks import RemovableHandle

from archcalc.reference.guards import Rules, TwinError, refuse_uncounted

_POINTWISE = (torch.ops.aten.add.Tensor, torch.ops.aten.mul.Tensor)
"""Operators that cost no FLOPs here and whose shape inference in Python is most of a meta run's time."""


def _shaped(x: Any, y: Any) -> torch.Tensor | None:
    """The result of a pointwise operator on two meta tensors of one dtype, or None for any other operands."""
    if not (isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor)):
        return None
    if not (x.is_meta and y.is_meta and x.dtype == y.dtype):
        return None
    return x.new_empty(x.shape if x.shape == y.shape else torch.broadcast_shapes(x.shape, y.shape))


class Product(nn.Module):
    """A module that multiplies by itself, and on which those FLOPs are booked, as on a linear."""


class ModuleFlops(TorchDispatchMode):
    """Counts while it is entered; run forward, and backward if wanted, inside.

    Args:
        parts: the modules to book FLOPs on, with the path to book them under. The innermost running part gets
            them.
        rules: FLOP rules of operators that torch has none for, such as `_grouped_mm`.

    Attributes:
        forward: path -> FLOPs.
        backward: path -> FLOPs.

    Raises:
        TwinError: from the run, for a product without a FLOP rule or outside all parts.
    """

    def __init__(self, parts: Mapping[nn.Module, str], rules: Rules | None = None) -> None:
        super().__init__()
        self.forward = dict.fromkeys(parts.values(), 0)
        self.backward = dict.fromkeys(parts.values(), 0)
        self._parts = parts
        self._rules: Rules = {**flop_registry, **(rules or {})}
        self._running: list[str | None] = [None]
        self._starts = [0]
        self._owners: list[str | None] = [None]
        self._hooks: list[RemovableHandle] = []

    def __enter__(self) -> ModuleFlops:
        for part, path in self._parts.items():
            self._hooks.append(part.register_forward_pre_hook(lambda _m, _a, path=path: self._switch(push=path)))
            self._hooks.append(part.register_forward_hook(lambda _m, _a, _o: self._switch(push=None)))
        super().__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        while self._hooks:
            self._hooks.pop().remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = _shaped(*args) if func in _POINTWISE and not kwargs else None
        if out is None:
            out = func(*args, **kwargs)
        packet = func._overloadpacket
        rule = self._rules.get(packet)
        if rule is None:
            refuse_uncounted(packet, self._rules)
        else:
            self._book(packet.__name__, rule(*args, **kwargs, out_val=out))
        return out

    def _switch(self, push: str | None) -> None:
        if push is None:
            self._running.pop()
        else:
            self._running.append(push)
        self._starts.append(torch._C._autograd._get_sequence_nr())
        self._owners.append(self._running[-1])

    def _book(self, operator: str, flops: int) -> None:
        node = torch._C._current_autograd_node()
        if node is None:
            table, path = self.forward, self._running[-1]
        else:
            table, path = self.backward, self._owners[bisect_right(self._starts, node._sequence_nr()) - 1]
        if path is None:
            raise TwinError(f"{operator} ran outside every part of the model: {flops} FLOPs belong to nothing")
        table[path] += flops
