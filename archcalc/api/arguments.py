"""What functions are handed, checked and read as the command line reads it; errors name the parameter."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from operator import index
from typing import Any, TypeAlias

from archcalc.documents import sizes
from archcalc.documents.sweep import words
from archcalc.errors import InputError, in_its_case, show_value
from archcalc.units import IMAGE_FORM, VIDEO_FORM, parse_context, parse_count

Length: TypeAlias = "int | str"
"""Tokens: 262144 or "256k"."""
Count: TypeAlias = "int | float | str"
"""Tokens of a whole run: 15_500_000_000_000, 15.5e12 or "15.5T"."""
Memory: TypeAlias = "int | str"
"""Bytes, or a size with its unit: "80GiB"."""
File: TypeAlias = "str | os.PathLike[str]"
"""A path, or the name of a bundled file."""
Image: TypeAlias = "str | tuple[int, int]"
"""Height and width [pixels]: "1024x768" or (1024, 768)."""
Video: TypeAlias = "str | tuple[int, int, int]"
"""Frames, height and width: "16x448x448" or (16, 448, 448)."""
Overrides: TypeAlias = "Mapping[str, Any] | Sequence[str] | str"
"""Fields of a plan: {"parallel.pp": 8}, or ["parallel.pp=8"]."""
Prices: TypeAlias = "Mapping[str, float] | Sequence[str] | str"
"""Of one GPU an hour: {"h100": 2.1}, or ["h100=2.1"]."""

Reader: TypeAlias = Callable[[Any], Any]
MOST_DEVICES = 1_000_000
MOST_RANK = 1 << 16
LONGEST = 10**64
"""Bounds of the command line's options, and of every number that it reads."""


def read(given: Mapping[str, Any], readers: Mapping[str, Reader]) -> dict[str, Any]:
    """The arguments that are not None, as the functions behind the commands take them. Raises InputError."""
    return {name: read_one(name, readers[name], value) for name, value in given.items() if value is not None}


def read_one(name: str, reader: Reader, value: Any) -> Any:
    """One argument, None too; an error says which parameter it is about."""
    try:
        return reader(value)
    except InputError as error:
        word = name.rstrip("_")
        raise (error if error.source or error.message.startswith(f"{word} ") else error.at(source=word)) from None


def _refused(value: object, what: str, hint: str | None = None) -> InputError:
    return InputError(f"{shown(value)} is not {what}", value=value, hint=hint)


def shown(value: object) -> str:
    """A value in an error: as YAML writes it, or its type where YAML has no such."""
    plain = value is None or isinstance(value, str | int | float | list | tuple | dict)
    return show_value(value) if plain else f"a {type(value).__name__}"


# -- one value --------------------------------------------------------------------------------------------------------


def whole(least: int | None = None, most: int | None = None) -> Reader:
    """Reads a whole number between two bounds, both included."""

    def reader(value: Any) -> int:
        number = _integer(value, "a whole number")
        if (least is not None and number < least) or (most is not None and number > most):
            ends = f"at least {least:,}" if most is None else f"from {least:,} to {most:,}"
            raise _refused(value, f"in range: {ends}")
        return number

    return reader


def _integer(value: Any, what: str, hint: str | None = None) -> int:
    """An integer of any kind but bool, a NumPy one too."""
    if isinstance(value, bool):
        raise _refused(value, what, hint)
    try:
        number = index(value)
    except TypeError:
        raise _refused(value, what, hint) from None
    if abs(number) >= LONGEST:
        raise _refused(number, "in range: no size has more than 64 digits")
    return number


def tokens(value: Any) -> int:
    """A length in tokens, at least 0."""
    if isinstance(value, str):
        return parse_context(value)
    number = _integer(value, "a number of tokens", 'write a whole number such as 4096, or text such as "256k"')
    if number < 0:
        raise _refused(value, "a number of tokens: it is negative")
    return number


def count(value: Any) -> int:
    """A count with decimal suffixes; a float that is a whole number is one."""
    if isinstance(value, str):
        return parse_count(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    number = _integer(value, "a count", 'write a whole number, or text such as "15.5T"')
    if number < 0:
        raise _refused(value, "a count: it is negative")
    return number


def memory(value: Any) -> int:
    """A device's memory [bytes]."""
    if isinstance(value, str):
        return sizes.parse_device_memory(value)
    number = _integer(value, "a memory size", 'write bytes, or text such as "80GiB"')
    if number < 0:
        raise _refused(value, "a memory size: it is negative")
    return sizes.parse_device_memory(str(number))


def number(value: Any) -> float:
    """A finite number."""
    if isinstance(value, int) and abs(value) >= LONGEST:
        raise _refused(value, "in range: no number has more than 64 digits")
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise _refused(value, "a number")
    return value


def switch(value: Any) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise _refused(value, "True or False")
    return value


def text(value: Any) -> str:
    """Text."""
    if not isinstance(value, str):
        raise _refused(value, "text")
    return value


def file(value: Any) -> str:
    """A path or a name."""
    path = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(path, str):
        raise _refused(value, "a path or a name")
    return path


def one_of(*choices: str) -> Reader:
    """Reads one of some words."""

    def reader(value: Any) -> str:
        word = in_its_case(value, choices) if isinstance(value, str) else ""
        if word not in choices:
            raise _refused(value, f"one of {', '.join(choices)}")
        return word

    return reader


def number_or(name: str, word: str, least: int) -> Reader:
    """Reads a whole number, or the word that may stand in its place, of a parameter of this name."""

    def reader(value: Any) -> int | str:
        if isinstance(value, str):
            found = sizes.parse_number(value, name, word)
            return word if found is None else found
        bounded: int = whole(least, sizes.MOST_NUMBER)(value)
        return bounded

    return reader


# -- several ----------------------------------------------------------------------------------------------------------


def several(reader: Reader, split: Callable[[str], Sequence[str]] | None = None) -> Reader:
    """Reads a list of values, or one value for a list of one; `split` makes several of a text."""

    def read_all(value: Any) -> list[Any]:
        if isinstance(value, str):
            return [reader(word) for word in (split(value) if split else [value])]
        many = hasattr(value, "__iter__") and not isinstance(value, Mapping | bytes | bytearray | memoryview)
        return [reader(each) for each in (value if many else [value])]

    return read_all


def some(reader: Reader) -> Reader:
    """Reads a list that holds something."""

    def read_some(value: Any) -> list[Any]:
        found: list[Any] = reader(value)
        if not found:
            raise _refused(value, "of use: it is empty", "leave the parameter out")
        return found

    return read_some


def pictures(sides: int, form: str, parse: Callable[[list[str]], Sequence[tuple[int, ...]]]) -> Reader:
    """Reads images or videos: text, a tuple of that many numbers, or several of either."""

    def one(value: Any) -> tuple[int, ...]:
        if isinstance(value, str):
            return parse([value])[0]
        if not isinstance(value, Sequence) or len(value) != sides:
            raise _refused(value, "a size", f"write {form}, or a tuple of {sides} numbers")
        return tuple(map(whole(1, 10**7 - 1), value))

    def reader(value: Any) -> list[tuple[int, ...]]:
        single = isinstance(value, Sequence) and len(value) == sides and all(hasattr(v, "__index__") for v in value)
        return [one(value)] if isinstance(value, str) or single else several(one)(value)

    return reader


def ends(value: Any) -> tuple[int, int]:
    """Both ends of a range of lengths [tokens]."""
    if isinstance(value, str):
        return words.parse_ends(value)
    if not isinstance(value, Sequence) or len(value) != 2:
        raise _refused(value, "a range", 'write "4k..256k", or a tuple of two lengths')
    return tokens(value[0]), tokens(value[1])


def lengths(value: Any) -> list[int]:
    """New tokens of each of several sequences."""
    return sizes.parse_lengths(value) if isinstance(value, str) else several(tokens)(value)


def batches(value: Any) -> list[int]:
    """Numbers of sequences: a number, several, or text such as "1,8"."""
    return words.parse_batches(value) if isinstance(value, str) else several(whole(1))(value)


def prices(value: Any) -> dict[str, float]:
    """A price of each GPU."""
    if isinstance(value, Mapping):
        return {text(name): float(number(price)) for name, price in value.items()}
    return sizes.parse_prices(several(text)(value))


def overrides(value: Any) -> list[str]:
    """Fields of a plan as the command line writes them."""
    if isinstance(value, Mapping):
        return [f"{text(name)}={_as_yaml(field)}" for name, field in value.items()]
    given: list[str] = several(text)(value)
    return given


def _as_yaml(value: Any) -> str:
    """A value in YAML's flow style, as JSON is; a word that YAML reads as itself stands without quotes."""
    if isinstance(value, str) and value.isidentifier() and value.lower() not in ("true", "false", "null"):
        return value
    try:
        if not isinstance(value, bool) and hasattr(value, "__index__"):
            return str(index(value))
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise _refused(value, "a value of a plan", "write a number, text, or lists and mappings of these") from None


READERS: dict[str, Reader] = {
    "phase": one_of("train", "prefill", "decode"),
    "batch": whole(1),
    "seq": tokens,
    "lengths": lengths,
    "context": tokens,
    "attention": one_of("causal", "full"),
    "logits": one_of("all", "last"),
    "mla": one_of("auto", "expanded", "absorbed"),
    "image": pictures(2, IMAGE_FORM, sizes.parse_images),
    "video": pictures(3, VIDEO_FORM, sizes.parse_videos),
    "tokens": count,
    "depth": whole(1),
    "top": whole(1),
    "by": text,
    "explain": text,
    "memory": memory,
    "overhead": memory,
    "as_": text,
    "optimizer": text,
    "gpu": file,
    "gpus": number_or("gpus", "auto", 1),
    "ep": number_or("ep", "all", 1),
    "offload_experts": number_or("offload_experts", "host", 0),
    **dict.fromkeys(("tp", "pp", "dp", "dcp"), whole(1, MOST_DEVICES)),
    **dict.fromkeys(("block_size", "batched_tokens", "max_num_seqs"), tokens),
    "kv_dtype": text,
    "vision": one_of("replicated", "sharded"),
    "engine": file,
    "utilization": number,
    "sampler": one_of("torch", "flashinfer"),
    **dict.fromkeys(("allow_new", "eager", "language_only", "mtp"), switch),
    "draft": file,
    "lora_rank": whole(0, MOST_RANK),
    "price": prices,
    "log": file,
    "within": text,
    "plan": file,
    "set": overrides,
    "rank": whole(),
    "against": text,
    "only": several(text, words.parse_names),
    "fail_on": several(text),
}
"""How each parameter is read that several functions may have."""

SWEPT: dict[str, Reader] = READERS | {
    "context": ends,
    "batch": some(batches),
    "kv_dtype": some(several(text, words.parse_names)),
    "gpu": several(file),
    "plan": several(file),
}
"""The same of `plot`, which takes several of some."""
