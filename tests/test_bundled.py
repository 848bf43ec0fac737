"""Every bundled spec against a judge outside: the public class of transformers, or the headers of the release.

What the classes say is asked of them, on the meta device, and stands nowhere here. Kimi K3 has no class: its numbers
are those of the released headers (tests/published/parameters.yaml and checkpoints.yaml), or worked out beside them.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest
import yaml

from archcalc.documents.books_file import load_books
from archcalc.documents.document import Report
from archcalc.files.loader import load_spec
from archcalc.proof import crosscheck
from tests.support import BUNDLED, ROOT, answered, quantities

HEADERS: dict[str, Any] = {
    number["id"]: number["value"]
    for name in ("parameters", "checkpoints")
    for number in yaml.safe_load((ROOT / "tests" / "published" / f"{name}.yaml").read_text())["numbers"]
}
NO_CLASS = {"kimi-k3"}
REPORTED = load_books(ROOT / "reports")
"""Those whose committed report holds a cross-check with the twin, in every kind."""
REFUTES = {"deepseek-v3", "gemma-3-27b", "k25", "kimi-k2"}
"""Those that quote a number which nothing explains; tests/documents/test_claims.py says why."""
HAS_TORCH = find_spec("torch") is not None
WORTH = ("params", "flops", "kv")
"""What is asked for all; tests/test_crosscheck.py asks everything of some."""


def different(report: Report) -> list[tuple[str, str, int, int]]:
    return [(f["kind"], f["path"], f["ours"], f["theirs"]) for f in report.findings if f["difference"]]


def theirs(report: Report, kind: str) -> int:
    return sum(f["count"] * f["theirs"] for f in report.findings if f["kind"] == kind)


@pytest.mark.twin
@pytest.mark.skipif(not HAS_TORCH, reason="needs the extra torch")
@pytest.mark.parametrize("name", [name for name in BUNDLED if name not in REPORTED])
def test_a_bundled_spec_agrees_with_the_twin(name: str) -> None:
    report = crosscheck(load_spec(name), only=WORTH)
    assert different(report) == []
    assert theirs(report, "params") == quantities("params", name)["params.total"]
    assert set(WORTH) <= {f["kind"] for f in report.findings}


@pytest.mark.twin
@pytest.mark.skipif(not HAS_TORCH or find_spec("transformers") is None, reason="needs the extra hf")
@pytest.mark.parametrize("name", [name for name in BUNDLED if name not in NO_CLASS])
def test_a_bundled_spec_agrees_with_its_public_class(name: str) -> None:
    report = crosscheck(load_spec(name), against="transformers", only=WORTH)
    assert different(report) == []
    assert theirs(report, "params") == quantities("params", name)["params.total"]
    assert set(WORTH) <= {f["kind"] for f in report.findings}


@pytest.mark.parametrize("name", BUNDLED)
def test_what_is_published_of_a_bundled_spec_is_what_is_counted(name: str) -> None:
    verdicts = [found["verdict"] for found in answered("claims", name)["findings"]]
    assert verdicts
    assert ("refuted" in verdicts) == (name in REFUTES)


# -- Kimi K3 ----------------------------------------------------------------------------------------------------------

KDA, MLA = 69, 24
"""Layers of each attention: linear_attn_config of moonshotai/Kimi-K3 config.json."""


def test_kimi_k3_has_the_parameters_of_its_header() -> None:
    found = quantities("params", "kimi-k3")
    assert found["params.total"] == HEADERS["kimi-k3-header"]
    parts = {name: found[f"params.{name}"] for name in ("backbone", "vision", "projector")}
    assert parts == {
        "backbone": 2_779_484_395_776,
        # 27 blocks of 2 x 1024, (3 + 1) x 1536 x 1024, 2 x 1024 x 4096; 1024 x 3 x 14 x 14, 64 x 64 x 1024, 1024
        "vision": 401_214_464,
        "projector": 46_144_512,  # 4096 x 4096 + 4096 x 7168 + 7168
    }
    assert sum(parts.values()) == found["params.total"]
    assert found["params.buffers"] == 92 * 896


def test_kimi_k3s_released_bytes_are_those_of_its_header() -> None:
    found = quantities("weights", "kimi-k3")
    assert found["weights.bytes"] == HEADERS["kimi-k3"]
    assert found["weights.elements"] == HEADERS["kimi-k3-header"] + 92 * 896


def test_kimi_k3_caches_latents_in_a_quarter_of_its_layers_and_states_in_the_rest() -> None:
    document = answered("kv", "kimi-k3")
    assert document["quantities"]["kv.bytes_per_token"] == MLA * (512 + 64) * 2 == 27_648
    state = KDA * 96 * 128 * 128 * 4  # one matrix a head, in float32
    conv = KDA * 3 * 96 * 128 * 4 * 2  # inputs of q, k and v as KimiLinear's class keeps them
    assert state == 434_110_464
    assert document["quantities"]["kv.fixed_bytes"] == state + conv


def test_kimi_linear_caches_what_its_class_does() -> None:
    found = quantities("kv", "kimi-linear-48b")
    assert found["kv.bytes_per_token"] == 7 * (512 + 64) * 2 == 8_064
    assert found["kv.fixed_bytes"] == 20 * (32 * 128 * 128 * 4 + 3 * 4096 * 4 * 2) == 43_909_120


def test_kimi_linears_elements_are_those_of_its_header() -> None:
    assert quantities("weights", "kimi-linear-48b")["weights.elements"] == HEADERS["kimi-linear-header"]
    assert quantities("params", "kimi-linear-48b")["params.total"] == HEADERS["kimi-linear-header"] - 26 * 256


# -- what the class can't say -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "modules"), [("glm-5", 1), ("minimax-m2.5", 3), ("qwen3.5-397b-a17b", 1)])
def test_bytes_that_nobody_knows_are_named(name: str, modules: int) -> None:
    """No header was read of these: whether they hold their prediction modules is a range of the released bytes."""
    assert load_spec(name).backbone.num_nextn_predict_layers == modules
    assert any("is not known: without it there are" in note for note in answered("weights", name)["notes"])
