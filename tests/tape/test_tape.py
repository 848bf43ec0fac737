"""What the tape records: segments, paths, weights."""

from __future__ import annotations

import pytest

from archcalc.tape import Dim, Tape, Tensor, Weight
from archcalc.workload import Workload

E, K, OUT, IN = Dim("experts", 4), Dim("top_k", 2), Dim("out", 3), Dim("in", 5)


def weight(**options) -> Weight:
    return Weight(
        "m.{i}.experts.{e}.w",
        "weight",
        (OUT,),
        (IN,),
        role="routed_expert",
        part="backbone",
        dtype="bfloat16",
        **options,
    )


def test_a_weight_counts_its_layers_and_its_stack() -> None:
    w = weight(stack=(E,), active=K, indices=(1, 2, 3))
    assert (w.matrix, w.copies, w.elements) == (15, 12, 180)  # 3 x 5; 3 layers x 4 experts; 15 x 12
    assert w.active_elements == 90  # 3 layers x 2 experts x 15


def test_a_weight_without_indices_stands_for_one() -> None:
    assert weight().elements == 15
    assert weight().active_elements == 15


def test_a_matrix_is_stored_flat_unless_told_otherwise() -> None:
    many = (Dim("heads", 2), Dim("dim", 3))
    assert Weight("w", "weight", many, (IN,), role="attention", part="backbone", dtype="bfloat16").shape == (6, 5)
    conv = Weight("w", "weight", (OUT,), many, flat=False, role="vision", part="vision", dtype="bfloat16")
    assert conv.shape == (3, 2, 3)
    assert Weight("b", "bias", many, (), role="attention", part="backbone", dtype="bfloat16").shape == (6,)


def test_paths_are_scoped_and_segments_stand_for_all_their_indices() -> None:
    tape = Tape(Workload())
    with tape.scope("language_model"), tape.segment("layers.{i}", "backbone", indices=(0, 1)) as x:
        y = Tensor((Dim("seq", 7),), (IN,), x.storage)
        with tape.scope("self_attn"):
            tape.linear(y, "q_proj", (OUT,), role="attention", site="qkv", bias=True)
    (segment,) = tape.segments
    assert (segment.path, segment.count, segment.ops[0].path) == (
        "language_model.layers.{i}",
        2,
        "language_model.layers.{i}.self_attn.q_proj",
    )
    assert [(w.suffix, w.elements) for w in tape.weights()] == [("weight", 30), ("bias", 6)]  # twice 3 x 5, twice 3


def test_a_weight_that_is_used_twice_counts_once() -> None:
    tape = Tape(Workload())
    with tape.segment("ends", "backbone") as x:
        y = tape.embedding((Dim("seq", 7),), "embed", Dim("vocab", 11), IN)
        (tied,) = tape.weights()
        tape.linear(y, "head", (Dim("vocab", 11),), role="head", site="head", weight=tied)
    assert x is not y
    assert [w.path for w in tape.weights()] == ["ends.embed"]


def test_a_segment_inside_a_segment_is_refused() -> None:
    tape = Tape(Workload())
    with (
        tape.segment("a", "backbone"),
        pytest.raises(AssertionError, match="opened inside"),
        tape.segment("b", "backbone"),
    ):
        pass


def test_an_operation_outside_a_segment_is_refused() -> None:
    tape = Tape(Workload())
    with pytest.raises(AssertionError, match="outside a segment"):
        tape.embedding((Dim("seq", 7),), "embed", Dim("vocab", 11), IN)


def test_an_unknown_site_is_refused() -> None:
    tape = Tape(Workload())
    with tape.segment("a", "backbone") as x, pytest.raises(AssertionError, match="unknown site"):
        tape.linear(Tensor((), (IN,), x.storage), "w", (OUT,), role="attention", site="no_such_site")


def test_modules_of_the_same_path_in_other_layers_keep_their_own_sentence() -> None:
    tape = Tape(Workload())
    for indices, about in (((0,), "dense"), ((1, 2), "sparse")):
        with tape.segment("layers.{i}", "backbone", indices=indices), tape.scope("mlp", about):
            pass
    assert tape.abouts == {("layers.{i}.mlp", (0,)): "dense", ("layers.{i}.mlp", (1, 2)): "sparse"}
