"""The scalars of the YAML 1.2 core schema (https://yaml.org/spec/1.2.2/#103-core-schema)."""

from __future__ import annotations

from typing import Any

MAX_NUMBER = 100
"""Characters of a number at most."""

_WORDS: dict[str, Any] = {"~": None}
_WORDS |= dict.fromkeys(("null", "Null", "NULL"), None)
_WORDS |= dict.fromkeys(("true", "True", "TRUE"), True)
_WORDS |= dict.fromkeys(("false", "False", "FALSE"), False)
_WORDS |= {sign + word: float(sign + "inf") for sign in ("", "+", "-") for word in (".inf", ".Inf", ".INF")}
_WORDS |= dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan"))
_DECIMAL = frozenset("0123456789+-.eE")
_HEX = frozenset("0123456789abcdefABCDEF")
_OCTAL = frozenset("01234567")


def core_scalar(text: str) -> Any:
    """The value of an unquoted scalar in the YAML 1.2 core schema. Raises ValueError for absurd numbers."""
    if not text:
        return None
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in "0123456789+-." or not text.isascii():
        return text
    digits = text[1:] if text[0] in "+-" else text
    is_float = not digits.isdigit() and _DECIMAL.issuperset(text)
    is_based = text[:2] in ("0x", "0o") and len(text) > 2 and (_HEX if text[1] == "x" else _OCTAL).issuperset(text[2:])
    if not (is_float or is_based or digits.isdigit()):
        return text
    if len(text) > MAX_NUMBER:
        raise ValueError(f"a number of more than {MAX_NUMBER} characters")
    if not is_float:
        return int(text, 0) if is_based else int(text)
    try:
        value = float(text)
    except ValueError:
        return text  # such as 1.2.3 or a date
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text} is too large a number")
    return value
