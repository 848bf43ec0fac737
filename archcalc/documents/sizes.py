"""What stands in one word on the command line, and may in Python: 1024x768, 9x448x448, 4k..256k, 1,8, h100=2.1."""

from __future__ import annotations

from typing import Any

from archcalc.errors import InputError, show_value
from archcalc.units import IMAGE_FORM, VIDEO_FORM, parse_context, parse_memory, parse_range, parse_sides


def parse_images(texts: list[str] | None) -> list[tuple[int, int]]:
    """Height and width of each image [pixels]. Raises InputError."""
    return [(h, w) for h, w in (parse_sides(text, 2, IMAGE_FORM) for text in texts or [])]


def parse_videos(texts: list[str] | None) -> list[tuple[int, int, int]]:
    """Frames, height and width of each video. Raises InputError."""
    return [(f, h, w) for f, h, w in (parse_sides(text, 3, VIDEO_FORM) for text in texts or [])]


def parse_device_memory(text: str) -> int:
    """Memory of a device [bytes]: less than 1 MiB is taken for a forgotten unit. Raises InputError."""
    return device_memory(parse_memory(text), text)


def device_memory(size: int, written: object) -> int:
    """The same of a number of bytes; `written` is what the error shows. Raises InputError."""
    if 0 < size < 1 << 20:
        shown = show_value(written)
        raise InputError(f"{shown} is only {size:,} bytes", value=written, hint="say which unit: 80GiB or 80GB")
    return size


def parse_number(text: str, option: str, word: str) -> int | None:
    """A whole number, or None for the one word that stands in its place. Raises InputError that begins with `option`,
    where there is one."""
    if text == word:
        return None
    shown = f"{option} {show_value(text)}".lstrip()
    if text.isascii() and text.isdecimal() and len(text) >= 10:
        raise InputError(f"{shown} is out of range", value=text, hint="at most 999,999,999")
    if not (text.isascii() and text.isdecimal()):
        raise InputError(f"{shown} is neither a whole number nor {word}", value=text)
    return int(text)


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


def parse_lengths(text: str) -> tuple[int, int]:
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
