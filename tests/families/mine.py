"""archcalc's side: the elements of every weight that it imports from a config."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from archcalc.files.model import Spec
from archcalc.proof.ours import weights_by_path
from tests.hf.configs import spec_of as imported_spec

LAYER = re.compile(r"(?:language_model\.)?model\.(?:language_model\.)?layers\.(\d+)\.")
"""A layer of the decoder; those past the last are prediction modules."""


def spec_of(config: dict[str, Any]) -> Spec:
    """The spec that `archcalc import` makes of a config.json's content, checked as a spec file is.

    Raises:
        InputError: archcalc refuses the config.
    """
    return imported_spec(config)


def ours(config: dict[str, Any]) -> dict[str, Counter[str]]:
    """Elements by path of trained weights (`params`) and of what nobody trains (`buffers`), prediction left out."""
    spec = spec_of(config)
    sides = weights_by_path(spec)
    depth = spec.backbone.num_hidden_layers
    found: dict[str, Counter[str]] = {}
    for kind in ("params", "buffers"):
        found[kind] = Counter()
        for (path, _), (count, each) in sides[kind].items():
            layer = LAYER.match(path)
            if layer is None or int(layer[1]) < depth:
                found[kind][path] += count * each
    return found
