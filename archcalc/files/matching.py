"""What a storage rule is for: the keys that a weight answers to, and patterns of paths."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from fnmatch import translate
from functools import cache
from math import comb
from typing import Literal, get_args

from archcalc.errors import InputError
from archcalc.tape import Role, Weight, product

StorageKey = Literal["default", Role, "mtp_embedding", "mtp_head"]
"""Roles, and two keys of their own: `mtp_embedding` and `mtp_head` say that the release stores embedding and
head again with each multi-token-prediction module, and how."""
KEYS: tuple[str, ...] = get_args(StorageKey)
_KEYS = frozenset(KEYS)

MANY = 65_536
"""Experts of a layer that a pattern is tried at; with more of them only roles can be used."""

ENDLESS = r"(?<!\\)(?:\\\\)*\)[*+{]|\\[1-9]|\(\?P=|\(\?\("
"""What can make an expression try for ever: a group that is repeated, and what was matched before, again."""

LONGEST_PATH = 60
"""Characters of a path of a module, about."""

MOST_TRIES = 1_000_000
"""Ways in which an expression may try to match a path, some hundredths of a second."""

A_TRY = 100
"""Steps that any try takes, however little it has to look at."""

_TOKEN = r"(?s)\\.|\[(?:\\.|[^\]\\])*\]|."
_WIDE = r"\.|\\[wWsSD]|\[(?!0-9\])"
"""What a repeated token begins with that may match any part of a path."""

_A_NUMBER = r"(?:^|[.*])\d+(?:$|[.*])"
"""What may stand for the number of a layer or an expert."""


def check_bounded(expression: str) -> None:
    """Raises InputError for a regular expression that might take for ever on a path."""
    if re.search(ENDLESS, expression):
        raise InputError(
            "this expression could try for ever: it repeats a group, or asks for what was matched again",
            value=expression,
            hint="write the alternatives out, or use several rules",
        )
    if tries(expression) > MOST_TRIES:
        raise InputError(
            "this expression could try for ever: too much of it may match in several ways",
            value=expression,
            hint="two or three of .* are enough for a path; write several rules instead",
        )


def tries(expression: str, length: int = LONGEST_PATH) -> int:
    """In how many ways a path of so many characters can be tried, about and at most: the places where repeats of
    anything may end, and the alternatives of each group that may match the same."""
    ways, wide, last = 1, 0, ""
    groups: list[tuple[int, bool]] = [(1, True)]  # alternatives so far, and whether all are words
    for token in re.findall(_TOKEN, re.sub(r"(?<!\\)\.[*+]\$?$", "", once(expression))):
        number, words = groups[-1]
        if token == "(":
            groups.append((1, True))
        elif token == ")" and len(groups) > 1:
            del groups[-1]
            ways *= number if not words else min(number, 2)
            groups[-1] = (groups[-1][0], False)
        elif token == "|":
            groups[-1] = (number + 1, words)
        elif token in "*+{" and last != "\\":
            wide += bool(re.match(_WIDE, last))
            ways *= 1 if re.match(_WIDE, last) else 3
        elif token == "?" and last not in "(*+}?":
            ways *= 2
        if token not in "(|)":
            groups[-1] = (groups[-1][0], groups[-1][1] and re.fullmatch(r"[\w-]", token) is not None)
        last = token
    return ways * comb(length, min(wide, length // 2))


def once(expression: str) -> str:
    """The same expression with one `.*` where several stand in a row."""
    return re.sub(r"(?<!\\)(?:\.\*){2,}", ".*", expression)


class Place:
    """A weight in one of its layers, the first if none is given: its paths are written once for all rules."""

    __slots__ = ("_experts", "_names", "first", "last", "layer", "weight")

    def __init__(self, weight: Weight, layer: int | None) -> None:
        self.weight = weight
        self.first = weight.indices[0] if weight.indices else 0
        self.layer = self.first if layer is None else layer
        self.last = product(weight.stack) - 1
        self._names = names(weight, self.layer, 0)
        self._experts: list[tuple[str, str]] | None = None

    def hit(self, found: Callable[[str], object]) -> set[bool]:
        """Whether an expression is for it: of experts the answers for all in the first layer, for two in another."""
        if not self.last:
            return {found(self._names[0]) is not None or found(self._names[1]) is not None}
        if self._experts is None:
            numbers = range(self.last + 1) if self.layer == self.first else (0, self.last)
            self._experts = [names(self.weight, self.layer, e) for e in numbers]
        return {found(path) is not None or found(whole) is not None for path, whole in self._experts}


def matches(match: str, place: Place) -> bool:
    """Whether a role or a pattern is for a weight in a layer. Raises InputError where it tells experts apart."""
    w = place.weight
    if match in _KEYS:
        return match == "default" or match in roles(w)
    if is_alike(match):
        return _matches_all(match, w.path, w.suffix)
    if place.last >= MANY:
        raise InputError(
            f"{match} is a pattern, and {w.path} has {place.last + 1:,} experts; at most {MANY:,} are looked at",
            value=match,
            hint="use a role, such as routed_expert",
        )
    hits = place.hit(pattern(match).match)
    if len(hits) > 1:
        path = names(w, place.layer, 0)[0]
        raise InputError(
            f"{match} matches some of the {place.last + 1} experts of {path}: they are stored alike",
            value=match,
            hint="write a star for the expert's index",
        )
    return hits.pop()


@cache
def is_alike(match: str) -> bool:
    """Whether a pattern can tell neither layers nor experts apart: a glob whose stars alone can stand for the number
    between two dots."""
    return not (match.startswith("re:") or set(match) & set("?[") or re.search(_A_NUMBER, match))


@cache
def _matches_all(match: str, path: str, suffix: str) -> bool:
    """Whether such a pattern is for the weight at a template, whatever the numbers in it are."""
    path = path.replace("{i}", "0").replace("{e}", "0")
    found = pattern(match).match
    return found(path) is not None or bool(suffix and found(f"{path}.{suffix}"))


def roles(w: Weight) -> tuple[str, ...]:
    """The keys that a weight answers to. The copies of embedding and head in a prediction module have their own."""
    if w.part != "mtp":
        return (w.role,)
    return (f"mtp_{w.role}",) if w.role in ("embedding", "head") else ("mtp", w.role)


def names(w: Weight, layer: int, expert: int) -> tuple[str, str]:
    """The path of one matrix, without and with its last piece."""
    path = w.path.replace("{i}", str(layer)).replace("{e}", str(expert))
    return path, f"{path}.{w.suffix}" if w.suffix else path


def effort(match: str, weights: Iterable[Weight]) -> int:
    """What it may take to try a pattern at all the weights of a model, about and at most: steps of matching."""
    total = 0
    for w in weights:
        numbers = 1 if is_alike(match) else max(1, len(w.indices)) + product(w.stack)
        length = max(LONGEST_PATH, len(w.path) + len(w.suffix))
        total += numbers * max(A_TRY, tries(match[3:], length) if match.startswith("re:") else length)
    return total


@cache
def pattern(match: str) -> re.Pattern[str]:
    """A pattern of paths as a regular expression, to be matched from the first character on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of a set in a set, which Python may read otherwise one day
        return re.compile(once(match.removeprefix("re:")) if match.startswith("re:") else translate(match))


def suggestion(match: str, weights: Iterable[Weight]) -> str:
    """What to write instead of a pattern that matches no weight: a longer one that does, or how paths look."""
    known = [name for w in weights for layer in w.indices or (0,) for name in names(w, layer, 0)]
    body = match.removeprefix("re:")
    for longer in (f"re:.*{body}",) if match.startswith("re:") else (f"*.{body}", f"{body}.*", f"*.{body}.*"):
        with suppress(re.error):  # of flags, which only the start of an expression may have
            if any(map(pattern(longer).match, known)):
                return f"did you mean {longer}?"
    if re.search(r"\bexperts\W*[\d\[(]", match):
        return "the experts of a layer are stored alike: write a star for the expert's index"
    return f"a path is written like {max(known, key=len)}"
