"""Sizes that stand in one word on the command line."""

import pytest

from archcalc.documents.sizes import parse_lengths, parse_number
from archcalc.errors import InputError


def test_all_digits_of_a_number_of_sequences_count() -> None:
    # zeros before it, more of them than the number may have digits
    assert parse_lengths("1024x000000000003,512") == [1024, 1024, 1024, 512]


@pytest.mark.parametrize("text", ["1024x0", "1024x000", "1024x", "x3", "1024xx"])
def test_no_sequences_are_no_list_of_lengths(text: str) -> None:
    with pytest.raises(InputError, match="no list of lengths"):
        parse_lengths(text)


def test_a_whole_number_is_read_whole_or_refused() -> None:
    assert parse_number("000000000000008", "--gpus", "auto") == 8
    with pytest.raises(InputError, match="out of range"):
        parse_number("1000000000", "--gpus", "auto")
