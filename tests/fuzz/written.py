"""Plain data as YAML or JSON text, in several hands: block or flow, quoted or plain, with odd encodings."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from random import Random
from typing import Any

from tests.fuzz.values import COMMANDS, Raw

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./+-]*( [A-Za-z0-9_./+-]+)*")
_TAKEN = {"null", "true", "false", "yes", "no", "nan", "inf"}


def yaml_text(data: Any) -> str:
    """Data as a YAML file in block style."""
    return "\n".join(_block(data, 0)) + "\n" if isinstance(data, dict | list) and data else json_text(data) + "\n"


def _block(data: Any, depth: int) -> Iterator[str]:
    """The lines of a mapping or list that has something in it."""
    margin = "  " * depth
    for key, value in data.items() if isinstance(data, dict) else enumerate(data):
        start = f"{margin}{_scalar(key)}:" if isinstance(data, dict) else f"{margin}-"
        if isinstance(value, dict | list) and value:
            yield start
            yield from _block(value, depth + 1)
        else:
            yield f"{start} {_scalar(value)}"


def _scalar(value: Any) -> str:
    """One value on its line."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _TAKEN:
        return value
    if isinstance(value, float) and value != value:
        return ".nan"
    return json_text(value)


def json_text(data: Any, indent: int | None = None) -> str:
    """Data as JSON. What is `Raw` stands without its quotes."""
    raws: list[str] = []

    def marked(node: Any) -> Any:
        if isinstance(node, Raw):
            raws.append(str(node))
            return f"@raw{len(raws) - 1}@"
        if isinstance(node, dict):
            return {str(key): marked(value) for key, value in node.items()}
        return [marked(item) for item in node] if isinstance(node, list | tuple) else node

    text = json.dumps(marked(data), indent=indent)
    return re.sub(r'"@raw(\d+)@"', lambda found: raws[int(found[1])], text)


def bytes_of(rng: Random, data: Any, form: str) -> bytes:
    """A file with this data. `form` is yaml or json; one in ten YAML files is written as JSON, which is YAML too."""
    if isinstance(data, str) and form == "text":
        text = data
    elif form == "json" or rng.randrange(10) == 0:
        text = json_text(data, rng.choice((None, 1, 2)))
    else:
        text = yaml_text(data)
    return text.encode("utf-8", "surrogatepass")


INSERTED = (
    *(b"[", b"]", b"{", b"}", b":", b",", b"-", b"&a ", b"*a", b"!", b"|", b">", b"'", b'"', b"%", b"@", b"`", b"#"),
    *(b"\t", b"\n", b"\r", b"\r\n", b" ", b"\x00", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xe2\x80\xae"),
    *(b"---\n", b"...\n", b"? ", b"<<: ", b"!!python/object:os.system x", b"\x1b[2J", b"9" * 310, b"1e999"),
    *(text.encode() for text in COMMANDS),
)
"""What is put into the bytes of a file."""


def damaged(rng: Random, raw: bytes) -> bytes:
    """The bytes of a file after one accident."""
    at = rng.randrange(len(raw) + 1)
    lines = raw.split(b"\n")
    line = rng.randrange(len(lines))
    sort = rng.randrange(13)
    if sort < 3:
        return raw[:at] + rng.choice(INSERTED) + raw[at:]
    if sort < 4:
        return raw[:at] + raw[at + rng.randrange(1, 9) :]
    if sort < 5:
        return b"\n".join([*lines[:line], lines[line], *lines[line:]])
    if sort < 6:
        return b"\n".join([*lines[:line], *lines[line + 1 :]])
    if sort < 7:
        other = rng.randrange(len(lines))
        lines[line], lines[other] = lines[other], lines[line]
        return b"\n".join(lines)
    if sort < 8:
        lines[line] = b" " * rng.randrange(1, 4) + lines[line]
        return b"\n".join(lines)
    if sort < 9:
        return raw[:at]
    text = raw.decode("utf-8", "replace")
    recoded = (
        lambda: b"\xef\xbb\xbf" + raw,
        lambda: raw.replace(b"\n", b"\r\n"),
        lambda: text.encode("utf-16"),
        lambda: text.encode("latin-1", "replace"),
        lambda: raw.replace(b"  ", b"\t"),
        lambda: raw + b"#" * 70_000 + b"\n" + b"- " * rng.choice((30, 70, 400)),
        lambda: b"" if rng.randrange(2) else raw * 2,
    )
    return rng.choice(recoded)()
