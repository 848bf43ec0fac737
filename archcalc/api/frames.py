"""Rows as a data frame of a library that the user has; none of them is asked for otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any

from archcalc.errors import InputError, show_value

LIBRARIES = ("pandas", "polars")
"""In order of preference."""


class NoLibrary(InputError, ImportError):
    """No library of data frames is installed."""


def frame(rows: Sequence[Mapping[str, Any]], library: str | None = None) -> Any:
    """The rows as a data frame; a key that a row lacks is missing there. A column whose values are of one plain type
    has that type, another one holds them as Python objects: no number changes.

    Raises:
        InputError: another library than one of LIBRARIES.
        NoLibrary: it is not installed.
    """
    if library is not None and library not in LIBRARIES:
        message = f"no library of data frames is named {show_value(library)}"
        raise InputError(message, source="library", value=library, hint=_or(LIBRARIES))
    keys = list(dict.fromkeys(key for row in rows for key in row))
    columns = {key: [row.get(key) for row in rows] for key in keys}
    for name in (library,) if library else LIBRARIES:
        try:
            module = import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
        else:
            return _MADE[name](module, columns)
    needed = library or _or(LIBRARIES)
    raise NoLibrary(f"a data frame needs {needed}", hint=f"pip install {library or LIBRARIES[0]}")


def _plain_type(values: Iterable[Any]) -> type | None:
    """What all values are that are there: int, float, bool or str; None where they differ or are something else."""
    types = {type(value) for value in values if value is not None}
    found = types.pop() if len(types) == 1 else None
    return found if found in (int, float, bool, str) else None


def _pandas(pandas: Any, columns: Mapping[str, list[Any]]) -> Any:
    """Nullable types: pandas would turn whole numbers beside a missing one into floats."""
    dtypes = {int: "Int64", float: "Float64", bool: "boolean", str: "string"}

    def series(values: list[Any]) -> Any:
        plain = _plain_type(values)
        long = plain is int and any(value is not None and value.bit_length() > 63 for value in values)
        return pandas.Series(values, dtype=object if plain is None or long else dtypes[plain])

    return pandas.DataFrame({key: series(values) for key, values in columns.items()})


def _polars(polars: Any, columns: Mapping[str, list[Any]]) -> Any:
    """Its own types, with whole numbers of up to 127 bits."""

    def series(key: str, values: list[Any]) -> Any:
        plain = _plain_type(values)
        long = plain is int and any(value is not None and value.bit_length() > 127 for value in values)
        return polars.Series(key, values, dtype=polars.Object) if plain is None or long else polars.Series(key, values)

    return polars.DataFrame([series(key, values) for key, values in columns.items()])


_MADE = {"pandas": _pandas, "polars": _polars}


def _or(names: Sequence[str]) -> str:
    return " or ".join(names)
