"""Values that nobody means: edges of numbers, other types, and text that would do something where it is printed."""

from __future__ import annotations

from random import Random
from typing import Any


class Raw(str):
    """A scalar that is written into a file as it stands, without quotes: 1e999, 0x10, 310 digits."""

    __slots__ = ()


NUMBERS: tuple[Any, ...] = (
    *(0, 1, -1, 2, 3, 7, 63, 64, 127, 128, 255, 1000, 4097, 65536),
    *(2**31 - 1, 2**31, 2**53 + 1, 10**12, 2**60, 2**60 + 1, 2**63, 2**64, 10**18, -(2**60), 10**60),
    *(0.0, -0.0, 0.5, 1.0, 1.5, 0.1, 1e-12, 5e-324, 1e308, -1e308),
    *(Raw(text) for text in ("1e999", "-1e999", "1e-999", ".nan", ".inf", "NaN", "Infinity", "010", "0x1F", "1_000")),
    *(Raw("9" * n) for n in (20, 310, 4299, 4301)),
)
"""Edges of whole and broken numbers; those past what Python reads by itself as text."""

COMMANDS = (
    *("::add-mask::1", "  ::error file=x::y", "##[error]stop", "##[group]x", "a\n::add-mask::1", "a\r::set-output::b"),
    *("%0A::warning::x", "\u2028::debug::x", "x\x0b::notice::y", "::stop-commands::\\n"),
)
"""Workflow commands of GitHub and Azure, at the start of a line or behind what somebody may take for its end."""

UNPRINTABLE = (
    "\x1b[2J",
    "\x1b]0;t\x07",
    "\x00",
    "\u202egpj.exe",
    "\u2066x",
    "\ufeff",
    "a\tb",
    "a\nb",
    "\x7f",
    "\x85",
    "\ud800",
)
"""Control characters, bidi, a byte order mark, half a surrogate pair."""

WORDS = (
    *(
        "",
        " ",
        "-",
        "--",
        "x",
        "é",
        "名前",
        "🦀",
        "null",
        "true",
        "no",
        "~",
        "1",
        "-1",
        "0.5",
        "1e9",
        "nan",
        "inf",
        "1,000",
    ),
    *(
        "9" * 310,
        "x" * 5000,
        "a.b.c",
        "{i}",
        "{e}",
        "%s",
        "{0}",
        "*",
        "[x",
        "a:b",
        "# x",
        "=1+1",
        "'",
        '"',
        "\\",
        "a b",
    ),
    *("params.total", "params[lm_head]", "k25", "h200", "bfloat16", "80GiB", "1%", "9:30", "2026-01-01"),
)
"""Text that reads as something else, or is longer than anybody expects."""

STRINGS = (*WORDS, *COMMANDS, *UNPRINTABLE)


def odd(rng: Random) -> Any:
    """A value that nobody means, of any type."""
    sort = rng.randrange(12)
    if sort < 5:
        return rng.choice(NUMBERS)
    if sort < 9:
        return rng.choice(STRINGS)
    if sort < 10:
        return rng.choice((None, True, False))
    if sort < 11:
        return [rng.choice(NUMBERS + STRINGS) for _ in range(rng.randrange(4))]
    return {rng.choice(STRINGS): rng.choice(NUMBERS + STRINGS) for _ in range(rng.randrange(3))}


WHOLE = (1, 2, 3, 4, 5, 7, 8, 12, 16, 63, 64, 96, 127, 128, 4096, 65536, 10**6, 2**31, 2**40, 2**60)


def alike(rng: Random, value: Any) -> Any:
    """A value of the same type that has nothing to do with this one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice(WHOLE)
    if isinstance(value, float):
        return rng.choice((0.0, 1.0, 0.5, 1e-12, 1e12, 5e-324, 1e308, 0.999999999999, 3.7))
    return rng.choice(STRINGS) if isinstance(value, str) else odd(rng)


def near(rng: Random, value: Any) -> Any:
    """A value like this one that may be meant: of a number a neighbour, a multiple or a part."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        others = (value + 1, value - 1, value * 2, value // 2, value * 3, value * 1000, value // 3, value + 16, 1, 2)
        return rng.choice(others)
    if isinstance(value, float):
        return rng.choice((value * 2, value / 2, -value, value + 1, int(value) if abs(value) < 1e300 else 1, 1.0))
    if isinstance(value, str):
        return rng.choice(
            (
                value + "x",
                value[:-1],
                value.upper(),
                value.replace("_", "-"),
                value + rng.choice(COMMANDS),
                f" {value} ",
            )
        )
    return value


def word(rng: Random) -> str:
    """An argument that nobody means. A command line can hold no NUL."""
    value = rng.choice((*NUMBERS, *STRINGS, *STRINGS))
    return str(value).replace("\x00", "")
