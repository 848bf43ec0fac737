"""Whether a release holds its prediction modules: bytes, words and refusals follow; counts of parameters don't."""

from __future__ import annotations

from pathlib import Path

import pytest

from archcalc.documents.params import params
from archcalc.documents.weights import weights
from archcalc.files.loader import load_spec
from archcalc.files.model import Spec
from archcalc.units import format_int
from tests.support import answered, dumped, run

SERVE = ("--gpu", "h200", "--gpus", "8")


def stored(as_written: bool | None) -> Spec:
    plain = load_spec("deepseek-v3").model_dump()
    plain["backbone"]["mtp_stored"] = as_written
    return Spec.model_validate(plain)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Paths of the three specs."""
    found = {}
    for name, value in (("held", True), ("absent", False), ("unknown", None)):
        plain = stored(value).model_dump(exclude_none=True)
        plain["backbone"]["mtp_stored"] = value  # null too
        path = tmp_path / f"{name}.yaml"
        path.write_text(dumped(plain))
        found[name] = str(path)
    return found


def bytes_of(value: bool | None, storage: str = "released") -> int:
    return int(weights(stored(value), as_=storage).quantities["weights.bytes"])


@pytest.mark.parametrize("storage", ["released", "bf16"])
def test_what_a_release_does_not_hold_is_in_none_of_its_bytes(storage: str) -> None:
    held = weights(stored(True), as_=storage)
    assert held.rows is not None
    # layer 61 is the prediction module; the release's own storage has embedding and head there again
    modules = sum(row["bytes"] for row in held.rows.rows if ".layers.61." in row["path"])
    assert modules > 0
    assert bytes_of(False, storage) == held.quantities["weights.bytes"] - modules
    assert bytes_of(None, storage) == held.quantities["weights.bytes"]


def test_a_report_says_what_is_left_out_and_what_is_not_known() -> None:
    mtp = int(params(stored(True)).quantities["params.mtp"]) + 256  # and the router's buffer
    absent, unknown = weights(stored(False)), weights(stored(None))
    assert absent.notes == [
        f"The release does not hold the multi-token-prediction module: its {format_int(mtp)} elements are left out."
    ]
    less = bytes_of(True) - bytes_of(False)
    assert unknown.notes[-1] == (
        f"Whether the release holds the multi-token-prediction module is not known: without it there are"
        f" {format_int(less)} bytes less."
    )
    assert unknown.notes[:-1] == weights(stored(True)).notes


def test_counts_of_parameters_and_training_do_not_depend_on_it(files: dict[str, str]) -> None:
    held, *others = (answered("params", file)["quantities"] for file in files.values())
    assert held["params.mtp"] > 0
    assert all(other == held for other in others)
    held, *others = (answered("weights", file, "--optimizer", "muon")["quantities"] for file in files.values())
    key = "weights.training_checkpoint_bytes"
    assert {other[key] for other in others} == {held[key]}


def test_an_engine_can_not_load_what_is_not_there(files: dict[str, str]) -> None:
    refused = run("serve", files["absent"], *SERVE, "--mtp")
    assert refused.code == 2
    assert "does not hold its multi-token-prediction module" in refused.err
    assert "can't be loaded" in " ".join(answered("serve", files["absent"], *SERVE)["notes"])
    unsure = answered("serve", files["unknown"], *SERVE, "--mtp")
    assert "that --mtp loads is not known" in " ".join(unsure["notes"])
    sure = answered("serve", files["held"], *SERVE, "--mtp")
    assert unsure["quantities"] == sure["quantities"]


def test_a_model_without_prediction_has_none_to_store() -> None:
    plain = load_spec("llama-3.1-70b").model_dump()
    plain["backbone"]["mtp_stored"] = False
    with pytest.raises(ValueError, match="mtp_stored without multi-token prediction"):
        Spec.model_validate(plain)
