"""Sizes and counts: exact when read, rounded only when printed."""

from __future__ import annotations

import contextlib
import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archcalc.documents.sizes import parse_lengths
from archcalc.errors import InputError
from archcalc.units import (
    IMAGE_FORM,
    format_bytes,
    format_context,
    format_count,
    format_flops,
    format_int,
    format_share,
    parse_context,
    parse_count,
    parse_memory,
    parse_printed,
    parse_range,
    parse_sides,
    printed_kind,
    whole_number,
)

GARBAGE = [
    "",
    " ",
    "x",
    "nan",
    "inf",
    "-inf",
    "1.2.3",
    "1,5",
    "٣",
    "GiB",
    "0x10",
    "9" * 100,
    "1 2",
    "1\x00",
    ".5",
]
MISPLACED = ["1,31,072", "13,1072", "131,0722", ",131", "131,", "0,131", "1,,072", "131,072,", "1_0,000"]
PARSERS = [parse_memory, parse_context, parse_count, parse_printed, parse_range]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("80GiB", 80 * 2**30),
        ("80 gib", 80 * 2**30),
        ("80GB", 80 * 10**9),
        ("512 MiB", 2**29),
        ("1kB", 1000),
        ("1KiB", 1024),
        ("1024", 1024),
        ("1024 B", 1024),
        ("1_024", 1024),
        ("80,000,000,000", 80_000_000_000),
        ("1,024 MiB", 2**30),
        ("1,234.5 kB", 1_234_500),
        ("0GiB", 0),
        (
            "46.80GiB",
            46 * 2**30 + 2**30 * 8 // 10,
        ),  # 0.8 GiB = 858 993 459.2 bytes: the part of a byte is dropped
        ("1.5TiB", 3 * 2**39),
        # 2^53 + 1: the first integer that a float loses
        ("9007199254740993", 9007199254740993),
    ],
)
def test_memory_sizes_say_which_unit_they_mean(text: str, size: int) -> None:
    assert parse_memory(text) == size


def test_a_memory_size_that_does_not_say_which_unit_is_refused_with_both() -> None:
    with pytest.raises(InputError, match="80G") as caught:
        parse_memory("80G")
    assert caught.value.hint is not None
    assert "GiB" in caught.value.hint
    assert "GB" in caught.value.hint


@pytest.mark.parametrize("text", ["1.5", "1.5 bytes"])
def test_a_fraction_of_a_byte_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="whole number of bytes"):
        parse_memory(text)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("256k", 262144),
        ("1M", 1048576),
        ("4096", 4096),
        ("4K", 4096),
        ("0.5k", 512),
        ("0", 0),
        ("2Ki", 2048),
        ("131,072", 131072),
        ("128KiB", 131072),
    ],
)
def test_context_lengths_take_binary_suffixes(text: str, tokens: int) -> None:
    assert parse_context(text) == tokens


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("15.5T", 15_500_000_000_000),
        ("15.5e12", 15_500_000_000_000),
        ("15.5 trillion", 15_500_000_000_000),
        ("8b", 8_000_000_000),
        ("0.001K", 1),
        ("8192", 8192),
        ("15,500,000,000", 15_500_000_000),
        ("64Mi", 2**26),
    ],
)
def test_counts_take_decimal_suffixes(text: str, count: int) -> None:
    assert parse_count(text) == count


@pytest.mark.parametrize("parse", [parse_context, parse_count])
def test_what_is_no_whole_number_is_refused(parse) -> None:
    with pytest.raises(InputError, match="not a whole number") as caught:
        parse("0.0003k")
    assert caught.value.hint


@pytest.mark.parametrize("parse", PARSERS)
@pytest.mark.parametrize("text", MISPLACED)
def test_commas_that_make_no_groups_of_three_digits_are_refused(parse, text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(text)
    assert caught.value.hint


@pytest.mark.parametrize("parse", PARSERS)
@pytest.mark.parametrize("text", GARBAGE)
def test_garbage_is_refused_with_a_hint(parse, text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(text)
    assert caught.value.hint
    assert caught.value.value == text


@pytest.mark.parametrize("parse", [parse_memory, parse_context, parse_count, parse_printed])
@pytest.mark.parametrize("text", ["-1", "- 5", "−3"])
def test_negative_numbers_are_refused_as_negative(parse, text: str) -> None:
    with pytest.raises(InputError, match="can't be negative"):
        parse(text)


@pytest.mark.parametrize("parse", PARSERS)
@given(text=st.text(max_size=80))
def test_no_text_makes_a_parser_raise_anything_else(parse, text: str) -> None:
    with contextlib.suppress(InputError):
        parse(text)


def test_a_range_has_both_ends() -> None:
    assert parse_range("4k..256k") == (4096, 262144)
    assert parse_range("8 .. 8") == (8, 8)


@pytest.mark.parametrize("text", ["256k..4k", "4k..", "..4k", "..", "4k", "4k-8k", "4k...8k"])
def test_a_range_that_is_reversed_or_has_an_end_missing_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_range(text)


@pytest.mark.parametrize(
    ("text", "value", "ulp"),
    [
        ("~104B", 104 * 10**9, 10**9),
        ("1.04 million", 1_040_000, 10_000),
        ("1.04T", 1040 * 10**9, 10 * 10**9),
        ("32.6B", 326 * 10**8, 10**8),
        ("2.1 %", Fraction(21, 1000), Fraction(1, 1000)),
        ("50%", Fraction(1, 2), Fraction(1, 100)),
        ("9216", 9216, 1),
        ("9,216", 9216, 1),
        ("7000", 7000, 1),  # bare whole numbers are exact
        ("46.80", Fraction(468, 10), Fraction(1, 100)),  # printed zeros of a fraction count
        ("400M", 4 * 10**8, 10**8),  # zeros before a unit are rounding
        ("1000 billion", 10**12, 10**12),
        ("425m", 425 * 10**6, 10**6),
    ],
)
def test_a_printed_number_has_a_value_and_a_precision(text: str, value: Fraction, ulp: Fraction) -> None:
    printed = parse_printed(text)
    assert (printed.value, printed.ulp, printed.text) == (value, ulp, text)


@pytest.mark.parametrize(
    ("text", "value", "ulp"),
    [
        # SI prefixes are powers of 1000, with one FLOP or several; the last digit says how good it is
        ("68.5 GFLOPs", 685 * 10**8, 10**8),
        ("3.14 TFLOP", 314 * 10**10, 10**10),
        ("2.5 YFLOPs", 25 * 10**23, 10**23),
        ("12.5 kFLOPs", 12_500, 100),
        ("989 FLOPs", 989, 1),
        ("3.8e25", 38 * 10**24, 10**24),
        ("1.5T", 15 * 10**11, 10**11),  # the letters of counts too
    ],
)
def test_printed_flops_have_si_prefixes(text: str, value: int, ulp: int) -> None:
    printed = parse_printed(text, "flops")
    assert printed.value == value
    assert printed.ulp == ulp


@pytest.mark.parametrize("text", ["1,04T", "1.04T%", "104 BT", "12,34", "1,0000", "%", "~"])
def test_half_understood_prints_are_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_printed(text)


def test_a_number_matches_a_print_that_it_rounds_to() -> None:
    printed = parse_printed("1.04T")  # 1.035T to 1.045T
    assert printed.matches(1_035_000_000_000)  # half-way goes either way
    assert printed.matches(1_045_000_000_000)
    assert not printed.matches(1_034_999_999_999)
    assert not printed.matches(1_045_000_000_001)
    assert not printed.matches(1_040_000)


def test_shares_match_percentages() -> None:
    printed = parse_printed("2.1 %")
    assert printed.matches(Fraction(8, 384))  # 8 of 384 experts: 2.0833 %
    assert printed.matches(8 / 384)
    assert not printed.matches(2.1)
    assert not printed.matches(math.inf)
    assert not printed.matches(math.nan)


@given(st.integers(0, 10**6), st.integers(0, 4), st.sampled_from(["", "K", "M", "B", "T", "%"]))
def test_every_print_matches_its_own_value_and_nothing_one_unit_off(digits: int, decimals: int, unit: str) -> None:
    text = f"{digits / 10**decimals:.{decimals}f}{unit}"
    printed = parse_printed(text)
    assert printed.matches(printed.value)
    assert not printed.matches(printed.value + printed.ulp)
    assert printed.value % printed.ulp == 0


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (9216, "9,216"),
        (9999, "9,999"),
        (10_000, "10.00K"),
        (163_840, "163.8K"),
        (999_949, "999.9K"),
        (999_950, "1.000M"),  # rounds up into the next unit
        (1_026_879_353_328, "1.027T"),
        (1_234_500_000_000_000, "1,235T"),  # no unit above T; half goes up
        (-12_345_678, "-12.35M"),
    ],
)
def test_counts_are_printed_in_four_digits(count: int, text: str) -> None:
    assert format_count(count) == text


@pytest.mark.parametrize(
    ("size", "units", "text"),
    [
        (0, "gib", "0 B"),
        (1023, "gib", "1,023 B"),
        (70_272, "gib", "68.63 KiB"),  # 70272 / 1024 = 68.625, half goes up
        (2**20 - 1, "gib", "1.00 MiB"),  # rounds up into the next unit
        (80 * 2**30, "gib", "80.00 GiB"),
        (5000 * 2**30, "gib", "5,000.00 GiB"),
        (10_000 * 2**30, "gib", "10,000.00 GiB"),  # TiB above it: 10,000 / 1,024 = 9.765625
        (10_000 * 2**30 + 1, "gib", "9.77 TiB"),
        (-11 * 2**40, "gib", "-11.00 TiB"),
        (10**13, "gb", "10,000.00 GB"),
        (10**13 + 1, "gb", "10.00 TB"),
        (10**13 + 1, "bytes", "10,000,000,000,001 B"),
        (80 * 10**9, "gb", "80.00 GB"),
        (999_995, "gb", "1.00 MB"),
        (1_500, "gb", "1.50 kB"),
        (80 * 10**9, "bytes", "80,000,000,000 B"),
        (-(2**31), "gib", "-2.00 GiB"),
    ],
)
def test_bytes_are_printed_in_the_units_asked_for(size: int, units: str, text: str) -> None:
    assert format_bytes(size, units) == text


def test_unknown_units_are_refused() -> None:
    with pytest.raises(InputError, match="tib"):
        format_bytes(1, "tib")


@pytest.mark.parametrize(
    ("flops", "text"),
    [
        (999, "999 FLOP"),
        (1000, "1.000 kFLOP"),
        (301_500_000_000_000, "301.5 TFLOP"),
        (2_970_000_000_000_000_000_000_000, "2.970 YFLOP"),
        (-4_000_000_000, "-4.000 GFLOP"),
    ],
)
def test_flops_are_printed_with_si_prefixes(flops: int, text: str) -> None:
    assert format_flops(flops) == text


def test_shares_are_printed_in_percent() -> None:
    assert [format_share(share) for share in (0, 0.5, 1, Fraction(8, 384))] == [
        "0.0 %",
        "50.0 %",
        "100.0 %",
        "2.1 %",
    ]
    assert format_share(0.0001) == "<0.1 %"


def test_integers_keep_all_digits() -> None:
    assert format_int(1026879353328) == "1,026,879,353,328"


@given(st.integers(10_000, 10**15 - 10**12))
def test_a_printed_count_reads_back_to_within_its_precision(count: int) -> None:
    text = format_count(count)
    assert len(text.strip("KMBT").replace(".", "")) == 4
    assert abs(parse_printed(text).value - count) <= Fraction(count, 1000)


@pytest.mark.parametrize(("n", "text"), [(4096, "4k"), (3 << 20, "3M"), (1 << 30, "1G"), (5000, "5,000"), (0, "0")])
def test_a_length_is_written_as_on_the_command_line(n: int, text: str) -> None:
    assert format_context(n) == text


@given(st.integers(0, 10**30), st.integers(0, 20))
def test_zeros_before_a_whole_number_say_nothing(n: int, zeros: int) -> None:
    assert whole_number("0" * zeros + str(n)) == n
    assert whole_number(f"{n:,}") == n


@pytest.mark.parametrize("text", ["", "x", "1.5", "-1", "1,5", "01,000", "1_000", "٣", " 1"])
def test_what_is_no_whole_number_is_none(text: str) -> None:
    assert whole_number(text) is None


def test_the_sides_of_a_picture_have_seven_digits_at_most_and_zeros_before_them_say_nothing() -> None:
    assert parse_sides("00000000001024x768", 2, "HxW") == (1024, 768)
    for text in ("10000000x4", "00000000999999999999x4", "0x4", "9" * 5000 + "x4"):
        with pytest.raises(InputError, match="out of range"):
            parse_sides(text, 2, "HxW")


@pytest.mark.parametrize("zeros", [0, 3, 8])
def test_zeros_before_a_size_in_pixels_say_nothing_and_hide_nothing(zeros: int) -> None:
    assert parse_sides(f"{'0' * zeros}1024x768", 2, IMAGE_FORM) == (1024, 768)
    for digits in (8, 500, 5000):  # Python makes no integer of more than 4,300
        with pytest.raises(InputError, match="is out of range"):
            parse_sides(f"{'0' * zeros}{'9' * digits}x768", 2, IMAGE_FORM)


def test_zeros_before_a_number_of_sequences_say_nothing_and_hide_nothing() -> None:
    assert parse_lengths("8x0000000015") == [8] * 15
    for count in ("000000000", "9" * 65, "0" * 9 + "9" * 5000):
        with pytest.raises(InputError, match=r"is no list of lengths|the limit `lengths` is 10,000"):
            parse_lengths(f"8x{count}")
    with pytest.raises(InputError, match="1,000,000,000 sequences with a length of their own: the limit"):
        parse_lengths("8x1000000000")


@pytest.mark.parametrize(
    ("quantity", "kind"),
    [
        ("flops.forward", "flops"),
        ("flops.run_ratio", "count"),  # of two counts
        ("params.total", "count"),
        ("serve.devices", "count"),
        ("kv.bytes_per_token", "bytes"),
        ("serve.fits", "bool"),
    ],
)
def test_a_quantity_is_printed_as_its_name_says(quantity: str, kind: str) -> None:
    assert printed_kind(quantity) == kind
