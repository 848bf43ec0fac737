"""Whether a release holds its prediction modules: its index knows, else who quantized it, else its family."""

from __future__ import annotations

from typing import Any

from archcalc.errors import SpecError
from archcalc.files.document import Document, cut
from archcalc.hf.config import Said, show

INDEX = "model.safetensors.index.json"

BY_METHOD = {
    "mlx": Said(False, (), "MLX drops prediction modules (mlx-lm, sanitize of each model)"),
    **dict.fromkeys(
        ("auto-round", "awq", "bitsandbytes", "compressed-tensors", "gptq"),
        Said(None, (), "unknown until headers: quantized through transformers, whose classes build none"),
    ),
}
"""By method; a config that keeps claiming modules says nothing of what its maker wrote."""


def copies(backbone: dict[str, Any], index: Document | None) -> bool | None:
    """Whether embedding and head are stored again in a prediction module; None where no index says so."""
    names = _names(index)
    last = f"layers.{backbone['num_hidden_layers'].value}."
    return any(f"{last}embed_tokens." in name for name in names) if names else None


def _names(index: Document | None) -> dict[str, Any]:
    """The tensors of an index by name; none where there is no index. Raises SpecError for a map that is none."""
    names = None if index is None else index.data.get("weight_map")
    if index is not None and not isinstance(names, dict | None):
        message = f"weight_map must be a mapping, not {show(names)}"
        raise SpecError.from_problems([index.problem(message, ("weight_map",), value=names)])
    return names or {}


def look(backbone: dict[str, Any], method: str, index: Document | None) -> list[str]:
    """Set `mtp_stored` of a backbone section; what to say of modules that its config does not claim."""
    claimed = bool(backbone["num_nextn_predict_layers"].value)
    if claimed and method in BY_METHOD:
        backbone["mtp_stored"] = BY_METHOD[method]
    names = _names(index)
    if not names:
        return []
    last = f".layers.{backbone['num_hidden_layers'].value}."
    held = [name for name in names if "mtp" in name or last in name]
    if claimed:
        backbone["mtp_stored"] = Said(bool(held), (), INDEX)
        return []
    if not held:
        return []
    return [
        f"{INDEX} has {len(held):,} tensors of multi-token prediction, such as {cut(min(held))}, and the config claims"
        " none: no number here counts them"
    ]
