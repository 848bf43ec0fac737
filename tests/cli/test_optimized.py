"""`python -OO` drops docstrings and asserts, and no answer with them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from archcalc.cli.app import COMMANDS
from archcalc.documents.kinds import KINDS
from tests.support import ROOT, Ran, run, tiny, written

LINES = [
    ["--help"],
    *([name, "--help"] for name in COMMANDS),
    *(["plot", kind, "--help"] for kind in ("memory", "kv", "flops", "train")),
    *(["schema", kind, "--format", form] for kind in KINDS for form in ("json", "markdown")),
    ["params", "s.yaml", "--by", "role"],
    ["params", "k25", "--explain", "model.layers.1.mlp.gate"],
    ["validate", "bad.yaml"],
    ["report", "s.yaml", "--check"],
]


def test_every_text_and_number_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("archcalc.proof.check.find_spec", lambda name: None)
    written(tmp_path, tiny())
    (tmp_path / "bad.yaml").write_text((tmp_path / "s.yaml").read_text().replace("hidden_size: 8", "hidden_size: -8"))
    assert run("report", "s.yaml").code == 0
    code = (
        f"import json, sys; sys.path.insert(0, {str(ROOT)!r}); from tests.support import run;"
        " print(json.dumps([run(*line) for line in json.load(sys.stdin)]))"
    )
    done = subprocess.run(
        [sys.executable, "-OO", "-c", code],
        input=json.dumps(LINES),
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        timeout=120,
        check=False,
    )
    assert done.stderr == ""
    for line, optimized in zip(LINES, json.loads(done.stdout), strict=True):
        said = run(*line)
        assert Ran(*optimized) == said, line
        assert said.code == (1 if "bad.yaml" in line else 0), line


def test_no_assert_looks_at_what_somebody_wrote() -> None:
    """Under -OO it would let everything pass. The few that are left tell a type checker what holds anyway."""
    told = [
        f"{path.name}: {line.strip()}"
        for path in sorted((ROOT / "archcalc").rglob("*.py"))
        for line in path.read_text().splitlines()
        if line.strip().startswith("assert ")
    ]
    assert [line for line in told if "is not None" not in line and "isinstance(" not in line] == []
