"""Guards against the ways in which torch's own counting is silently wrong.

Each guard turns one silent failure into an error:

* a matrix product that torch has no FLOP rule for counts as zero (`_grouped_mm`, flash attention on CPU,
  `mv`, `dot`);
* causal attention is never halved by torch's rules, so a count stands for full scores;
* scaled_dot_product_attention with unequal head sizes silently takes the math path, with fp32 copies and all
  scores;
* `data_ptr()` is 0 for every meta tensor, so sizes keyed by it collapse into one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from archcalc.errors import ArchcalcError

PRODUCT = re.compile(
    r"(?:^|_)(?:mm|bmm|addmm|baddbmm|addbmm|mv|addmv|dot|vdot|matmul|linear|bilinear|einsum|conv\w*|\w*attention)(?:_|$)"
)
"""Names of operations that multiply and add along a contracted dimension, as parts of an operator's name."""

Rules = Mapping[Any, Callable[..., int]]
"""FLOP rules by operator packet, as torch keeps them."""


class TwinError(ArchcalcError):
    """The torch twin can't vouch for its own measurement: a guard fired."""


def refuse_uncounted(packet: Any, rules: Rules = flop_registry) -> None:
    """Refuse a product that has no FLOP rule: torch would count it as zero.

    Args:
        packet: the operator packet, such as `torch.ops.aten._grouped_mm`.

    Raises:
        TwinError: naming the operator.
    """
    if packet not in rules and PRODUCT.search(packet.__name__):
        raise TwinError(f"torch counts 0 FLOPs for {packet.__name__}: it has no rule")


def refuse_zero(flops: Mapping[str, int], what: str) -> None:
    """Refuse parts whose FLOPs came out zero.

    Args:
        flops: path -> FLOPs.
        what: `forward` or `backward`, for the message.

    Raises:
        TwinError: naming the first such path and how many there are.
    """
    empty = [path for path, count in flops.items() if count <= 0]
    if empty:
        raise TwinError(f"torch measured 0 {what} FLOPs for {empty[0]} ({len(empty)} such parts)")


def full_scores(query: Tensor, key: Tensor, value: Tensor) -> int:
    """FLOPs of attention over every pair of rows, whatever a mask hides: 2 a pair, head and feature.

    Args:
        query: [batch, rows, heads, query features].
        key: [batch, key rows, key heads, query features].
        value: [batch, key rows, key heads, value features].
    """
    return scores_of(query, int(key.shape[1]), value)


def scores_of(query: Tensor, keys: int, value: Tensor) -> int:
    """FLOPs of attention in which each query meets `keys` keys: 2 a pair, head and feature.

    Args:
        query: [batch, rows, heads, query features].
        keys: of one query.
        value: [..., value features].
    """
    batch, rows, heads, features = query.shape
    return 2 * batch * rows * keys * heads * (features + int(value.shape[-1]))


def refuse_halved_scores(measured: int, full: int) -> None:
    """Refuse an attention count that is not for full scores, or for all that a window or an indexer leaves.

    Args:
        measured: forward FLOPs of one core.
        full: what `full_scores` or `scores_of` says of its operands.

    Raises:
        TwinError: when they differ.
    """
    if measured != full:
        raise TwinError(f"attention measured {measured} FLOPs where full scores take {full}: halved, or not all")


def refuse_gradient(flops: Mapping[str, int]) -> None:
    """Refuse backward FLOPs of parts that no gradient may reach: an indexer's.

    Args:
        flops: path -> backward FLOPs.

    Raises:
        TwinError: naming the first such path.
    """
    reached = [path for path, count in flops.items() if count]
    if reached:
        raise TwinError(f"a gradient reaches {reached[0]}: {flops[reached[0]]} backward FLOPs of a part without any")


class _Seen(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.packets: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.packets.append(func._overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@contextmanager
def operators_seen() -> Iterator[list[str]]:
    """Names of the operators that run inside the block, in order."""
    with _Seen() as seen:
        yield seen.packets


def refuse_math_path(query: Tensor, value: Tensor) -> None:
    """Refuse to use scaled_dot_product_attention as a reference for fused attention where it isn't fused.

    Args:
        query: [batch, heads, rows, query features].
        value: [batch, heads, rows, value features].

    Raises:
        TwinError: when torch computes all scores (a softmax of its own) for these shapes on this device.
    """
    with operators_seen() as names, torch.no_grad():
        torch.nn.functional.scaled_dot_product_attention(query, query, value)
    if any("softmax" in name for name in names):
        sizes = f"{query.shape[-1]} and {value.shape[-1]}"
        raise TwinError(f"scaled_dot_product_attention takes the math path for head sizes {sizes} on {query.device}")


def storage_key(tensor: Tensor) -> int:
    """What identifies a tensor's memory on any device; hold the tensor while the key is in use, keys are
    reused."""
    return int(tensor.untyped_storage()._cdata)


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    """Memory behind the tensors, views and repeats counted once [bytes].

    Raises:
        TwinError: when distinct storages can't be told apart.
    """
    held = list(tensors)
    distinct = {storage_key(tensor): tensor.untyped_storage().nbytes() for tensor in held}
    refuse_null_keys(distinct)
    return sum(distinct.values())


def refuse_null_keys(keys: Iterable[int]) -> None:
    """Refuse keys of memory that are 0, as `data_ptr()` gives for every meta tensor.

    Raises:
        TwinError: if any key is 0.
    """
    if any(key == 0 for key in keys):
        raise TwinError("a tensor without an address can't be told from others: key memory by storage, not data_ptr")
