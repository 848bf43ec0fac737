"""The stable names of numbers: what each one is, and its unit. docs/glossary.md is generated from here."""

from __future__ import annotations

from typing import NamedTuple

from archcalc.report.document import Unit


class Quantity(NamedTuple):
    """What a name stands for."""

    unit: Unit
    label: str
    meaning: str


QUANTITIES: dict[str, Quantity] = {
    "params.total": Quantity("count", "total", "Trained parameters of the whole model; buffers and multi-token prediction are apart."),
    "params.buffers": Quantity("count", "buffers", "Checkpoint elements that are not trained (router correction biases)."),
    "params.mtp": Quantity("count", "multi-token prediction", "Trained parameters of multi-token-prediction modules; shared embedding and head not counted again."),
    "params.backbone": Quantity("count", "backbone", "Trained parameters of the text backbone."),
    "params.vision": Quantity("count", "vision tower", "Trained parameters of the vision tower."),
    "params.projector": Quantity("count", "projector", "Trained parameters of the projector."),
    "params.routed_experts": Quantity("count", "routed experts", "Trained parameters of the backbone's routed experts."),
    "params.active": Quantity("count", "active", "Parameters that one text token uses, input embedding and output head included."),
    "params.active_no_embedding": Quantity("count", "active, no embedding", "Active parameters without the input embedding (a lookup)."),
    "params.active_no_embedding_no_head": Quantity("count", "active, no embedding, no head", "Active parameters without input embedding and output head."),
    "moe.activation_ratio": Quantity("share", "routed experts a token uses", "num_experts_per_tok / n_routed_experts."),
    "projector.merged_hidden_size": Quantity("int", "merged patch width", "Features of one merged vision token, before the projector's linears."),
}
"""Every quantity by its stable name. `params[PATH]` names the parameters at or below a module path."""


def quantity(name: str) -> Quantity:
    """The entry of a name; `params[PATH]` names are made up as they are asked for. Raises KeyError for an unknown name."""
    if name.startswith("params[") and name.endswith("]"):
        return Quantity("count", name, f"Parameters at or below {name[7:-1]}.")
    return QUANTITIES[name]
