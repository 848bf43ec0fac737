"""Lists and maps of module names in quantization configs, read once and asked for each weight."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fnmatch import translate
from time import perf_counter
from typing import Any, Literal

from archcalc.errors import InputError
from archcalc.files.matching import MANY, check_bounded, once

Syntax = Literal["exact", "boundary", "substring", "glob"]
"""How a method reads its lists. `exact`: the whole name, or an expression after `re:` matched from the start
(compressed-tensors, utils/match.py). `boundary`: an expression or literal from the start up to a dot, or the name's end
(transformers, quantizers_utils.py, should_convert_module). `substring`: anywhere (AutoAWQ). `glob`: the whole name with
wildcards, or a module that holds it (ModelOpt)."""

MOST_PATTERNS = 4096
PATIENCE = 20.0
"""How many expressions a list may have, and how long they may try in all [s]: known lists have a few."""

EXPERT = re.compile(r"(?<=\bexperts\.)[0-9]{1,9}(?=\.|$)")
SPECIAL = set("*?[]()|^$+\\{}")
NUMBER = re.compile(r"(?<![\w-])\d+(?![\w-])")
"""What may stand for the number of a layer or an expert: digits that are no part of a word, as in `(0|1)`."""
WORDS = re.compile(r"(?:[\w-]|\\?\.\*|\\\.|[()|^$])*")
"""An expression in which `.*` alone can stand for a number: words, dots, alternatives."""


class NameMap:
    """What a config says by module name; entries of experts are folded, as the experts of a layer are stored alike."""

    def __init__(self, entries: Mapping[str, Any], key: str, *, exact: bool = False) -> None:
        self.key, self.exact = key, exact
        self.found = 0
        self._whole: dict[str, Any] = {}
        self._experts: dict[str, dict[int, Any]] = {}
        for name, value in entries.items():
            expert = EXPERT.search(name)
            if expert is None:
                self._whole[name] = value
            else:
                template = f"{name[: expert.start()]}{{e}}{name[expert.end() :]}"
                self._experts.setdefault(template, {})[int(expert[0])] = value

    def get(self, name: str, experts: int) -> tuple[Any] | None:
        """What it says of a name with `{e}` for each of so many experts, or, unless names are exact, of the nearest
        module that holds it.

        Raises InputError where experts differ.
        """
        inner = name
        while inner:
            if inner in self._whole:
                self.found += 1
                return (self._whole[inner],)
            if inner in self._experts:
                self.found += 1
                return (self._alike(inner, experts),)
            inner = "" if self.exact else inner.rpartition(".")[0]
        return None

    def _alike(self, template: str, experts: int) -> Any:
        given = self._experts[template]
        first = next(iter(given.values()))
        if len(given) < experts or any(value != first for value in given.values()):
            same = sum(value == first for value in given.values())
            raise InputError(
                f"{self.key} stores {same} of the {experts} experts {template} in one way and others in another:"
                " the experts of a layer have to be stored alike",
                value=template,
            )
        return first

    def __bool__(self) -> bool:
        """Whether it says anything."""
        return bool(self._whole or self._experts)

    def without(self, modules: set[str]) -> list[str]:
        """The entries that are for none of the modules."""
        return [name for name in (*self._whole, *self._experts) if name not in modules]


class NameList:
    """A list of names and patterns under a key of a config."""

    def __init__(self, entries: Iterable[str], key: str, syntax: Syntax) -> None:
        entries = tuple(entries)
        self.key, self.syntax = key, syntax
        self.alike = not any(self._numbered(entry) for entry in entries)
        """Whether no entry can tell layers, or the experts of one, apart."""
        literal: list[str] = []
        patterns: list[str] = []
        for entry in entries:
            if not entry:
                raise InputError(f"{key} has an entry without a name", value=entry)
            (literal if self._plain(entry) else patterns).append(entry)
        self._map = NameMap(dict.fromkeys(literal, True), key, exact=syntax == "exact")
        self._ends: dict[int, set[str]] = {}
        for entry in literal:
            self._ends.setdefault(len(entry), set()).add(entry)
        self._starts: dict[int, set[str]] = {}
        self._patterns: list[re.Pattern[str]] = []
        self._spent = 0.0
        if len(patterns) > MOST_PATTERNS:
            raise InputError(f"{key} has {len(patterns):,} expressions, more than {MOST_PATTERNS:,}", value=patterns[0])
        for entry in patterns:
            self._read(entry)

    def _numbered(self, entry: str) -> bool:
        """Whether an entry may be for some layers or experts alone."""
        if NUMBER.search(entry):
            return True
        if self._plain(entry):
            return False
        body = entry.removeprefix("re:")
        return bool(set(body) & set("?[")) if self.syntax == "glob" else WORDS.fullmatch(body) is None

    def _plain(self, entry: str) -> bool:
        """Whether an entry is a name, rather than a pattern of names."""
        if self.syntax == "exact":
            return not entry.startswith("re:")
        return self.syntax == "substring" or not set(entry) & SPECIAL

    def _read(self, entry: str) -> None:
        """An entry with wildcards. Raises InputError for one that could try for ever, or can't be read."""
        stem = entry.removesuffix("*")
        if self.syntax == "glob" and self._plain(stem):
            self._starts.setdefault(len(stem), set()).add(stem)
            return
        expression = entry.removeprefix("re:")
        try:
            if self.syntax == "glob":
                self._patterns.append(re.compile(translate(entry)))
                return
            check_bounded(expression)
            expression = once(expression)
            bounded = rf"(?:{expression})(?:(?<=\.)|(?=\.|$))"
            self._patterns.append(re.compile(bounded if self.syntax == "boundary" else expression))
        except (re.error, OverflowError, RecursionError) as error:
            raise InputError(f"{self.key} has no regular expression: {error}", value=entry) from None
        except InputError as error:
            raise InputError(f"{self.key}: {error.message}", value=entry, hint=error.hint) from None

    def __contains__(self, name: str) -> bool:
        """Whether it is for a name without `{e}`."""
        if self.syntax == "exact":
            return self._map.get(name, 1) is not None or self._matches(name)
        if self.syntax == "substring":
            return any(entry in name for entries in self._ends.values() for entry in entries)
        if self._map.get(name, 1) is not None or any(name[:n] in starts for n, starts in self._starts.items()):
            return True
        if self.syntax == "boundary" and any(name[-n:] in ends for n, ends in self._ends.items()):
            return True
        return self._matches(name)

    def _matches(self, name: str) -> bool:
        if not self._patterns:
            return False
        start = perf_counter()
        hit = any(found.match(name) is not None for found in self._patterns)
        self._spent += perf_counter() - start
        if self._spent > PATIENCE:
            raise InputError(f"{self.key}: its {len(self._patterns):,} expressions take too long to try")
        return hit

    def holds(self, name: str, experts: int, *, first: bool) -> bool:
        """Whether it is for a name, in which `{e}` stands for each of so many experts; all of them are tried in the
        first layer. Raises InputError where it is for some experts."""
        if "{e}" not in name:
            return name in self
        if self._map.get(name, experts) is not None:
            return True
        tried: Iterable[int] = range(experts) if first else sorted({0, experts - 1})
        if self.alike:
            tried = (0,)
        elif experts > MANY:
            message = f"{self.key} may tell experts apart, and {name} has {experts:,}; at most {MANY:,} are looked at"
            raise InputError(message, value=name)
        hits = {name.replace("{e}", str(e)) in self for e in tried}
        if len(hits) > 1:
            raise InputError(
                f"{self.key} names some of the {experts} experts {name}: those of a layer have to be stored alike",
                value=name,
            )
        return hits.pop()

    def without(self, modules: set[str]) -> list[str]:
        """The literal entries that are for none of the modules."""
        if self.syntax == "substring":
            return []
        left = self._map.without(modules)
        if self.syntax != "boundary" or not left:
            return left
        ends = {module[-n:] for module in modules for n in self._ends}
        return [entry for entry in left if entry not in ends]
