"""The command line with the toy's blocks in the unions of a spec."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import dumped
from tests.toy.mixer import ToySpec
from tests.toy.numbers import PLAIN


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Writes the toy's spec, with changes to its mixer, and returns the path; commands accept it."""
    modules = ("archcalc.files.model", "archcalc.files.loader", "archcalc.hf.spec", "archcalc.documents.compare.sides")
    for module in modules:
        monkeypatch.setattr(f"{module}.Spec", ToySpec)

    def write(name: str = "toy", **changes: Any) -> str:
        backbone = PLAIN["backbone"]
        mixer = backbone["attention"]["toy"] | changes
        path = tmp_path / f"{name}.yaml"
        path.write_text(dumped(PLAIN | {"name": name, "backbone": backbone | {"attention": {"toy": mixer}}}))
        return str(path)

    return write
