"""What stands in one word of a plot's command line: 4k..256k, 1,8, bf16,fp8."""

from __future__ import annotations

from archcalc.errors import InputError, show_value
from archcalc.units import parse_range


def parse_ends(text: str) -> tuple[int, int]:
    """Both ends of a range of lengths [tokens]: `4k..256k`. Raises InputError."""
    if ".." not in text:
        raise InputError(
            f"--context {show_value(text)} is no range", value=text, hint="write two lengths, such as 4k..256k"
        )
    return parse_range(text)


def parse_batches(text: str) -> list[int]:
    """Numbers of sequences with commas between them, each once: `1,8`. Raises InputError."""
    words = parse_names(text)
    for word in words:
        if not (word.isascii() and word.isdecimal() and len(word) < 10 and int(word)):
            raise InputError(
                f"--batch {show_value(word)} is no number of sequences", value=text, hint="write --batch 1,8"
            )
    return list(dict.fromkeys(map(int, words)))


def parse_names(text: str) -> list[str]:
    """Words with commas between them, each once: `bf16,fp8`."""
    return list(dict.fromkeys(word.strip() for word in text.split(",")))
