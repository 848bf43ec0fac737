"""Which layers slide, whatever a config says of windows: as the cache of the public class has it, or refused."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest

pytest.importorskip("transformers")

from transformers import DynamicCache

from archcalc.errors import InputError
from tests.families import mine, public
from tests.families.bases import BASES

pytestmark = pytest.mark.twin

ABSENT = object()
SAID: dict[str, list[Any]] = {
    "use_sliding_window": [True, False, None, ABSENT],
    "sliding_window": [24, None, ABSENT],
    "max_window_layers": [0, 2, 3, 9, None, ABSENT],
    "layer_types": [
        ABSENT,
        ["full_attention", "sliding_attention"] * 2,
        ["sliding_attention"] * 4,
        ["full_attention"] * 4,
    ],
    "no_rope_layers": [ABSENT, [1, 0, 1, 0], [1, 1, 1, 1]],
    "no_rope_layer_interval": [ABSENT, 2],
    "sliding_window_pattern": [ABSENT, 3],
}
"""Keys that some class reads for its windows, and values for four layers."""


def theirs(config: dict[str, Any]) -> list[int | None]:
    """Windows by layer in the cache of the public class. Raises what the class raises."""
    text = public.config_of(config).get_text_config(decoder=True)
    layers = DynamicCache(config=text).layers
    return [getattr(layer, "sliding_window", None) for layer in layers]


def ours(config: dict[str, Any]) -> list[int | None]:
    """Windows by layer of the imported spec. Raises InputError."""
    backbone = mine.spec_of(config).backbone
    blocks = [
        backbone.attention[step.mixer] for kind in backbone.kinds() for step in kind if step.section == "attention"
    ]
    return [getattr(block, "sliding_window", None) for block in blocks]


def edited(config: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """A config with up to four of the keys said otherwise."""
    found = copy.deepcopy(config)
    section = found.get("text_config", found)
    for key in chance.sample(list(SAID), chance.randint(1, 4)):
        value = chance.choice(SAID[key])
        if value is ABSENT:
            section.pop(key, None)
        else:
            section[key] = value
    return found


@pytest.mark.parametrize("base", BASES)
def test_layers_slide_as_in_the_class_or_the_config_is_refused(base: str) -> None:
    chance, judged = random.Random(base), 0
    for _ in range(60):
        config = edited(BASES[base], chance)
        try:
            expected = theirs(config)
        except Exception:  # the class refuses it: no judge
            continue
        try:
            found = ours(config)
        except InputError:
            continue
        judged += 1
        assert found == expected, {key: config.get("text_config", config).get(key, "-") for key in SAID}
    assert judged > 10
