"""`archcalc/hf/defaults.json` says what the installed transformers say."""

import pytest

from tests.families.freeze import FILE, frozen, text

transformers = pytest.importorskip("transformers")


def test_the_frozen_defaults_are_those_of_the_public_classes():
    held = FILE.read_text(encoding="utf-8")
    frozen_from = held.split('"transformers": "')[1].split('"')[0]
    if transformers.__version__.split(".")[:2] != frozen_from.split(".")[:2]:
        pytest.skip(f"frozen from transformers {frozen_from}, installed is {transformers.__version__}")
    assert held == text(frozen() | {"transformers": frozen_from}), "python -m tests.families.freeze rewrites it"
