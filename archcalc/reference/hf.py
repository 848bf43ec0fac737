"""The third opinion: Hugging Face transformers' own classes, built from a config on meta, offline."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import nn

from archcalc.errors import InputError
from archcalc.reference.hf_names import DERIVED, Piece, checkpoint_path, pieces, prediction_path
from archcalc.reference.measure import Kind, Row

SAME_CLASS = {"kimi_k2": "deepseek_v3"}
"""Model types without a class of their own, whose releases name another's (Kimi K2's `architectures`)."""


class Public(NamedTuple):
    """A public class, built.

    Attributes:
        model: with eager attention and, as transformers itself chooses, grouped experts.
        model_type: of its config.
        config: the content of the config that it was built from.
    """

    model: nn.Module
    model_type: str
    config: Mapping[str, Any]


def build(config: Mapping[str, Any], *, device: str = "meta", dtype: str = "bfloat16") -> Public:
    """The public class of a config.json's content: with the tower where the class has one.

    Raises:
        InputError: no public class, one that the installed transformers hasn't, or a config that the class refuses.
    """
    public("transformers", "logging").set_verbosity_error()  # a config's token ids, a kernel that is not installed
    content = copy.deepcopy(dict(config))
    model_type = SAME_CLASS.get(content["model_type"], content["model_type"])
    del content["model_type"]
    if model_type not in public("transformers", "CONFIG_MAPPING"):
        raise InputError(f"transformers has no class for model_type {model_type}")
    with _refusals(model_type):
        made = public("transformers", "AutoConfig").for_model(model_type, **content)
        model_class = _class_of(made)
        if model_class is None:
            raise InputError(f"transformers has no class that generates text for model_type {model_type}")
        with torch.device(device):
            model = model_class._from_config(made, dtype=getattr(torch, dtype), attn_implementation="eager")
    return Public(model, model_type, config)


@contextmanager
def _refusals(model_type: str) -> Iterator[None]:
    """What a class raises at a config, which may be anything, as an InputError."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())
        raise InputError(f"transformers' class for {model_type} refuses the config: {said[:300]}") from error


def _class_of(config: Any) -> Any:
    """The class that makes text of pictures and text, or of text alone; None where there is neither."""
    for name in ("MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING", "MODEL_FOR_CAUSAL_LM_MAPPING"):
        mapping = public("transformers.models.auto.modeling_auto", name)
        if type(config) in mapping:
            return mapping[type(config)]
    return None


def public(module: str, name: str) -> Any:
    """Something of transformers by name. Raises InputError where the installed one hasn't it."""
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"the installed transformers has no {name}: 5.24 has", hint=str(error)) from error


def parameters(built: Public) -> list[Row]:
    """transformers' parameters and stored buffers as rows on the checkpoint's paths, like `measure.parameters`.

    The three projections that transformers splits wqkv into are added up again. A name that no rule knows
    becomes a row with the path `transformers:NAME`, so that it matches nothing and shows. dtypes are
    transformers' own: it holds the router's weight in float32.
    """
    found: dict[str, Row] = {}
    for name, tensor in _stored(built.model):
        kind: Kind = "params" if isinstance(tensor, nn.Parameter) else "buffers"
        _add(found, pieces(name, tuple(tensor.shape), built.model_type), tensor, kind)
    for name, tensor in _predictions(built):
        kind = "mtp" if isinstance(tensor, nn.Parameter) else "mtp_buffers"
        _add(found, pieces(name, tuple(tensor.shape), built.model_type), tensor, kind)
    return list(found.values())


def ignored(built: Public) -> list[str]:
    """Names of transformers' buffers that no checkpoint has: rope frequencies, the vision tower's time table."""
    return [name for name, _ in built.model.named_buffers() if DERIVED.search(name)]


def _stored(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and buffers by transformers' name, derived buffers left out."""
    yield from model.named_parameters()
    yield from ((name, buffer) for name, buffer in model.named_buffers() if not DERIVED.search(name))


# -- prediction modules -----------------------------------------------------------------------------------------------


def predicts(built: Public) -> bool:
    """Whether transformers has prediction modules for the class: its config counts them."""
    return hasattr(_text(built), "num_mtp_layers")


def _text(built: Public) -> Any:
    config: Any = built.model.config
    return config.get_text_config()


def _predictions(built: Public) -> Iterator[tuple[str, torch.Tensor]]:
    """What the prediction modules that the config claims add to the model, under the checkpoint's names but with
    experts still fused."""
    text = _text(built)
    said = built.config.get("text_config") or built.config
    modules = text.num_mtp_layers if predicts(built) and "num_nextn_predict_layers" in said else 0
    if not modules:
        return
    with _refusals(built.model_type), torch.device("meta"):
        predictor = public("transformers.modeling_layers", "MtpModel")(built.model, modules)
    shared = {id(tensor) for _, tensor in _stored(built.model)}
    for name, tensor in _stored(predictor):
        if id(tensor) not in shared:
            yield prediction_path(name, text.num_hidden_layers), tensor


def _add(found: dict[str, Row], parts: list[Piece], tensor: torch.Tensor, kind: Kind) -> None:
    dtype = str(tensor.dtype).removeprefix("torch.")
    for part in parts:
        if part.path in found:
            found[part.path]["elements"] += part.elements
        else:
            found[part.path] = Row(path=part.path, count=part.count, elements=part.elements, dtype=dtype, kind=kind)


# -- parts that multiply ----------------------------------------------------------------------------------------------

ROUTERS = (".mlp.gate", ".mlp.router", ".block_sparse_moe.router")
MIXERS = (".self_attn", ".self_attn.indexer", ".linear_attn")


def parts(built: Public) -> Iterator[tuple[str, nn.Module]]:
    """Modules of the text model that multiply matrices, with the checkpoint's path; attention's own products are
    `...self_attn.core`."""
    for name, module in built.model.named_modules():
        if isinstance(module, nn.Linear) or name.endswith(ROUTERS):
            inside = name
        elif name.endswith(".experts"):
            inside = f"{name}.*.gate_proj"
        elif name.endswith(MIXERS):
            inside = f"{name}.core"
        else:
            continue
        path = checkpoint_path(f"{inside}.weight", built.model_type).removesuffix(".weight")
        yield path.removesuffix(".gate_proj") if ".experts." in path else path, module
