"""What the twin holds, measured by torch and handed out as plain data: no torch types leave this module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypedDict

import torch
from torch import nn

from archcalc.errors import InputError
from archcalc.reference.experts import StackedLinear
from archcalc.reference.flops import flops
from archcalc.reference.guards import storage_bytes
from archcalc.reference.model import Model, build, new_cache, prediction_paths, text_of

__all__ = ["CACHE_DTYPES", "Kind", "Row", "flops", "kv_bytes", "parameters", "state_dict_bytes"]

Kind = Literal["params", "buffers", "mtp", "mtp_buffers"]

CACHE_DTYPES = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
    "fp8": torch.float8_e4m3fn,
    "int8": torch.int8,
}


class Row(TypedDict):
    """Identical tensors of one layer. `elements` are one tensor's; `count` is the experts' number, or else 1."""

    path: str
    count: int
    elements: int
    dtype: str
    kind: Kind


def parameters(model: Model) -> list[Row]:
    """Every parameter and every buffer that a checkpoint has, unfolded, in module order.

    Paths end in `.weight`, `.bias` or a buffer's name. A routed expert matrix is one row a layer,
    `...mlp.experts.*.gate_proj.weight`, with the number of experts as count. A tied head has no row of its
    own. Kinds: `params`, `buffers` (the router's bias), `mtp` and `mtp_buffers` (the prediction
    modules' own).
    """
    stacks = stacked_names(model)
    predictions = prediction_paths(model)
    seen: set[int] = set()
    rows: list[Row] = []
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        count = int(tensor.shape[0]) if name in stacks else 1
        rows.append(
            Row(
                path=name.replace(".experts.", ".experts.*.") if name in stacks else name,
                count=count,
                elements=tensor.numel() // count,
                dtype=str(tensor.dtype).removeprefix("torch."),
                kind=_kind(isinstance(tensor, nn.Parameter), name.startswith(predictions)),
            )
        )
    return rows


def stacked_names(model: Model) -> set[str]:
    """The tensors of a state dict that hold one of every expert."""
    stacks = [(name, each) for name, each in model.named_modules() if isinstance(each, StackedLinear)]
    return {f"{name}.{own}" for name, each in stacks for own, _ in each.named_parameters()}


def _kind(trained: bool, predicts: bool) -> Kind:
    if predicts:
        return "mtp" if trained else "mtp_buffers"
    return "params" if trained else "buffers"


def kv_bytes(
    spec: Mapping[str, object], *, batch: int, context: int, dtype: str = "bf16", model: Model | None = None
) -> dict[str, int]:
    """Path of each attention module -> bytes of its cache for `batch` sequences of `context` tokens.

    The cache is really allocated (on meta), and its storages are what is counted: of a sliding window no more rows
    than it sees. What an indexer keeps stands under its own path, `...self_attn.indexer`.

    Args:
        spec: plain mapping of a whole spec.
        batch: sequences.
        context: cached tokens of each.
        dtype: bf16, fp16, fp32, fp8 or int8, without scales.
        model: the twin of this spec on meta, if there is one already.

    Raises:
        InputError: for another dtype.
    """
    if dtype not in CACHE_DTYPES:
        raise InputError(f"the torch twin has no cache dtype {dtype}", value=dtype)
    model = build(spec) if model is None else model
    backbone = text_of(model).model
    names = {id(module): name for name, module in model.named_modules()}
    cache = new_cache(model, batch, context, dtype=CACHE_DTYPES[dtype])
    found: dict[str, int] = {}
    for attention, rows in zip(backbone.attentions(), cache.held(), strict=True):
        parts = {name: name.rpartition(".")[0] for name in rows}
        for part in dict.fromkeys(parts.values()):
            path = f"{names[id(attention)]}.{part}".removesuffix(".")
            found[path] = storage_bytes(tensor for name, tensor in rows.items() if parts[name] == part)
    return found


def state_dict_bytes(model: Model, dtype: str = "bfloat16") -> int:
    """Bytes of a plain checkpoint: all parameters with a gradient in `dtype` (a torch name), what else is stored as
    it is (the router's bias in float32), a tied weight once, prediction modules included."""
    width = torch.empty(0, dtype=getattr(torch, dtype), device="meta").element_size()
    total, seen = 0, set()
    for tensor in model.state_dict(keep_vars=True).values():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            total += tensor.numel() * (width if tensor.requires_grad else tensor.element_size())
    return total
