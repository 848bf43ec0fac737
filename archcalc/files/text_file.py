"""The guard at the door: a file, as UTF-8 text of bounded size, or an error that says what is in the way."""

from __future__ import annotations

import os
import select
import stat
import time

from archcalc.errors import InputError
from archcalc.files.document import split_lines
from archcalc.limits import PAGE, YAML_BYTES, Limit

MAX_BYTES = YAML_BYTES.most

NOBODY = 3.0
"""How long somebody may take to open a pipe that is to be read [s]."""


def read(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a YAML file, at most 1 MiB of UTF-8. Raises InputError that says what is in the way."""
    raw = contents(path, MAX_BYTES + 1)
    _refuse_weights(raw, os.fsdecode(path))
    decode(raw, os.fsdecode(path))
    return raw


def _refuse_weights(raw: bytes, source: str) -> None:
    """Raises InputError for a file of tensors, whatever its size."""
    length = int.from_bytes(raw[:8], "little")
    form = "GGUF" if raw[:4] == b"GGUF" else "safetensors" if raw[8:9] == b"{" and 1 < length < 1 << 27 else None
    if form is not None:
        hint = "the sizes of a model are in the config.json beside it: name that, or the folder"
        raise InputError(f"this file holds weights ({form})", source=source, value=source, hint=hint)


def contents(path: str | os.PathLike[str], most: int, wanted: str = "a YAML file") -> bytes:
    """The first bytes of a file, at most `most` of them. Raises InputError that says what is in the way."""
    source = os.fsdecode(path)
    try:
        with open(path, "rb", opener=_opened) as file:
            if stat.S_ISFIFO(os.fstat(file.fileno()).st_mode):
                return _piped(file.fileno(), most, source)
            os.set_blocking(file.fileno(), True)
            return file.read(most)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError("no such file", source=source, value=source, hint="check the path") from None
    except IsADirectoryError:
        raise InputError("this is a directory", source=source, value=source, hint=f"name {wanted} inside it") from None
    except PermissionError:
        raise InputError(
            "no permission to read this file", source=source, value=source, hint="check its access rights"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or "not a usable path"
        raise InputError(
            f"can't read this file: {reason}", source=source, value=source, hint="check the path"
        ) from None


def _opened(path: str, flags: int) -> int:
    """A file descriptor; of a pipe at once, whether anybody writes to it or not."""
    return os.open(path, flags | os.O_NONBLOCK)


def _piped(pipe: int, most: int, source: str) -> bytes:
    """What is written to a pipe. Raises InputError where nobody opens it to write."""
    data, opened, end = b"", False, time.monotonic() + NOBODY
    while len(data) < most:
        try:
            chunk = os.read(pipe, most - len(data))
        except BlockingIOError:  # somebody has it open and takes his time
            select.select([pipe], [], [])
            opened = True
            continue
        data += chunk
        if chunk:
            continue
        if data or opened:
            break
        if time.monotonic() > end:
            raise InputError("nobody writes to this pipe", source=source, value=source, hint="name a file")
        time.sleep(0.02)
    return data


def decode(text: str | bytes, source: str) -> str:
    """The text of a YAML file, without a byte order mark, or InputError."""
    refuse_larger(len(text), YAML_BYTES, source)
    if isinstance(text, bytes):
        text = utf8(text, source, "YAML")
    text = text.removeprefix("\ufeff")
    if not text.replace("\n", "").replace("\t", "").replace("\r", "").isprintable():
        _refuse_unprintable(text, source)
    return text


def refuse_larger(size: int, limit: Limit, source: str, hint: str = "") -> None:
    """Raises InputError where a file of `size` bytes is beyond a limit, a whole number of MiB; `hint`: in place of the
    limit's own."""
    if size > limit.most:
        named = f"{hint or limit.instead} (the limit `{limit.name}`: {PAGE})"
        raise InputError(f"the file is larger than {limit.most >> 20} MiB", source=source, hint=named)


def utf8(raw: bytes, source: str, language: str) -> str:
    """The text that bytes stand for, a byte order mark included, or InputError. `language`: what it should be."""
    if b"\0" in raw or raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InputError(
            f"this is a binary file, not {language} text",
            source=source,
            hint="if it is UTF-16 text, save it as UTF-8",
        )
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        before = raw[: error.start].decode("utf-8")
        raise InputError(
            f"byte 0x{raw[error.start]:02x} is not UTF-8 text",
            source=source,
            line=before.count("\n") + 1,
            column=len(before) - (before.rfind("\n") + 1) + 1,
            hint="save the file as UTF-8",
        ) from None


def _refuse_unprintable(text: str, source: str) -> None:
    """Raises InputError at the first control character, odd line break or surrogate; the rest may pass."""
    import re

    found = re.search("[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]", text)
    if found is None:
        return
    lines = split_lines(text[: found.start()])
    raise InputError(
        f"the character U+{ord(found[0]):04X} is not allowed in a file",
        source=source,
        line=len(lines),
        column=len(lines[-1]) + 1,
        snippet=split_lines(text)[len(lines) - 1],
        hint='remove it, or write it as an escape in double quotes, such as "\\u2028"',
    )
