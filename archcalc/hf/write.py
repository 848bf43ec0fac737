"""A spec as YAML text, as if written by hand: block style, one scalar a line, where each comes from beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from archcalc.hf.config import Said

PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./ -]*[A-Za-z0-9_]|[A-Za-z_]")
WORDS = frozenset({"true", "false", "null", "True", "False", "TRUE", "FALSE", "Null", "NULL", "nan", "inf"})
_ESCAPED = {'"': '\\"', "\\": "\\\\"}
GAP = ("backbone", "vision", "projector", "storage", "claims")
"""Sections with an empty line before them."""


def written(said: Mapping[str, Any], notes: Sequence[str]) -> str:
    """The text of a spec. `notes` stand as comments at its head."""
    lines = [f"# {_comment(note)}" for note in notes]
    for name, node in said.items():
        if name in GAP:
            lines.append("")
        lines += _field(name, node, 0)
    return "\n".join(lines) + "\n"


def _field(name: str, node: Any, depth: int) -> list[str]:
    pad, note = "  " * depth, ""
    if isinstance(node, Said):
        node, note = node.value, node.note
    tail = f"  # {_comment(note)}" if note else ""
    head = f"{pad}{_key(name)}:"
    if isinstance(node, Mapping) and name not in ("store", "default") and not _is_flow(node):
        lines = [head + tail]
        for inner, value in node.items():
            lines += _field(inner, value, depth + 1)
        return lines
    if isinstance(node, list) and node and isinstance(node[0], Mapping):
        return [head + tail, *(line for item in node for line in _item(item, depth + 1))]
    return [f"{head} {_flow(node)}{tail}"]


def _is_flow(node: Mapping[str, Any]) -> bool:
    """A storage scheme stands on one line."""
    return "scheme" in node


def _item(item: Mapping[str, Any], depth: int) -> list[str]:
    pad = "  " * depth
    inner = item.get("layers")
    if not isinstance(inner, list):
        return [f"{pad}- {_flow(item)}"]
    lines = [f"{pad}- repeat: {_flow(item['repeat'])}", f"{pad}  layers:"]
    return [*lines, *(line for entry in inner for line in _item(entry, depth + 2))]


def _flow(node: Any) -> str:
    if isinstance(node, Said):
        return _flow(node.value)
    if isinstance(node, Mapping):
        return "{" + ", ".join(f"{_key(name)}: {_flow(value)}" for name, value in node.items()) + "}"
    if isinstance(node, list):
        return "[" + ", ".join(_flow(value) for value in node) + "]"
    return _scalar(node)


def _key(name: Any) -> str:
    return name if isinstance(name, str) and PLAIN.fullmatch(name) and name not in WORDS else _quoted(str(name))


def _scalar(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return _real(value)
    if isinstance(value, str):
        return value if PLAIN.fullmatch(value) and value not in WORDS else _quoted(value)
    return str(value)


def _real(value: float) -> str:
    """A float without an exponent where that is short: 0.000001, 10000000.0."""
    from decimal import Decimal

    if value and not 1e-9 <= abs(value) < 1e15:
        return repr(value)
    text = format(Decimal(repr(value)), "f")
    return text if "." in text else f"{text}.0"


def _quoted(text: str) -> str:
    """Text in double quotes; what does not print as an escape."""
    return (
        '"' + "".join(_ESCAPED.get(char) or (char if char.isprintable() else _escape(ord(char))) for char in text) + '"'
    )


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 1 << 16 else f"\\U{code:08x}"


def _comment(text: str) -> str:
    """One line, whatever the text holds."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())
