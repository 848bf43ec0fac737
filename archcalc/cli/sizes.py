"""Sizes that stand in one word on the command line: 1024x768, 9x448x448."""

from __future__ import annotations

from archcalc.errors import InputError, show_value


def parse_sides(texts: list[str] | None, count: int) -> list[tuple[int, ...]]:
    """Whole positive numbers joined by x. Raises InputError."""
    form = "HxW, as 1024x768" if count == 2 else "FRAMESxHxW, as 16x448x448"
    sizes = []
    for text in texts or []:
        pieces = text.lower().split("x")
        if len(pieces) != count or not all(p.isascii() and p.isdecimal() and 0 < int(p[:9]) < 10**7 for p in pieces):
            raise InputError(f"{show_value(text)} is no size", value=text, hint=f"write {form}")
        sizes.append(tuple(int(piece) for piece in pieces))
    return sizes


def parse_number(text: str, option: str, word: str) -> int | None:
    """A whole number, or None for the one word that stands in its place. Raises InputError."""
    if text == word:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise InputError(f"{option} {show_value(text)} is neither a whole number nor {word}", value=text)
    return int(text)
