"""Hugging Face transformers' classes with the twin's weights: each tensor converted by hand, none left
over."""

from __future__ import annotations

from typing import Any

import torch

from archcalc.reference.hf_names import checkpoint_path
from archcalc.reference.model import Model
from tests.reference.publicly import built


def with_weights_of(twin: Model, spec: dict[str, Any]) -> Any:
    """transformers' class for the spec, on CPU in float32, holding the twin's weights."""
    public = built(spec, device="cpu", dtype="float32")
    theirs: Any = public.model
    ours = dict(twin.state_dict())
    used = set()
    with torch.no_grad():
        for name, tensor in theirs.state_dict().items():
            paths, value = _converted(name, ours, public.model_type, spec)
            tensor.copy_(value.view(tensor.shape))
            used.update(paths)
    assert used == set(ours), f"never used: {sorted(set(ours) - used)}"
    return theirs.eval()


def _converted(
    name: str, ours: dict[str, torch.Tensor], model_type: str, spec: dict[str, Any]
) -> tuple[list[str], torch.Tensor]:
    if ".mlp.experts." in name:
        prefix, matrix = name.rsplit(".", 1)
        if "vision" in spec:
            prefix = prefix.replace("model.language_model", "language_model.model")
        halves = ["gate_proj", "up_proj"] if matrix == "gate_up_proj" else ["down_proj"]
        paths = [f"{prefix}.{half}.weight" for half in halves]
        return paths, torch.cat([ours[path] for path in paths], dim=1)
    path = checkpoint_path(name, model_type)
    if path == "model.embed_tokens.weight" and spec["backbone"].get("norm") == "rms_zero_centered":
        return [path], ours[path] / spec["backbone"]["hidden_size"] ** 0.5  # Gemma multiplies embeddings by that
    for part, letter in enumerate("qkv"):
        if f".attn.{letter}_proj." in name:
            rows = ours[path].chunk(3)[part]
            return [path], rows if letter == "v" else _halves(rows, spec["vision"]["vt_num_attention_heads"])
    return [path], ours[path]


def _halves(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of rotated pairs (0, 1), (2, 3), ... of each head, reordered to first halves, then second
    halves."""
    return rows.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)
