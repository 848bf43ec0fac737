"""Sizes and counts read from text and printed as text: here and nowhere else.

Reading is exact: digits are scaled as integers, never through a float. They may stand in groups of three with commas,
as they are printed. Rounding happens only in the `format_*` functions, half away from zero.

What a suffix means depends on what is read, as the public interface promises:

| what | function | suffixes |
|---|---|---|
| memory | `parse_memory` | B, kB MB GB TB PB (powers of 1000), KiB MiB GiB TiB PiB (powers of 1024) |
| context, sequence and block lengths | `parse_context` | k, M, G (powers of 1024), also as Ki or KiB |
| counts of parameters or tokens | `parse_count` | K, M, B, T (powers of 1000) or the words; Ki, Mi, Gi, Ti |
| published numbers | `parse_printed` | as counts, and %; of bytes as memory; of FLOPs GFLOP, TFLOP, ... |
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal, NamedTuple, NoReturn

from archcalc.errors import InputError, show_value

if TYPE_CHECKING:  # fractions pulls in decimal: only parse_printed pays for it
    from fractions import Fraction

__all__ = [
    "UNITS",
    "Printed",
    "format_bytes",
    "format_count",
    "format_flops",
    "format_int",
    "format_share",
    "parse_context",
    "parse_count",
    "parse_memory",
    "parse_printed",
    "parse_range",
    "parse_sides",
    "printed_kind",
]

UNITS = ("gib", "gb", "bytes")
"""What bytes may be printed in."""

_LONGEST = 64
"""Characters of a number at most: guards against digits by the megabyte."""

_MEMORY = {"": 1, "b": 1, "byte": 1, "bytes": 1}
_MEMORY |= {f"{letter}b": 1000**power for power, letter in enumerate("kmgtp", start=1)}
_MEMORY |= {f"{letter}ib": 1024**power for power, letter in enumerate("kmgtp", start=1)}
_CONTEXT = {"": 1}
_CONTEXT |= {f"{letter}{i}": 1024**power for power, letter in enumerate("kmg", start=1) for i in ("", "i", "ib")}
_COUNT = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}
_COUNT |= {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_BINARY = {f"{letter}i": 1024**power for power, letter in enumerate("kmgt", start=1)}

LARGE = 10_000
"""GiB or GB above which a size is printed in TiB or TB."""

_FLOPS = _COUNT | {f"{letter}flop{s}": 1000**n for n, letter in enumerate(("", *"kmgtpezy")) for s in ("", "s")}
_PRINTED = {"count": _COUNT, "bytes": _MEMORY, "flops": _FLOPS}
_YES_NO = {"yes": 1, "no": 0}

IMAGE_FORM, VIDEO_FORM = "HxW, as 1024x768", "FRAMESxHxW, as 16x448x448"
"""How sizes in pixels are written."""

_MEMORY_HINT = "write bytes or a size with its unit, such as 80GiB, 80GB or 512 MiB"
_CONTEXT_HINT = "write a whole number of tokens, such as 4096 or 256k (k is 1024, M is 1024 x 1024)"
_COUNT_HINT = "write a whole number, such as 8192, 15.5T or 15.5e12 (K, M, B, T are powers of 1000)"
_RANGE_HINT = "write two lengths, the smaller first, such as 4k..256k"
_PRINTED_HINT = "write the number as its source prints it, such as 9216, 32.6B, ~104B, 1.04 million or 2.1 %"
_PRINTED_HINTS = {
    "count": _PRINTED_HINT,
    "bytes": "write the size as its source prints it, such as 98304, 68.6 KiB or 595 GB",
    "flops": "write the number as its source prints it, such as 68.5 GFLOPs or 3.8e25",
}


class Printed(NamedTuple):
    """A number as its source prints it, with the precision that the print implies."""

    value: Fraction
    """The number; percentages are shares (2.1 % is 21/1000)."""
    ulp: Fraction
    """One unit of the last significant printed digit, in the same unit as `value`."""
    unit_word: str
    """K, M, B, T, thousand, million, billion, trillion, % or nothing."""
    scale: Fraction
    """What the unit word multiplies by."""
    text: str
    """As printed."""

    def matches(self, x: int | float | Fraction) -> bool:
        """Whether x, rounded to the printed precision, gives the printed number; half-way goes either way."""
        from fractions import Fraction

        try:
            exact = Fraction(x)
        except (OverflowError, ValueError):  # infinite or not a number
            return False
        return 2 * abs(exact - self.value) <= self.ulp


def parse_memory(text: str) -> int:
    """Memory size [bytes]: "80GiB", "80 gb", "46.80GiB", "1024"; parts of a byte are dropped.

    A unit without B, as in "80G", is refused: it doesn't say which of the two it means. So is a fraction
    without a unit. Raises InputError.
    """
    digits, decimals, unit = _split(text, "a memory size", _MEMORY_HINT)
    if unit not in _MEMORY:
        hint = _MEMORY_HINT
        if len(unit) == 1 and unit in "kmgtp":
            letter = "k" if unit == "k" else unit.upper()
            hint = f"say which unit: {unit.upper()}iB (powers of 1024) or {letter}B (powers of 1000)"
        _refuse(text, "a memory size", hint)
    if decimals and _MEMORY[unit] == 1:
        _refuse(text, "a whole number of bytes", _MEMORY_HINT)
    parts: int = 10**decimals
    return digits * _MEMORY[unit] // parts


def parse_context(text: str) -> int:
    """A length in tokens, binary suffixes: "256k" is 262144, "0.5k" is 512. Raises InputError."""
    digits, decimals, unit = _split(text, "a number of tokens", _CONTEXT_HINT)
    return _whole(text, digits, decimals, _CONTEXT.get(unit), "a number of tokens", _CONTEXT_HINT)


def parse_count(text: str) -> int:
    """A count, decimal suffixes: "15.5T" is 15 500 000 000 000; "15.5e12" is the same; "64Mi" is 67 108 864. Raises
    InputError."""
    mantissa, exponent = text, 0
    if match := re.fullmatch(r"\s*([0-9_.]+)[eE]\+?([0-9]{1,2})\s*", text):
        mantissa, exponent = match[1], int(match[2])
    digits, decimals, unit = _split(mantissa, "a count", _COUNT_HINT, whole_text=text)
    return _whole(text, digits * 10**exponent, decimals, (_COUNT | _BINARY).get(unit), "a count", _COUNT_HINT)


def parse_range(text: str) -> tuple[int, int]:
    """Two context lengths [tokens], both ends included: "4k..256k" is (4096, 262144). Raises InputError."""
    low_text, dots, high_text = text.partition("..")
    if not dots or not low_text.strip() or not high_text.strip():
        _refuse(text, "a range", _RANGE_HINT)
    low, high = parse_context(low_text), parse_context(high_text)
    if low > high:
        raise InputError(f"the range {show_value(text)} runs backwards", value=text, hint=_RANGE_HINT)
    return low, high


def parse_sides(text: str, count: int, form: str) -> tuple[int, ...]:
    """`count` whole positive numbers joined by x, as 1024x768; `form` says how to write them. Raises InputError."""
    pieces = text.lower().split("x")
    if len(pieces) != count or not all(p.isascii() and p.isdecimal() for p in pieces):
        raise InputError(f"{show_value(text)} is no size", value=text, hint=f"write {form}")
    if not all(len(p) <= _LONGEST and 0 < int(p) < 10**7 for p in pieces):
        raise InputError(f"{show_value(text)} is out of range", value=text, hint="each from 1 to 9,999,999")
    return tuple(int(piece) for piece in pieces)


def printed_kind(quantity: str) -> Literal["count", "bytes", "flops", "bool"]:
    """How numbers of a quantity are printed, by what its name says: `weights.bytes` in bytes, `serve.fits` as yes or
    no, and so on."""
    group, _, name = quantity.partition(".")
    if name == "fits":
        return "bool"
    if "bytes" in name and "[" not in group:
        return "bytes"
    return "flops" if group == "flops" and name != "run_ratio" else "count"


def parse_printed(text: str, kind: Literal["count", "bytes", "flops", "bool"] = "count") -> Printed:
    """A published number: "~104B", "1.04 million", "2.1 %", "9216", "9,216"; of bytes "595 GB", "68.6 KiB"; of FLOPs
    "68.5 GFLOPs", "3.8e25"; of a `bool` yes or no.

    Precision: a decimal fraction counts as printed, zeros included ("46.80" is good to 0.01). Trailing zeros
    of a whole mantissa before K, M, B, T or their words are taken for rounding ("400M" is good to 100M). A
    bare whole number is taken as exact to 1 ("9216", "7000"), a whole percentage to 1 %. "~" changes nothing.
    Raises InputError.
    """
    from fractions import Fraction

    if kind == "bool":
        if text.strip().lower() not in _YES_NO:
            raise InputError(f"{show_value(text)} is neither yes nor no", value=text, hint="write yes or no")
        return Printed(Fraction(_YES_NO[text.strip().lower()]), Fraction(1, 10), "", Fraction(1), text.strip())
    bare = text.strip().removeprefix("~").removeprefix("≈").lstrip()
    percent = bare.endswith("%")
    number = bare.removesuffix("%") if percent else bare
    power = 1
    if match := re.fullmatch(r"([0-9.]+)[eE]\+?([0-9]{1,2})(\s*[A-Za-z]*)", number):
        number, power = match[1] + match[3], 10 ** int(match[2])
    table, hint = _PRINTED[kind], _PRINTED_HINTS[kind]
    digits, decimals, unit = _split(number, "a number", hint, whole_text=text)
    if unit not in table or (percent and unit):
        _refuse(text, "a number", hint)
    scale = power * (Fraction(1, 100) if percent else Fraction(table[unit]))
    zeros = 0
    while unit and table[unit] > 1 and not decimals and digits and digits % 10 ** (zeros + 1) == 0:
        zeros += 1
    ulp = scale * 10**zeros / 10**decimals
    word = "%" if percent else unit.upper() if len(unit) == 1 else unit
    return Printed(Fraction(digits, 10**decimals) * scale, ulp, word, scale, text.strip())


def format_int(n: int) -> str:
    """All digits, in groups of three: "1,026,879,353,328"."""
    return f"{n:,}"


def format_count(n: int) -> str:
    """A count in four significant digits: "1.027T", "32.86B"; below 10,000 all digits."""
    return format_int(n) if abs(n) < 10_000 else _four_digits(n, ("", "K", "M", "B", "T"))


def format_context(n: int) -> str:
    """A length in tokens as it is written on the command line: 4k, 32k, 1M; one without a short form in full."""
    for size, letter in ((1 << 30, "G"), (1 << 20, "M"), (1 << 10, "k")):
        if n and n % size == 0:
            return f"{n // size:,}{letter}"
    return format_int(n)


def format_flops(n: int) -> str:
    """Floating-point operations in four significant digits: "301.5 TFLOP"; below 1000 all digits."""
    if abs(n) < 1000:
        return f"{n} FLOP"
    prefixes = ("", " k", " M", " G", " T", " P", " E", " Z", " Y")
    return _four_digits(n, prefixes) + "FLOP"


def format_bytes(n: int, units: str = "gib") -> str:
    """Bytes in two decimals, "554.27 GiB"; `units` is gib (B to TiB), gb (B to TB) or bytes (all digits).

    Up to 10,000 GiB or GB nothing larger is used, so that sizes in a column compare at a glance. Raises InputError for
    an unknown `units`.
    """
    if units not in UNITS:
        raise InputError(f"unknown units {show_value(units)}", value=units, hint="use gib, gb or bytes")
    base = 1000 if units == "gb" else 1024
    if units == "bytes" or abs(n) < base:
        return f"{n:,} B"
    names = ("kB", "MB", "GB", "TB") if units == "gb" else ("KiB", "MiB", "GiB", "TiB")
    sign, size = ("-", -n) if n < 0 else ("", n)
    power = 1
    while power < 3 and _divide(size * 100, base**power) >= base * 100:
        power += 1
    if size > LARGE * base**3:
        power = 4
    hundredths = _divide(size * 100, base**power)
    return f"{sign}{hundredths // 100:,}.{hundredths % 100:02} {names[power - 1]}"


def format_share(share: int | float | Fraction) -> str:
    """A share of a whole in percent, one decimal: 0.5 is "50.0 %"; a part too small to show is "<0.1 %"."""
    percent = float(share) * 100
    return "<0.1 %" if 0 < percent < 0.05 else f"{percent:.1f} %"


def _split(text: str, what: str, hint: str, whole_text: str | None = None) -> tuple[int, int, str]:
    """Digits as one integer, how many of them are decimals, and the unit in lower case."""
    shown = text if whole_text is None else whole_text
    stripped = text.strip()
    if len(stripped) > _LONGEST:
        _refuse(shown, what, hint)
    if re.match(r"[-\u2212]\s*[.0-9]", stripped):
        raise InputError(f"{what} can't be negative: {show_value(shown)}", value=shown, hint=hint)
    match = re.fullmatch(r"([0-9]+(?:_[0-9]+)*|[1-9][0-9]{0,2}(?:,[0-9]{3})+)(?:\.([0-9]+))?\s*([A-Za-z]*)", stripped)
    if match is None:
        if re.match(r"[0-9]+,[0-9]", stripped):
            hint = "commas stand between groups of three digits, as in 131,072; a decimal point is a dot"
        _refuse(shown, what, hint)
    whole, part, unit = match[1].replace("_", "").replace(",", ""), match[2] or "", match[3]
    return int(whole + part), len(part), unit.lower()


def _whole(text: str, digits: int, decimals: int, scale: int | None, what: str, hint: str) -> int:
    if scale is None:
        _refuse(text, what, hint)
    parts: int = 10**decimals
    number, rest = divmod(digits * scale, parts)
    if rest:
        raise InputError(f"{show_value(text)} is not a whole number", value=text, hint=hint)
    return number


def _refuse(text: str, what: str, hint: str) -> NoReturn:
    raise InputError(f"{show_value(text)} is not {what}", value=text, hint=hint)


def _divide(n: int, by: int) -> int:
    """n / by for non-negative n, rounded half up."""
    return (2 * n + by) // (2 * by)


def _four_digits(n: int, suffixes: tuple[str, ...]) -> str:
    """Four significant digits, one to three before the point, and the suffix of that power of 1000."""
    sign, size = ("-", -n) if n < 0 else ("", n)
    for power, suffix in enumerate(suffixes):
        for decimals in (3, 2, 1):
            scaled = _divide(size * 10**decimals, 1000**power)
            if scaled < 10_000 and scaled < 1000 * 10**decimals:
                return f"{sign}{scaled // 10**decimals}.{scaled % 10**decimals:0{decimals}}{suffix}"
    return f"{sign}{_divide(size, 1000**power):,}{suffix}"
