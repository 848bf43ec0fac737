"""Configs of public classes, made from the frozen defaults: what transformers would write with every key in it."""

from __future__ import annotations

import json
from typing import Any

from archcalc.files.loader import validate
from archcalc.files.model import Spec
from archcalc.hf import json_file
from archcalc.hf.config import frozen
from archcalc.hf.dialect import Multimodal
from archcalc.hf.families.registry import MULTIMODAL, TEXT
from archcalc.hf.imported import Imported
from archcalc.hf.reader import read
from archcalc.hf.source import Source

CLASSES = sorted(set(frozen()["types"]) & {*TEXT, *MULTIMODAL})
"""Model types that have a public class and a dialect."""


def of_class(model_type: str, **changes: Any) -> dict[str, Any]:
    """A config with every key that the class declares, at its default; of one with towers, all parts."""
    row = frozen()["types"][model_type]
    config = {"model_type": model_type, **row["defaults"]}
    if model_type in MULTIMODAL:
        for key, sub in row["sub_configs"].items():
            config[key] = {**frozen()["types"][sub]["defaults"], "model_type": sub}
    return config | changes


def imported(
    config: dict[str, Any] | str,
    *,
    quant: dict[str, Any] | None = None,
    tensors: tuple[str, ...] = (),
    name: str = "model",
) -> Imported:
    """The reader's answer for a config, with an index of these tensors beside it if there are any."""
    text = config if isinstance(config, str) else json.dumps(config, indent=1)
    beside = None if quant is None else json_file.load(json.dumps(quant), "hf_quant_config.json")
    weight_map = {"weight_map": dict.fromkeys(tensors, "model.safetensors")}
    index = json_file.load(json.dumps(weight_map), "model.safetensors.index.json") if tensors else None
    document = json_file.load(text, "config.json")
    return read(Source(config=document, quant=beside, index=index, name=name, where="config.json"))


def spec_of(config: dict[str, Any] | str, **more: Any) -> Spec:
    """The spec of a config, valid."""
    document = imported(config, **more)
    return validate(document.data, document, Spec)


def is_multimodal(model_type: str) -> bool:
    """Whether a dialect has towers."""
    return isinstance(MULTIMODAL.get(model_type), Multimodal)
