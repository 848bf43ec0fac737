"""Where a checkpoint keeps the parts of a multimodal model: modules set at dotted paths."""

from __future__ import annotations

from torch import nn

from archcalc.reference.fields import Section

TEXT_PATHS = ("model", "model.language_model", "language_model.model")
"""The module with embedding, layers and last norm: Qwen2-VL's, Qwen3-VL's and Kimi K2.5's checkpoints."""


def place(root: nn.Module, path: str, module: nn.Module) -> None:
    """Set a module at a path below the root; containers that lack on the way are made."""
    *above, name = path.split(".")
    for step in above:
        if not hasattr(root, step):
            root.add_module(step, nn.Module())
        root = getattr(root, step)
    root.add_module(name, module)


def text_path(vision: Section | None, path: str) -> str:
    """The checkpoint's path for one of the text model's own, such as `model.layers.3` or `lm_head`."""
    body = "model" if vision is None else vision.choice("text_prefix", *TEXT_PATHS, default="language_model.model")
    if path == "model" or path.startswith("model."):
        return body + path.removeprefix("model")
    return f"language_model.{path}" if body == "language_model.model" else path
