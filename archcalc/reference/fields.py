"""Typed reading of a spec's plain mapping: every missing, mistyped or unread key is an error that names
it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NoReturn

from archcalc.errors import InputError


class Section:
    """One section of the mapping, read key by key.

    Args:
        values: the plain mapping, as `yaml.safe_load` or `Spec.model_dump()` give it.
        where: dotted place of the section, for messages.

    Raises:
        InputError: from every reader, when the key is missing or has another type.
    """

    def __init__(self, values: object, where: str) -> None:
        if not isinstance(values, Mapping):
            raise InputError(f"{where} must be a mapping", value=str(values))
        self._values = values
        self._read: set[str] = set()
        self.where = where

    def has(self, key: str) -> bool:
        """Whether the key is there and not null; asking doesn't count as reading."""
        return self._values.get(key) is not None

    def integer(self, key: str, default: int | None = None) -> int:
        """A size or count [elements]; an absent key is an error unless a default is given."""
        value = self._take(key)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int):
            self._fail(key, "an integer", value)
        return value

    def optional_integer(self, key: str) -> int | None:
        """A size that may be null or absent."""
        return None if self._take(key) is None else self.integer(key)

    def number(self, key: str, default: float | None = None) -> float:
        """A real number, such as an epsilon or a rope base."""
        value = self._take(key)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float):
            self._fail(key, "a number", value)
        return float(value)

    def flag(self, key: str, default: bool = False) -> bool:
        """A yes or no; absent or null means the default."""
        value = self._take(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            self._fail(key, "true or false", value)
        return value

    def choice(self, key: str, *allowed: str, default: str | None = None) -> str:
        """One of the given words; an absent key is an error unless a default is given."""
        value = self._take(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, str) or value not in allowed:
            self._fail(key, f"one of {', '.join(allowed)}", value)
        return value

    def word(self, key: str, default: str | None = None) -> str:
        """Any string; an absent key is an error unless a default is given."""
        value = self._take(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, str):
            self._fail(key, "a string", value)
        return value

    def integers(self, key: str) -> list[int]:
        """Integers; none where the key is absent or null."""
        value = self._take(key)
        if value is None:
            return []
        if isinstance(value, list | tuple) and all(isinstance(item, int) for item in value):
            return [int(item) for item in value]
        self._fail(key, "integers", value)

    def pair(self, key: str) -> tuple[int, int]:
        """Two integers."""
        value = self._take(key)
        if isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(item, int) for item in value):
            return (int(value[0]), int(value[1]))
        self._fail(key, "two integers", value)

    def section(self, key: str) -> Section:
        """A section inside this one."""
        return Section(self._take(key), f"{self.where}.{key}")

    def optional_section(self, key: str) -> Section | None:
        """A section that may be null or absent."""
        return None if self._take(key) is None else self.section(key)

    def sections(self, key: str) -> list[Section]:
        """A list of sections."""
        value = self._take(key)
        if not isinstance(value, list | tuple) or not value:
            self._fail(key, "a list of mappings", value)
        return [Section(item, f"{self.where}.{key}[{index}]") for index, item in enumerate(value)]

    def plain(self) -> dict[str, object]:
        """Everything in the section that isn't null, as read."""
        self._read.update(self._values)
        return {key: value for key, value in self._values.items() if value is not None}

    def expect(self, key: str, value: int) -> None:
        """Compare a stated size with the one that follows from the rest."""
        if self.integer(key) != value:
            raise InputError(f"{self.where}.{key} is {self.integer(key)}, but the rest makes it {value}")

    def finish(self) -> None:
        """Refuse what nobody read: a key that the twin doesn't know could change a number.

        Raises:
            InputError: naming the first unread key that has a value.
        """
        for key in self.unread():
            raise InputError(f"{self.where}.{key} is unknown to the torch twin", value=str(self._values[key]))

    def unread(self) -> Iterator[str]:
        """Keys with a value that no reader asked for, in order."""
        return (key for key, value in self._values.items() if key not in self._read and value is not None)

    def _take(self, key: str) -> object:
        self._read.add(key)
        return self._values.get(key)

    def _fail(self, key: str, wanted: str, value: object) -> NoReturn:
        if key not in self._values:
            raise InputError(f"{self.where}.{key} is missing: the torch twin needs {wanted}")
        raise InputError(f"{self.where}.{key} must be {wanted}", value=str(value))
