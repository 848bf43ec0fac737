"""archcalc's side: the elements of every weight that it imports from a config."""

from __future__ import annotations

from collections import Counter
from importlib.util import find_spec
from typing import Any

from archcalc.files.model import Spec
from archcalc.proof.ours import weights_by_path

READY = find_spec("archcalc.hf.reader") is not None if find_spec("archcalc.hf") else False
"""Whether archcalc can read a config at all."""


def spec_of(config: dict[str, Any]) -> Spec:
    """The spec that `archcalc import` makes of a config.json's content, checked as a spec file is.

    Raises:
        InputError: archcalc refuses the config.
    """
    raise NotImplementedError("the reader is not there yet")


def ours(config: dict[str, Any]) -> dict[str, Counter[str]]:
    """Elements by path of trained weights (`params`) and of what nobody trains (`buffers`), prediction left out."""
    sides = weights_by_path(spec_of(config))
    found: dict[str, Counter[str]] = {}
    for kind in ("params", "buffers"):
        found[kind] = Counter()
        for (path, _), (count, each) in sides[kind].items():
            found[kind][path] += count * each
    return found
