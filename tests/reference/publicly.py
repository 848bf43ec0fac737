"""The public class of a tiny architecture, built from the config that archcalc makes of it."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from archcalc.files.model import Spec
from archcalc.hf.backward import config_of
from archcalc.reference import hf


def spec_of(plain: dict[str, Any]) -> Spec:
    """A whole spec of the plain mapping that the twin takes."""
    head = {"kind": "spec", "name": "tiny", "title": "Tiny", "sources": {}}
    storage = {"default": {"scheme": "plain", "dtype": "bfloat16"}}
    whole = deepcopy({**head, "storage": storage, **plain})
    scaling = whole["backbone"]["rope_scaling"]
    if scaling and "rope_type" in scaling:  # the twin reads both spellings
        scaling["type"] = scaling.pop("rope_type")
    for side in ("attention", "ffn"):  # a spec names no block that no layer uses
        used = _named(whole["backbone"]["layers"], side)
        whole["backbone"][side] = {name: block for name, block in whole["backbone"][side].items() if name in used}
    return Spec.model_validate(whole)


def _named(entries: list[dict[str, Any]], side: str) -> set[str]:
    found = {entry[side] for entry in entries if side in entry}
    return found.union(*(_named(entry.get("layers", []) + entry.get("steps", []), side) for entry in entries))


def built(plain: dict[str, Any], **how: str) -> hf.Public:
    """The class, on meta unless `how` says otherwise."""
    return hf.build(config_of(spec_of(plain)), **how)
