"""Index sets in paths."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archcalc.documents.paths import covers, folded, places, ranges, starred
from archcalc.files.loader import load_spec
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
