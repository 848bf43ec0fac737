from __future__ import annotations

from pathlib import Path

import pytest

from tests.action.repository import Repository
from tests.support import text


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """One commit with two specs and a plan beside them."""
    folder = tmp_path / "repository"
    folder.mkdir()
    made = Repository(folder, tmp_path / "runner")
    made.git("init", "--quiet", "--initial-branch=main")
    specs = {"specs/k25.yaml": text("k25"), "specs/llama.yaml": text("llama-3.1-70b")}
    made.commit({**specs, "specs/plans/a.yaml": "kind: plan\n"})
    return made
