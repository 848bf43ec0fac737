"""Wrapping and fitting: nothing is lost in silence, nothing is wider than the screen."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from archcalc.render.fit import fitted, padded, width_of, wrapped

WORDS = st.text(alphabet="ab._日 ", max_size=80)


def test_wide_characters_take_two_columns_and_combining_ones_none() -> None:
    assert width_of("ab") == 2
    assert width_of("日本") == 4
    assert width_of("e\u0301") == 1


def test_padding_counts_columns_not_characters() -> None:
    assert padded("日", 4, False) == "日  "
    assert padded("日", 4, True) == "  日"


def test_lines_break_at_spaces_and_hang() -> None:
    assert wrapped("one two three four", 9, 2) == ["one two", "  three", "  four"]


def test_an_indent_is_kept_and_later_lines_go_deeper() -> None:
    assert wrapped("    aaaa bbbb", 9, 2) == ["    aaaa", "    bbbb"]  # the hang stops at half the width
    assert wrapped("  aaaa bbbb", 9, 2) == ["  aaaa", "    bbbb"]


def test_a_long_path_breaks_behind_its_dots() -> None:
    assert wrapped("model.layers.mlp", 8) == ["model.", "layers.", "mlp"]


def test_without_a_width_nothing_wraps() -> None:
    assert wrapped("a " * 100, None) == ["a " * 100]


@given(WORDS, st.integers(1, 40), st.integers(0, 6))
def test_wrapped_lines_fit_and_hold_every_character(text: str, width: int, hang: int) -> None:
    lines = wrapped(text, width, hang)
    assert "".join("".join(lines).split()) == "".join(text.split())
    assert all(width_of(line) <= max(width, width // 2 + 2) for line in lines)  # a wide character needs two columns


CELLS = [["module", "parameters", "shape"], ["      a_long_name.weight", "1,000,000", "[7168, 7168]"]]


def test_without_a_width_every_column_has_its_natural_width() -> None:
    assert fitted(CELLS, (True, False, False), None) == ([0, 1, 2], [24, 10, 12])


def test_columns_are_left_out_from_the_last_one() -> None:
    assert fitted(CELLS, (True, False, False), 50) == ([0, 1, 2], [24, 10, 12])  # 24 + 10 + 12 + 2 x 2
    assert fitted(CELLS, (True, False, False), 49)[0] == [0, 1]


def test_a_name_keeps_its_number_however_narrow_the_screen_is() -> None:
    assert fitted(CELLS, (True, False, False), 20) == ([0, 1], [8, 10])  # the name gives way: 20 - 10 - 2
    assert fitted(CELLS, (True, False, False), 5) == ([0, 1], [8, 10])


def test_a_column_that_wraps_gives_way_before_another_is_left_out() -> None:
    cells = [["what", "n"], ["some words that may wrap anywhere", "1,000"]]
    assert fitted(cells, (True, False), 25) == ([0, 1], [18, 5])  # 25 - 5 - 2


def test_the_widest_column_gives_way_first_and_no_word_is_cut() -> None:
    """Of 80 columns 80 - 3 x 2 - 12 - 13 = 49 are left for two texts of 57 and 46: 24 and 25, neither of them short."""
    texts = [
        "context over the tp group + fewer sequences a step, at most",
        "--dcp 8 --max-num-seqs 64 --utilization 0.95",
    ]
    cells = [[*texts, "551.35 MiB  ", "cached tokens"]]
    shown, sizes = fitted(cells, (True, True, False, False), 80)
    assert (shown, sizes) == ([0, 1, 2, 3], [24, 25, 12, 13])
    for width in range(48, 80):
        shown, sizes = fitted(cells, (True, True, False, False), width)
        lines = [line for text, size in zip(texts, sizes, strict=False) for line in wrapped(text, size, 2)]
        assert all(word in {*texts[0].split(), *texts[1].split()} for line in lines for word in line.split()), width


@given(
    st.lists(st.tuples(WORDS, WORDS, WORDS), min_size=1, max_size=5),
    st.tuples(st.booleans(), st.booleans(), st.booleans()),
    st.integers(8, 80),
)
def test_what_is_shown_fits(cells: list[tuple[str, str, str]], wraps: tuple[bool, bool, bool], width: int) -> None:
    shown, sizes = fitted(cells, wraps, width)
    assert shown == list(range(len(shown)))
    second = max(width_of(line[1]) for line in cells)
    assert sum(sizes) + 2 * (len(sizes) - 1) <= max(width, 8 + 2 + second)


def test_columns_to_keep_outlast_the_others_and_the_name_gives_way_to_them() -> None:
    cells = [["a.long.name.with.dots", "1234567890", "12345", "1234567890"]]
    wraps = [True, False, False, False]
    assert fitted(cells, wraps, 46, keep=[3]) == ([0, 1, 3], [21, 10, 10])  # 21 + 10 + 5 + 10 + 3 x 2 = 52 > 46
    assert fitted(cells, wraps, 40, keep=[1, 3]) == ([0, 1, 3], [16, 10, 10])  # 40 - 10 - 10 - 2 x 2
