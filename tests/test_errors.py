"""Errors as a user sees them: place, source line, caret, hint; and nothing that could upset a terminal."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from unicodedata import combining

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from archcalc.errors import (
    ArchcalcError,
    CheckFailed,
    FieldError,
    InputError,
    Problem,
    Related,
    SpecError,
    did_you_mean,
    harmless,
    in_its_case,
    near_miss,
    show_value,
)


def caret_column(rendered: str) -> int:
    """Where the first caret stands below its source line, from 0, the gutter not counted."""
    lines = rendered.splitlines()
    caret = next(line for line in lines if line.endswith("^"))
    return caret.index("^") - caret.index("|") - len("| ")


def source_line(rendered: str) -> str:
    """The printed source line, without its gutter."""
    return rendered.splitlines()[1].partition(" | ")[2]


def test_a_place_is_told_as_it_is_whatever_it_begins_with() -> None:
    assert str(InputError("x", source="::a.yaml", line=1, column=4)) == "::a.yaml:1:4: x"
    assert str(InputError("x", source=":a.yaml")) == ":a.yaml: x"
    assert str(InputError("x", line=1, column=4)) == "1:4: x"
    assert str(InputError("x", column=4)) == "4: x"


def test_an_error_prints_place_then_source_line_then_caret_then_hint() -> None:
    error = InputError(
        "kv_lora_rank must be greater than 0",
        source="specs/k.yaml",
        line=3,
        column=28,
        value=0,
        snippet="  mla: {kind: mla, kv_lora_rank: 0}",
        hint="use the rank that config.json gives",
    )
    assert error.render().splitlines() == [
        "specs/k.yaml:3:28: error: kv_lora_rank must be greater than 0",
        "  3 |   mla: {kind: mla, kv_lora_rank: 0}",
        "    |                            ^",
        "hint: use the rank that config.json gives",
    ]


def test_str_is_file_line_column_message() -> None:
    assert str(InputError("bad", source="a.yaml", line=3, column=28)) == "a.yaml:3:28: bad"
    assert str(InputError("bad", source="a.yaml")) == "a.yaml: bad"
    assert str(InputError("bad")) == "bad"


def test_an_error_without_a_place_has_no_excerpt() -> None:
    assert InputError("no such file", source="a.yaml", hint="check the path").render() == (
        "a.yaml: error: no such file\nhint: check the path"
    )


def test_second_places_are_printed_as_notes_before_the_hint() -> None:
    first = Related("first given here", "a.yaml", 1, 3, "  b: 1")
    error = InputError("duplicate", source="a.yaml", line=2, column=3, snippet="  b: 2", hint="h", related=[first])
    assert error.render().splitlines()[3:] == [
        "a.yaml:1:3: note: first given here",
        "  1 |   b: 1",
        "    |   ^",
        "hint: h",
    ]


def test_several_problems_are_all_reported_the_first_one_first() -> None:
    error = InputError.from_problems([Problem("one", "a.yaml", 1, 1), Problem("two", "a.yaml", 2, 5, hint="h")])
    assert (error.message, error.line, error.column, error.hint) == ("one", 1, 1, None)
    assert error.render() == "a.yaml:1:1: error: one\n\na.yaml:2:5: error: two\nhint: h"


def test_a_flood_of_problems_is_cut_and_counted() -> None:
    rendered = InputError.from_problems([Problem(f"problem {n}") for n in range(1, 24)]).render()
    assert "problem 20" in rendered
    assert "problem 21" not in rendered
    assert rendered.endswith("and 3 more errors")  # 23 problems, 20 shown


def test_control_characters_from_a_file_reach_the_terminal_as_escapes() -> None:
    error = InputError("bad \x1b[31m", source="a\nb", line=1, column=3, snippet="k: \x1b[2J\u202e", hint="\x07")
    rendered = error.render()
    assert rendered.replace("\n", "").isprintable()
    assert "\\x1b[31m" in rendered
    assert "\\u202e" in rendered
    assert rendered.startswith("a\\nb:1:3:")


def test_the_caret_stays_under_its_character_when_those_before_it_widen() -> None:
    # an escape is 4 columns wide (\x07), a tab is shown as 1, each of two CJK characters takes 2
    rendered = InputError("bad", line=1, column=5, snippet="\x07\t日本X").render()
    assert source_line(rendered) == "\\x07 日本X"
    assert caret_column(rendered) == 4 + 1 + 2 * 2


def test_a_long_line_is_cut_around_the_caret() -> None:
    rendered = InputError("bad", line=1, column=501, snippet="a" * 500 + "X" + "b" * 500).render(width=60)
    shown = source_line(rendered)
    assert len(rendered.splitlines()[1]) <= 60
    assert shown.startswith("...aaa")
    assert shown.endswith("b...")
    assert shown[caret_column(rendered)] == "X"


@example("x" * 62, 63, 68)  # "  7 | " and 62 characters fill 68 columns; the caret behind the last would be the 69th
@given(st.text(max_size=400), st.integers(1, 450), st.integers(40, 120))
def test_any_line_and_column_render_in_the_width(snippet: str, column: int, width: int) -> None:
    lines = InputError("bad", line=7, column=column, snippet=snippet).render(width).splitlines()
    assert len(lines) == 3
    assert all(line.isprintable() and sum(not combining(char) for char in line) <= width for line in lines)


def test_a_caret_past_the_end_of_the_line_stands_right_behind_it() -> None:
    assert caret_column(InputError("bad", line=1, column=99, snippet="abc").render()) == 3


def test_at_adds_a_place_and_keeps_the_rest() -> None:
    placed = SpecError("not a size", value="80G", hint="say GiB").at(
        source="k.yaml", line=4, column=8, snippet="m: 80G"
    )
    assert isinstance(placed, SpecError)
    assert str(placed) == "k.yaml:4:8: not a size"
    assert (placed.value, placed.hint, placed.snippet) == ("80G", "say GiB", "m: 80G")
    assert str(placed.at(source="other.yaml")) == "other.yaml:4:8: not a size"


def test_exit_codes_tell_a_failed_check_from_an_input_that_could_not_be_used() -> None:
    assert CheckFailed("a claim is refuted").exit_code == 1
    assert [cls.exit_code for cls in (ArchcalcError, InputError, SpecError)] == [2, 2, 2]


def test_every_error_of_ours_is_an_archcalc_error_and_input_errors_work_in_validators() -> None:
    assert issubclass(SpecError, InputError)
    assert issubclass(InputError, ArchcalcError)
    assert issubclass(InputError, ValueError)
    assert CheckFailed("no \x1b").render() == "error: no \\x1b"


@pytest.mark.parametrize("clone", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
def test_an_error_survives_copying_between_processes(clone) -> None:
    error = clone(InputError("bad", source="a", line=1, column=2, hint="h"))
    assert (str(error), error.hint) == ("a:1:2: bad", "h")


def test_field_errors_hold_paths() -> None:
    error = FieldError("they disagree", "hidden_size", ("layers", 0), hint="h")
    assert (str(error), error.fields, error.hint) == ("they disagree", (("hidden_size",), ("layers", 0)), "h")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("hidden_sise", "hidden_size"),
        ("hiden_size", "hidden_size"),
        ("Hidden-Size", "hidden_size"),
        ("vocab", "vocab_size"),
        ("zzz", None),
        ("h" * 100_000, None),
    ],
)
def test_near_misses(name: str, meant: str | None) -> None:
    assert near_miss(name, ["hidden_size", "vocab_size", "num_hidden_layers"]) == meant


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("fp4", ["fp8", "bf16"]),  # each is a number format of its own
        ("fp16", ["bf16", "fp8"]),
        ("int4", ["int8"]),
        ("mha", ["mla", "gqa"]),
        ("mqa", ["mla", "gqa"]),
        ("edp", ["ep", "etp", "pp"]),
        ("zb-h3", ["zb-h1", "zb-h2"]),
        ("h20", ["h200"]),
        ("hidden_size", ["hidden_size", "hidden_sise"]),  # refused, and it is there: nothing else is meant
    ],
)
def test_another_thing_is_no_near_miss(name: str, choices: list[str]) -> None:
    assert near_miss(name, choices) is None


@pytest.mark.parametrize(
    ("name", "choice"),
    [("k52", "k25"), ("bf61", "bf16"), ("ppp", "pp"), ("jsn", "json"), ("spek", "spec"), ("BF16", "bf16")],
)
def test_a_slip_of_a_short_word_is_one(name: str, choice: str) -> None:
    assert near_miss(name, [choice]) == choice


def test_a_choice_is_found_in_any_case_and_nothing_else_is_changed() -> None:
    assert in_its_case("BF16", ["bf16", "fp8"]) == "bf16"
    assert in_its_case("K25", ["k25", "K25"]) == "K25"
    assert in_its_case("b-f16", ["bf16"]) == "b-f16"


def test_a_near_miss_makes_a_hint() -> None:
    assert did_you_mean("hidden_sise", ["hidden_size"]) == "did you mean hidden_size?"
    assert did_you_mean("zzz", ["hidden_size"]) is None


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "null"),
        (True, "true"),
        (-1, "-1"),
        (1.5, "1.5"),
        (float("nan"), ".nan"),
        (float("-inf"), "-.inf"),
        ("big", '"big"'),
        ("a\nb", '"a\\nb"'),
        ([1], "a list"),
        ({}, "a mapping"),
    ],
)
def test_values_are_shown_as_yaml_would_write_them(value: object, shown: str) -> None:
    assert show_value(value) == shown


def test_an_integer_too_long_for_str_is_only_named() -> None:
    assert show_value(16**4000) == "a huge integer"  # 4817 digits; Python refuses to print more than 4300


def test_long_values_are_cut() -> None:
    assert len(show_value("x" * 1000)) < 50
    assert len(show_value(10**200)) <= 40


def test_harmless_text_is_left_alone() -> None:
    assert harmless("naïve 日本 ~ \\ text") == "naïve 日本 ~ \\ text"
    assert harmless("\ud800") == "\\ud800"  # a lone surrogate can't be printed at all


def test_the_start_up_path_loads_no_arithmetic_and_no_difflib() -> None:
    heavy = "{'decimal', 'difflib', 'fractions'}"
    code = f"import sys, archcalc.errors, archcalc.units; print(*{heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
