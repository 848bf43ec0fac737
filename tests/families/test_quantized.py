"""Quantization configs that transformers itself writes are read, with every key that it writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("transformers")

import transformers

from tests.families.bases import BASES
from tests.hf.configs import imported

pytestmark = pytest.mark.twin

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
INTEGERS = {"bits": 4, "group_size": 32}
WRITTEN: dict[str, Callable[[], Any]] = {
    "fp8-block": lambda: transformers.FineGrainedFP8Config(),
    "bitsandbytes-4bit": lambda: transformers.BitsAndBytesConfig(load_in_4bit=True),
    "bitsandbytes-int8": lambda: transformers.BitsAndBytesConfig(load_in_8bit=True),
    "awq": lambda: transformers.AwqConfig(**INTEGERS),
    "gptq": lambda: transformers.GPTQConfig(**INTEGERS),
    "gptq by auto-round": lambda: transformers.AutoRoundConfig(**INTEGERS),
}
"""Scheme: the config object."""


@pytest.mark.parametrize("scheme", WRITTEN)
def test_what_transformers_writes_is_read(scheme: str) -> None:
    written = json.loads(json.dumps(WRITTEN[scheme]().to_dict(), default=lambda value: getattr(value, "value", value)))
    found = imported({**BASES["qwen3"], **SIZES, "dtype": "bfloat16", "quantization_config": written})
    assert found.data["storage"]["attention"]["scheme"] == scheme.partition(" ")[0]
