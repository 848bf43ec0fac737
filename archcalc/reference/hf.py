"""The third opinion: Hugging Face transformers' own classes, built from the same plain mapping, on meta,
offline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import torch
from torch import nn

from archcalc.errors import InputError
from archcalc.reference.fields import Section
from archcalc.reference.flopcount import ModuleFlops
from archcalc.reference.guards import refuse_zero
from archcalc.reference.hf_config import Choice, choose
from archcalc.reference.hf_names import DERIVED, Piece, checkpoint_path, pieces, prediction_path
from archcalc.reference.measure import Kind, Row


def build(spec: Mapping[str, object], *, device: str = "meta", dtype: str = "bfloat16") -> tuple[nn.Module, Choice]:
    """The public class for a spec, with eager attention and, as transformers itself chooses, grouped experts.

    Raises:
        InputError: when no public class has this architecture, or the installed transformers hasn't the class.
    """
    choice = choose(spec)
    model_class = _public("transformers", choice.model)
    config = _public("transformers", choice.config)(**choice.arguments)
    with torch.device(device):
        model = model_class._from_config(config, dtype=getattr(torch, dtype), attn_implementation="eager")
    return model, choice


def _public(module: str, name: str) -> Any:
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"the installed transformers has no {name}: 5.24 has", hint=str(error)) from error


def parameters(spec: Mapping[str, object]) -> list[Row]:
    """transformers' parameters and stored buffers as rows on the checkpoint's paths, like `measure.parameters`.

    The three projections that transformers splits wqkv into are added up again. A name that no rule knows
    becomes a row with the path `transformers:NAME`, so that it matches nothing and shows. dtypes are
    transformers' own: it holds the router's weight in float32.
    """
    model, choice = build(spec)
    found: dict[str, Row] = {}
    for name, tensor in _stored(model):
        kind: Kind = "params" if isinstance(tensor, nn.Parameter) else "buffers"
        _add(found, pieces(name, tuple(tensor.shape), multimodal=choice.multimodal), tensor, kind)
    for name, tensor in _predictions(spec, model):
        kind = "mtp" if isinstance(tensor, nn.Parameter) else "mtp_buffers"
        _add(found, pieces(name, tuple(tensor.shape), multimodal=False), tensor, kind)
    return list(found.values())


def ignored(spec: Mapping[str, object]) -> list[str]:
    """Names of transformers' buffers that no checkpoint has: rope frequencies, the vision tower's time table."""
    model, _ = build(spec)
    return [name for name, _ in model.named_buffers() if DERIVED.search(name)]


def flops(spec: Mapping[str, object], *, seq: int, batch: int = 1) -> dict[str, int]:
    """Forward FLOPs of the text backbone and head, bf16, full attention scores: module path -> FLOPs.

    Paths are those of `archcalc.reference.flops`, but transformers runs the routed experts of a layer in one
    module, gate and up fused: they share the path `...mlp.experts.*`. Its eager attention multiplies every pair and
    masks what a sliding window or an indexer leaves out: cores agree as long as `seq` is no more than either allows.

    Args:
        spec: plain mapping of a whole spec.
        seq: new text tokens of each sequence.
        batch: sequences.

    Raises:
        TwinError: when a part counts no FLOPs, or torch runs a product that it has no rule for.
    """
    model, choice = build(spec)
    parts = {part: path for path, part in _parts(model, choice) if not path.startswith(("vision_tower.", "mm_proj"))}
    rules = {torch.ops.aten._grouped_mm: grouped_mm_flops}
    ids = torch.zeros(batch, seq, dtype=torch.long, device="meta")
    mask = torch.zeros(batch, 1, seq, seq, dtype=torch.bfloat16, device="meta")  # transformers' own needs data to make
    with torch.no_grad(), ModuleFlops(parts, rules) as counted:
        model(input_ids=ids, attention_mask=mask, use_cache=False)
    refuse_zero(counted.forward, "forward")
    return counted.forward


def grouped_mm_flops(rows: torch.Tensor, stack: torch.Tensor, *_: Any, **__: Any) -> int:
    """FLOPs of `_grouped_mm` for rows [R, k] sorted by group and a stack of [groups, k, n]: every row meets
    one matrix.

    Raises:
        ValueError: for other operand shapes, which only the backward pass has.
    """
    if rows.dim() != 2 or stack.dim() != 3:
        raise ValueError(f"no rule for grouped_mm of {tuple(rows.shape)} by {tuple(stack.shape)}")
    return 2 * rows.shape[0] * rows.shape[1] * stack.shape[2]


def _stored(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and buffers by transformers' name, derived buffers left out."""
    yield from model.named_parameters()
    yield from ((name, buffer) for name, buffer in model.named_buffers() if not DERIVED.search(name))


def _predictions(spec: Mapping[str, object], model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """What the prediction modules add to the model, under the checkpoint's names but with experts still
    fused."""
    backbone = Section(spec, "spec").section("backbone")
    modules = backbone.integer("num_nextn_predict_layers", 0)
    if not modules:
        return
    with torch.device("meta"):
        predictor = _public("transformers.modeling_layers", "MtpModel")(model, modules)
    shared = {id(tensor) for _, tensor in _stored(model)}
    for name, tensor in _stored(predictor):
        if id(tensor) not in shared:
            yield prediction_path(name, backbone.integer("num_hidden_layers")), tensor


def _add(found: dict[str, Row], parts: list[Piece], tensor: torch.Tensor, kind: Kind) -> None:
    dtype = str(tensor.dtype).removeprefix("torch.")
    for part in parts:
        if part.path in found:
            found[part.path]["elements"] += part.elements
        else:
            found[part.path] = Row(path=part.path, count=part.count, elements=part.elements, dtype=dtype, kind=kind)


def _parts(model: nn.Module, choice: Choice) -> Iterator[tuple[str, nn.Module]]:
    """Modules that multiply matrices, with the checkpoint's path; attention's own products are
    `...self_attn.core`."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) or name.endswith(".mlp.gate"):
            inside = name
        elif name.endswith(".mlp.experts"):
            inside = f"{name}.*.gate_proj"
        elif name.endswith((".self_attn", ".self_attn.indexer")):
            inside = f"{name}.core"
        else:
            continue
        path = checkpoint_path(f"{inside}.weight", multimodal=choice.multimodal).removesuffix(".weight")
        yield path.removesuffix(".gate_proj") if ".experts." in path else path, module
