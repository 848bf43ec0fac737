"""Index sets in paths."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archcalc.calc.kv_cache import Mesh
from archcalc.documents.document import Report
from archcalc.documents.explain import explain_report
from archcalc.documents.flops import flops_report
from archcalc.documents.kv import kv_report
from archcalc.documents.params import params_report
from archcalc.documents.paths import covers, folded, places, starred, where
from archcalc.documents.weights import weights
from archcalc.files.loader import load_spec
from archcalc.files.model import Spec
from archcalc.tape.indices import ranges, runs
from archcalc.workload import Workload


@pytest.mark.parametrize(
    ("indices", "text"),
    [
        ((), ""),
        ((3,), "3"),
        ((0, 1, 2, 5), "0-2,5"),
        (range(60), "0-59"),
        (range(1), "0"),
        (range(1 << 40), "0-1099511627775"),
    ],
)
def test_indices_print_as_ranges(indices: range | tuple[int, ...], text: str) -> None:
    assert ranges(indices) == text


@given(st.sets(st.integers(0, 60)))
def test_a_range_text_names_exactly_its_indices(indices: set[int]) -> None:
    read: set[int] = set()
    for piece in filter(None, ranges(sorted(indices)).split(",")):
        low, _, high = piece.partition("-")
        read |= set(range(int(low), int(high or low) + 1))
    assert read == indices


@given(st.sets(st.integers(0, 60)))
def test_runs_hold_exactly_their_indices(indices: set[int]) -> None:
    found = runs(sorted(indices))
    assert [i for first, last in found for i in range(first, last + 1)] == sorted(indices)
    assert all(after[0] > before[1] + 1 for before, after in pairwise(found))  # none that could be one with the next


def test_a_row_says_only_of_what_its_template_names_how_often_it_stands() -> None:
    indexed = {"path": "a.1-2,4.b", "template": "a.{i}.b", "indices": [[1, 2], [4, 4]], "experts": 0}
    assert where("a.{i}.b", (1, 2, 4), 8) == indexed
    assert where("a.b", (1, 2, 4), 8) == {"path": "a.b", "template": "a.b", "indices": [], "experts": 0}


REPORTS: dict[str, Callable[[Spec], Report]] = {
    "params": params_report,
    "params --depth": lambda spec: params_report(spec, depth=4),
    "params --explain": lambda spec: explain_report(spec, "layers.5.mlp"),
    "flops": lambda spec: flops_report(spec, Workload(phase="train", seq=64)),
    "kv": lambda spec: kv_report(spec, Workload(context=64), mesh=Mesh()),
    "weights": weights,
}


@pytest.mark.parametrize("name", ["k25", "gemma-3-27b", "deepseek-v3"])
@pytest.mark.parametrize("what", REPORTS)
def test_every_row_says_which_layers_and_experts_its_path_was_folded_from(what: str, name: str) -> None:
    report = REPORTS[what](load_spec(name))
    assert report.rows is not None
    for row in report.rows.rows:
        layers = ",".join(f"{a}-{b}" if a < b else str(a) for a, b in row["indices"])
        experts = f"0-{row['experts'] - 1}"
        assert row["path"] == row["template"].replace("{i}", layers).replace("{e}", experts)
        if "shape" in row:  # one weight: a matrix for each layer and expert
            count = sum(b - a + 1 for a, b in row["indices"])
            assert row["copies"] == max(1, count) * max(1, row["experts"])


def test_routed_experts_stand_for_384_in_each_of_60_layers() -> None:
    # Kimi K2.5's config.json: n_routed_experts 384, first_k_dense_replace 1 of num_hidden_layers 61
    rows = REPORTS["params"](load_spec("k25")).rows
    assert rows is not None
    (row,) = [row for row in rows.rows if row["path"].endswith("experts.0-383.up_proj.weight")]
    assert row["template"] == "language_model.model.layers.{i}.mlp.experts.{e}.up_proj.weight"
    assert (row["indices"], row["experts"]) == ([[1, 60]], 384)


def test_templates_are_folded_and_starred() -> None:
    assert folded("layers.{i}.experts.{e}.w", (1, 2), 4) == "layers.1-2.experts.0-3.w"
    assert starred("layers.{i}.experts.{e}.w") == "layers.*.experts.*.w"


@pytest.mark.parametrize(
    ("wanted", "covered"),
    [
        ("m", True),
        ("m.layers", True),
        ("m.layers.{i}", True),
        ("m.layers.*", True),
        ("m.layers.4.experts.1.w", True),
        ("m.layers.3-5.experts.0-7", True),
        ("m.layers.6", False),
        ("m.layers.3-4", False),
        ("m.layers.4.experts.8", False),
        ("m.layers.4.experts.-1", False),
        ("m.layers.²", False),
        ("m.layers." + "9" * 5000, False),
        ("layers", False),
        ("m.layers.4.experts.1.w.more", False),
        ("", False),
    ],
)
def test_a_wanted_path_covers_what_stands_at_or_below_it(wanted: str, covered: bool) -> None:
    assert covers("m.layers.{i}.experts.{e}.w", (3, 4, 5), 8, wanted) is covered


def test_places_hold_every_module_weight_and_activation_of_a_model() -> None:
    found = {place.template for place in places(load_spec("k25").trace(Workload()))}
    assert {"mm_projector", "mm_projector.proj.1", "mm_projector.proj.2.bias", "vision_tower.encoder"} <= found
