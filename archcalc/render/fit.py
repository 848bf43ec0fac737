"""Text in columns, and the same columns fitted to a screen: what gives way, what wraps, what is left out."""

from __future__ import annotations

import re
from collections.abc import Sequence

GAP = 2
"""Columns between two cells."""

HANG = 2
"""How much further in the later lines of a cell stand."""

NARROW = 16
"""A text column of at most this width is never wrapped, and none is made narrower for others to stay."""

READABLE = 30
"""No wrapped column is made narrower than this, unless all its words are shorter."""


def width_of(text: str) -> int:
    """Terminal columns that a printable text takes."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1 for char in text)


def padded(text: str, width: int, right: bool) -> str:
    """The text filled with spaces to a width, on its left if it is to stand on the right."""
    space = " " * (width - width_of(text))
    return space + text if right else text + space


def wrapped(text: str, width: int | None, hang: int = 0) -> list[str]:
    """Lines of at most `width` columns (None: one line), later ones `hang` further in.

    Lines break at spaces; a word that is too long breaks after `.`, `,`, `/`, `_`, `-` or `·`, or else anywhere.
    """
    if width is None or width_of(text) <= width:
        return [text]
    indent = min(len(text) - len(text.lstrip(" ")), width // 2)
    hang = min(indent + hang, width // 2)
    lines, line, gap = [], " " * indent, ""
    for word in text.split():
        for piece in _broken(word, max(1, width - hang)):
            if line.strip() and width_of(line + gap + piece) > width:
                lines.append(line)
                line, gap = " " * hang, ""
            line, gap = line + gap + piece, ""
        gap = " "
    return [*lines, line]


def _broken(word: str, room: int) -> list[str]:
    """A word in pieces of at most `room` columns; one piece if it fits."""
    if width_of(word) <= room:
        return [word]
    pieces = [""]
    for part in re.findall(r"[^.,/_·-]*[.,/_·-]|[^.,/_·-]+", word):
        while width_of(part) > room:
            cut = next(n for n in range(len(part), 0, -1) if n == 1 or width_of(part[:n]) <= room)
            pieces.append(part[:cut])
            part = part[cut:]
        if width_of(pieces[-1]) + width_of(part) > room:
            pieces.append("")
        pieces[-1] += part
    return [piece for piece in pieces if piece]


def fitted(
    cells: Sequence[Sequence[str]], wraps: Sequence[bool], width: int | None, keep: Sequence[int] = ()
) -> tuple[list[int], list[int]]:
    """Which columns are shown, by index, and how wide each of them is.

    Columns that wrap give way first, the widest before the others, down to their longest word or READABLE; then columns
    are left out, the last one first, those to keep only when no other is left; at least two stay: a name without its
    number says nothing.
    """
    natural = [max(map(width_of, column)) for column in zip(*cells, strict=True)]
    if width is None:
        return list(range(len(natural))), natural
    least = [
        min(size, READABLE, max(NARROW, *map(_longest_word, column))) if may else size
        for column, may, size in zip(zip(*cells, strict=True), wraps, natural, strict=True)
    ]
    shown = list(range(len(natural)))
    while len(shown) > 2 and _sum(least, shown) > width:
        others = [i for i in shown[1 if keep else 2 :] if i not in keep]
        if not others and _sum([min(least[0], NARROW), *least[1:]], shown) <= width:
            break
        shown.remove(others[-1] if others else shown[-1])
    sizes = [natural[i] for i in shown]
    while (over := sum(sizes) + GAP * (len(shown) - 1) - width) > 0:
        slack = [n for n, i in enumerate(shown) if sizes[n] > least[i]]
        if not slack:
            sizes[0] = max(8, sizes[0] - over)
            break
        sizes[max(slack, key=sizes.__getitem__)] -= 1
    return shown, sizes


def _sum(sizes: Sequence[int], shown: Sequence[int]) -> int:
    return sum(sizes[i] for i in shown) + GAP * (len(shown) - 1)


def _longest_word(text: str) -> int:
    """Columns that the longest word takes where it stands: a later one hangs."""
    indent = len(text) - len(text.lstrip(" "))
    return indent + max((width_of(word) + (HANG if n else 0) for n, word in enumerate(text.split())), default=0)
