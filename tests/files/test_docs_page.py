"""The YAML of docs/spec.md is a spec's: whoever copies it gets no error."""

from __future__ import annotations

import re
from typing import Any

import yaml

from tests.support import ROOT, TINY, data, spec_of

LAYERS, STATES, STORAGE = (
    yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "spec.md").read_text(), re.S)
)


def test_the_layers_of_the_page_are_valid() -> None:
    gqa, dense = TINY["backbone"]["attention"]["gqa"], TINY["backbone"]["ffn"]["dense"]
    mla = data("k25")["backbone"]["attention"]["mla"]
    attention: dict[str, Any] = {"mla": mla, "local": gqa | {"sliding_window": 16}, "global": gqa}
    backbone = TINY["backbone"] | LAYERS | {"num_hidden_layers": 65, "attention": attention, "ffn": {"dense": dense}}
    found = spec_of(TINY | {"backbone": backbone}).backbone.runs()
    assert [len(indices) for indices in found.values()] == [3, 50, 10, 2]


def test_the_linear_attention_of_the_page_is_valid() -> None:
    layers = [{"count": 1, "attention": name, "ffn": "dense"} for name in STATES["attention"]]
    more = {"num_hidden_layers": 2, "layers": layers, "ffn": {"dense": TINY["backbone"]["ffn"]["dense"]}}
    found = spec_of(TINY | {"backbone": TINY["backbone"] | STATES | more}).backbone.attention
    assert [block.kind for block in found.values()] == ["gated_deltanet", "kda"]


def test_the_rules_of_the_page_are_valid() -> None:
    assert len(spec_of(data("kimi-k2") | STORAGE).storage) == 4
