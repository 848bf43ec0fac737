"""What a file is that was named where another is wanted, told from what it holds, and which command takes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

TAKES = {
    "": "archcalc params {} and others take it",
    "plans": "archcalc train SPEC --plan {} takes it",
    "hardware": "archcalc serve SPEC --gpu {} takes it",
    "engines": "archcalc serve SPEC --gpu NAME --engine {} takes it",
    "stacks": "a plan names it, as stack: {}",
}
"""Which command takes a file, by the folder of its kind's bundled ones."""

FOLDERS = {"spec": "", "plan": "plans", "hardware": "hardware", "engine": "engines", "stack": "stacks"}
"""The folder of the bundled files, by what a file says that it is."""


class Identity(NamedTuple):
    """What a file is, and what can be done with it."""

    what: str
    hint: str


_CONFIG = "archcalc params {} and others take it as SPEC; archcalc import {} prints the spec"
_REPORT = "archcalc diff {} SPEC compares the two"
_BESIDE = "the sizes of a model are in the config.json beside it: name that, or the folder"
_FOREIGN = (
    ({"weight_map"}, "the index of a release's weights", _BESIDE),
    ({"peft_type"}, "the config of an adapter", "name the config.json of the model that it adapts"),
    ({"added_tokens", "model"}, "a tokenizer", _BESIDE),
    ({"tokenizer_class"}, "the config of a tokenizer", _BESIDE),
    ({"image_processor_type"}, "the config of an image processor", _BESIDE),
    ({"quantization", "producer"}, "the quantization config of a release", _BESIDE),
    ({"eos_token_id", "transformers_version"}, "the generation config of a model", _BESIDE),
)
"""Keys that tell what a JSON file of others is; the first whose keys are all there is it."""


def identity(data: Mapping[str, Any], source: str) -> Identity | None:
    """What a file is that is none of ours, or no spec; None where nothing tells."""
    kind = data.get("kind")
    if isinstance(kind, str) and kind in FOLDERS:
        return Identity(f"a file of kind {kind}", TAKES[FOLDERS[kind]].format(source))
    if isinstance(data.get("model_type"), str):
        return Identity("the config.json of a model", _CONFIG.format(source, source))
    if data.get("tool") == "archcalc":
        return Identity("a saved report of archcalc", _REPORT.format(source))
    for keys, what, hint in _FOREIGN:
        if keys <= data.keys():
            return Identity(what, hint)
    return None
