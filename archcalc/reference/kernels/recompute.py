"""The two ways to drop activations in forward and compute them again in backward.

`checkpointed`: the ordinary checkpoint (arXiv:1604.06174). The region's inputs are kept, nothing inside is.

`Region`: the output-discarding checkpoint of Megatron-LM (`CheckpointWithoutOutput`,
core/tensor_parallel/random.py). The inputs are kept; the outputs live until their consumer has run, then
their storage is emptied. The consumer's graph still points at that storage, which is filled again just
before the consumer's own backward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from archcalc.reference.kernels import fp8


def checkpointed(active: bool, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """`function(*inputs)`, keeping its inputs alone; plain if inactive or in an outer region's first pass."""
    if not active or not torch.is_grad_enabled():
        return function(*inputs)
    output: Tensor = checkpoint(function, *inputs, use_reentrant=True, preserve_rng_state=False)
    return output


class Region:
    """A function of tensors whose outputs may be emptied once used: call it, then name the last consumer.

    Args:
        function: tensors to a tensor or a tuple of tensors, each output with a storage of its own.
        active: whether to recompute at all; if not, this is the plain function.
        in_fp8: keep so many of the first inputs, side by side, in FP8 with their scales; the recomputation then starts
            from that.
    """

    def __init__(self, function: Callable[..., Any], *, active: bool, in_fp8: int = 0) -> None:
        self.function = function
        self.active = active
        self.in_fp8 = in_fp8
        self._node: Any = None
        self._storages: list[torch.UntypedStorage] = []
        self._again: tuple[list[Tensor], Sequence[Tensor]] | None = None

    def __call__(self, *inputs: Tensor) -> Any:
        """The function's value. In an outer checkpoint's first pass (no grad) nothing is remembered."""
        if not self.active or not torch.is_grad_enabled():
            return self.function(*inputs)
        return _Discarding.apply(self, *inputs)

    def discard_after(self, consumer: Tensor) -> None:
        """Empty the outputs now; fill them when the gradient reaches `consumer`, the last to use them."""
        if self._node is None:
            return
        for storage in self._storages:
            storage.resize_(0)
        consumer.register_hook(self._refill)

    def remember(self, node: Any, outputs: Sequence[Tensor]) -> None:
        """Called in forward: the graph's node and the storages to empty."""
        self._node = node
        self._storages = [output.untyped_storage() for output in outputs]

    def _refill(self, _: Tensor) -> None:
        saved = list(self._node.saved_tensors)
        if self.in_fp8:
            saved[:2] = fp8.load(saved[0], saved[1]).chunk(self.in_fp8, dim=-1)
        needed = self._node.needs_input_grad[1:]
        inputs = [tensor.detach().requires_grad_(need) for tensor, need in zip(saved, needed, strict=True)]
        with torch.enable_grad():
            value = self.function(*inputs)
        outputs = value if isinstance(value, tuple) else (value,)
        for storage, output in zip(self._storages, outputs, strict=True):
            fresh = output.untyped_storage()
            storage.resize_(fresh.nbytes())
            storage.copy_(fresh)
        self._again = inputs, outputs

    def gradients(self, gradients: Sequence[Tensor]) -> list[Tensor | None]:
        """Called in backward, after the refill: the inputs' gradients; weights accumulate their own."""
        if self._again is None:
            raise RuntimeError("the outputs were never computed again: discard_after() was not called")
        inputs, outputs = self._again
        self._node, self._again, self._storages = None, None, []  # the node holds this region: end the cycle
        torch.autograd.backward(list(outputs), list(gradients))
        return [tensor.grad for tensor in inputs]


class _Discarding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, region: Region, *inputs: Tensor) -> Any:
        ctx.region = region
        value = region.function(*inputs)
        n = region.in_fp8
        first = fp8.store(torch.cat(inputs[:n], dim=-1)) if n else ()
        ctx.save_for_backward(*first, *inputs[n:])
        region.remember(ctx, value if isinstance(value, tuple) else (value,))
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return (None, *ctx.region.gradients(gradients))
