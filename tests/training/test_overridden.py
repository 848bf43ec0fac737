"""A field set on the command line is read by the rules of a file, and an error shows where in the argument it is."""

from __future__ import annotations

import pytest

from archcalc.errors import InputError
from archcalc.files.yaml_loader import load
from archcalc.training.load import load_plan
from archcalc.training.overridden import Overridden, Setting, value_of

REFUSED = {
    "parallel.pp=x:12": ("x:12", 'pp must be an integer, not "x:12"'),
    "batch={seq: *a}": ("*a", "aliases (`*a`) are not allowed"),
    "name=&a b": ("&a", "anchors (`&a`) are not allowed"),
    "name=!!str b": ("!!str", "tags (`!!str`) are not allowed"),
    "parallel={pp: 1, pp: 2}": ("pp: 2", "duplicate key `pp`"),
    "parallel={pp: 1, zer: 2}": ("{pp", "missing keys"),
    "sources={a: [.inf]}": ("[.inf]", "a must be text, not a list"),
    "memory.allocator_efficiency=.nan": (".nan", "allocator_efficiency must be a finite number"),
    "memory.allocator_efficiency=1e999": ("1e999", "1e999 is too large a number"),
    "batch.seq=81,92": ("81,92", '"81,92" is not a number of tokens'),
    "parallel=1": ("1", "parallel is a section of a plan"),
    "parallel=[1]": ("[1]", "parallel is a section of a plan"),
    " parallel.pp = x": ("x", "pp must be an integer"),
    "name='é": ("'é", "this quoted text is never closed"),
    "batch={seq: 64": ("{seq", "this bracket is never closed"),
    f"sources={'[' * 70}": ("[" * 7, "more than 64 levels of nesting"),
    "name=a\nbatch: 3": ("\n", "a field that is set stands on one line"),
    "name=a\x07": ("\x07", "the character U+0007 is not allowed"),
}
"""An argument, the text at the caret, and what is said."""


@pytest.mark.parametrize("text", REFUSED)
def test_what_a_file_may_not_say_a_flag_may_not_either(text: str) -> None:
    at, message = REFUSED[text]
    with pytest.raises(InputError) as error:
        load_plan("k2-pretrain", (text,))
    found = error.value.problems[0]
    assert message in found.message
    assert (found.source, found.line) == (f"--set {text}", None)
    assert found.column is not None
    assert text[found.column - 1 :].startswith(at), found.column


def test_the_caret_stands_below_the_place_in_the_argument() -> None:
    with pytest.raises(InputError) as error:
        load_plan("k2-pretrain", ("parallel.pp=x:12",))
    assert error.value.render() == (
        '--set parallel.pp=x:12:13: error: pp must be an integer, not "x:12"\n  | parallel.pp=x:12\n  |             ^'
    )


def test_what_a_key_is_given_twice_with_is_shown_in_the_argument() -> None:
    text = "parallel={pp: 1, pp: 2}"
    with pytest.raises(InputError) as error:
        load_plan("k2-pretrain", (text,))
    (first,) = error.value.problems[0].related
    assert first.column is not None
    assert text[first.column - 1 :] == "pp: 1, pp: 2}"


def test_a_problem_stands_in_the_last_argument_that_sets_its_field_or_something_inside() -> None:
    texts = ("parallel.pp=8", "parallel.pp=9", "parallel.vpp=2")
    settings = [Setting(tuple(text.partition("=")[0].split(".")), text, value_of(text)) for text in texts]
    plan = Overridden({}, load("parallel:\n  pp: 1\nname: a\n", "plan.yaml"), settings)
    assert plan.problem("no", ("parallel", "pp")).source == "--set parallel.pp=9"
    assert plan.problem("no", ("parallel",)).source == "--set parallel.vpp=2"
    assert plan.problem("no", ("name",)).snippet is None


def test_fields_that_disagree_are_told_where_they_stand_the_file_too() -> None:
    with pytest.raises(InputError) as error:
        load_plan("k2-pretrain", ("batch.micro_batch=7", "parallel.world=100"))
    found = error.value.problems[0]
    assert found.source == "--set parallel.world=100"
    (pp, *_) = found.related
    assert str(pp.source).endswith("specs/plans/k2-pretrain.yaml")
    assert (pp.snippet or "").strip().startswith("pp: 16")


def test_what_was_set_to_a_plain_value_has_no_fields() -> None:
    with pytest.raises(InputError, match="sources was set to what has no field report") as error:
        load_plan("k2-pretrain", ("sources=1", "sources.report=b"))
    assert error.value.source == "--set sources.report=b"
