"""The public class of a config.json, built on the meta device: its parameters and stored buffers by name."""

from __future__ import annotations

import copy
import warnings
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import torch
import transformers
from torch import nn
from torch.nn.modules.conv import _ConvNd
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
)

transformers.logging.set_verbosity(transformers.logging.CRITICAL)


class Unbuildable(Exception):
    """The public class refuses the config, or fails while it builds."""


def config_of(source: dict[str, Any]) -> Any:
    """The public config object of a config.json's content."""
    content = copy.deepcopy(source)
    if content.get("model_type") == "kimi_k2":  # no class of its own: DeepSeek-V3's in all but name
        content["model_type"] = "deepseek_v3"
    return transformers.AutoConfig.for_model(content.pop("model_type"), **content)


def model_of(source: dict[str, Any]) -> nn.Module:
    """The public model of a config.json's content, on meta: with the tower where the class has one.

    Raises:
        Unbuildable: where the class raises anything.
    """
    try:
        config = config_of(source)
        mappings = (MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING)
        model_class = next(m[type(config)] for m in mappings if type(config) in m)
        with ExitStack() as around:
            around.enter_context(torch.device("meta"))
            around.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")  # of tensors without elements
            for module in (nn.Linear, nn.Embedding, _ConvNd):  # numbers for meta tensors: a fifth of the time
                around.enter_context(patch.object(module, "reset_parameters", lambda self: None))
            model = model_class._from_config(config)
    except Exception as error:
        raise Unbuildable(f"{type(error).__name__}: {error}") from error
    return model


def tensors(source: dict[str, Any]) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """Shapes of trained parameters and of stored buffers, by transformers' names; tied weights once."""
    model = model_of(source)
    parameters = {name: tuple(p.shape) for name, p in model.named_parameters()}
    stored = model.state_dict()
    buffers = {name: tuple(b.shape) for name, b in model.named_buffers() if name in stored}
    return parameters, buffers


def total(shapes: dict[str, tuple[int, ...]]) -> int:
    return sum(torch.Size(shape).numel() for shape in shapes.values())
