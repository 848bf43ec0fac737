"""The YAML of docs/spec.md is a spec's: whoever copies it gets no error. docs/import.md shows what is printed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from archcalc.documents.claims import claims
from archcalc.hf.quant import METHODS
from tests.support import ROOT, TINY, data, run, spec_of

LAYERS, STATES, STORAGE, CLAIMS = (
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


def test_the_claims_of_the_page_are_judged() -> None:
    findings = claims(spec_of(data("deepseek-v3") | CLAIMS)).findings
    assert [finding["verdict"] for finding in findings] == ["rounded", "rounded", "confirmed"]


def test_the_import_of_the_page_is_what_import_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "import.md").read_text()
    config, spec = (re.search(f"```{kind}\n(.*?)```", page, re.S) for kind in ("json", "yaml"))
    receipt, refusal = re.findall(r"```console\n[$] archcalc import .*\n((?:.*\n)*?)```", page)
    assert config
    assert spec
    monkeypatch.chdir(tmp_path)
    Path("Small").mkdir()
    Path("Small/config.json").write_text(config[1])
    Path("bad.json").write_text(config[1].replace('"use_cache": true', '"n_dense_extra": 3'))
    assert run("import", "Small").out == spec[1]
    shown = run("import", "Small", "--explain").out.splitlines()
    assert len(shown) > len(receipt.splitlines()) == 9
    assert [line for line in receipt.splitlines() if line not in shown] == []
    assert run("import", "bad.json").err == refusal
    strict = run("import", "Small", "--strict")
    assert (strict.code, strict.out) == (1, spec[1])


def test_the_import_page_names_every_method_of_quantization() -> None:
    page = (ROOT / "docs" / "import.md").read_text()
    assert [name for name in METHODS if f"`{name}`" not in page] == []
