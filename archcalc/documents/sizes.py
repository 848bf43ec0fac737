"""Sizes that stand in one word on the command line: 1024x768, 9x448x448."""

from __future__ import annotations

from typing import Any

from archcalc.errors import InputError, show_value
from archcalc.limits import LENGTHS, hold
from archcalc.units import IMAGE_FORM, VIDEO_FORM, parse_context, parse_memory, parse_sides, whole_number

MOST_NUMBER = 999_999_999
"""What no number of devices, sequences or layers passes."""


def parse_images(texts: list[str] | None) -> list[tuple[int, int]]:
    """Height and width of each image [pixels]. Raises InputError."""
    return [(h, w) for h, w in (parse_sides(text, 2, IMAGE_FORM) for text in texts or [])]


def parse_videos(texts: list[str] | None) -> list[tuple[int, int, int]]:
    """Frames, height and width of each video. Raises InputError."""
    return [(f, h, w) for f, h, w in (parse_sides(text, 3, VIDEO_FORM) for text in texts or [])]


LENGTHS_HINT = "write lengths with commas between them, as 512,1k,2048, and several equal ones as 1024x3"


def parse_lengths(text: str) -> list[int]:
    """New tokens of each of several sequences: `4096,1024x3`. Raises InputError."""
    runs = [_run(piece.strip(), text) for piece in text.split(",")]
    hold(LENGTHS, sum(count for _, count in runs))
    return [length for length, count in runs for _ in range(count)]


def _run(piece: str, text: str) -> tuple[int, int]:
    """A length, and how many sequences have it."""
    length, times, copies = piece.lower().partition("x")
    count = whole_number(copies) if times else 1
    if not length or not count:
        raise InputError(f"{show_value(text)} is no list of lengths", value=text, hint=LENGTHS_HINT)
    if len(length) > 1 and length[0] == "0" and length.isdecimal():  # 4,096
        hint = "a comma stands between two sequences: leave it out of a number"
        raise InputError(f"{show_value(piece)} is no length", value=text, hint=hint)
    try:
        tokens = parse_context(length)
    except InputError as error:
        raise InputError(error.message, value=text, hint=LENGTHS_HINT) from None
    return tokens, count


def parse_device_memory(text: str) -> int:
    """Memory of a device [bytes]: less than 1 MiB without a unit is taken for a forgotten one. Raises InputError."""
    size = parse_memory(text)
    if 0 < size < 1 << 20 and not any(map(str.isalpha, text)):
        raise InputError(f"{show_value(text)} is only {size:,} bytes", value=text, hint="say which unit: 80GiB or 80GB")
    return size


def parse_number(text: str, option: str, word: str) -> int | None:
    """A whole number, or None for the one word that stands in its place. Raises InputError."""
    if text.lower() == word:
        return None
    number = whole_number(text)
    if number is None:
        hint = f"write {option} 8, or {option} {word}"
        raise InputError(f"{option} {show_value(text)} is neither a whole number nor {word}", value=text, hint=hint)
    if number > MOST_NUMBER:
        raise InputError(f"{option} {show_value(text)} is out of range", value=text, hint="at most 999,999,999")
    return number


_WORDS = {"gpus": "auto", "ep": "all", "offload_experts": "host"}
"""The word that may stand in a number's place."""


def serving_flags(**texts: str | None) -> dict[str, Any]:
    """Options of a deployment as the functions behind the commands take them. Raises InputError."""
    found: dict[str, Any] = {}
    for name, text in texts.items():
        option = f"--{name.replace('_', '-')}"
        if text is None:
            found[name] = None
        elif name in _WORDS:
            number = parse_number(text, option, _WORDS[name])
            found[name] = _WORDS[name] if number is None else number
        elif name == "overhead":
            found[name] = parse_device_memory(text)
        else:
            found[name] = parse_context(text)
    return found


def parse_prices(texts: list[str] | None) -> dict[str, float]:
    """Prices by GPU: `h100=2.1`. Raises InputError."""
    prices: dict[str, float] = {}
    for text in texts or []:
        name, equals, price = text.partition("=")
        digits = price.strip()
        if not (equals and name.strip() and digits.replace(".", "", 1).isdecimal() and digits.isascii()):
            raise InputError(f"--price {show_value(text)} names no price", value=text, hint="write --price h100=2.1")
        name = name.strip()
        if name in prices:
            raise InputError(f"--price names {show_value(name)} twice", value=text, hint="give one price of each GPU")
        if len(digits) > 20 or not float(digits) > 0:
            raise InputError(f"--price {show_value(text)} is out of range", value=text, hint="write --price h100=2.1")
        prices[name] = float(digits)
    return prices
