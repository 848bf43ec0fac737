"""Saved reports: the JSON that `--format json` writes, read back with nothing believed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from math import isfinite
from typing import Any, NoReturn

from archcalc.documents.document import FORMAT_VERSION, Report, Value
from archcalc.errors import InputError, show_value

LARGEST = 1 << 256
"""No count or size is larger, and no share of anything smaller than the inverse: such a number is a mistake or an
attack. Differences and percentages of all others are finite."""

MOST_COPIES = 10**9
"""No model has so many layers or experts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """What a report says, saved or just computed.

    Attributes:
        layout: how it lays the model out over devices, where it does.
        files: what it rests on and is not bundled, by folder and name.
        sha256: of the spec; nothing where an earlier version saved the report.
    """

    command: str
    title: str
    inputs: Mapping[str, Any]
    quantities: Mapping[str, Value]
    rows: Sequence[Mapping[str, Any]]
    tables: Mapping[str, Sequence[Mapping[str, Any]]]
    findings: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    sha256: str = ""


def of(report: Report) -> Saved:
    """The same of a report that was just computed."""
    return Saved(
        command=report.command,
        title=report.title,
        inputs=report.inputs,
        quantities=report.quantities,
        rows=report.rows.rows if report.rows else (),
        tables={table.name: table.rows for table in report.tables},
        findings=report.findings,
        layout=report.extra.get("layout", {}),
        files=report.extra.get("files", {}),
        sha256="" if report.spec is None else report.spec.sha256,
    )


def parse(text: bytes, source: str) -> Saved:
    """A saved report. Raises InputError for what is none, or was written by a newer version."""
    try:
        data = json.loads(text, parse_constant=_no_constant, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise InputError(
            f"this is not valid JSON: {error.msg}", source=source, line=error.lineno, column=error.colno
        ) from None
    except (ValueError, RecursionError):
        raise InputError("this is no JSON of a report", source=source) from None
    if not isinstance(data, dict) or data.get("tool") != "archcalc":
        raise InputError(
            "this is JSON, but no report of archcalc",
            source=source,
            hint="save one with: archcalc params SPEC --format json",
        )
    _check_version(data.get("format_version"), source)
    tables, files = _mapping(data, "tables", source), _mapping(data, "files", source)
    return Saved(
        command=_text(data, "command", source),
        title=_text(data, "title", source),
        inputs=_mapping(data, "inputs", source),
        quantities=_quantities(data, source),
        rows=_rows(data, "rows", source),
        tables={name: _rows(tables, name, source) for name in tables},
        findings=_rows(data, "findings", source),
        layout=_mapping(data, "layout", source),
        files={folder: _mapping(files, folder, source) for folder in files},
        sha256=_text(data, "spec_sha256", source),
    )


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of a report")


def _finite(digits: str) -> float:
    number = float(digits)
    return number if isfinite(number) else _no_constant(digits)


def _check_version(version: object, source: str) -> None:
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise InputError(f"format_version is {show_value(version)}, not a whole number", source=source, value=version)
    if version > FORMAT_VERSION:
        raise InputError(
            f"this report has format_version {show_value(version)}; this archcalc reads up to {FORMAT_VERSION}",
            source=source,
            value=version,
            hint="a newer archcalc wrote it: update this one, or save the report again",
        )


def _text(data: Mapping[str, Any], key: str, source: str) -> str:
    value = data.get(key, "")
    if not isinstance(value, str):
        raise InputError(f"{key} is {show_value(value)}, not text", source=source)
    return value


def _mapping(data: Mapping[str, Any], key: str, source: str) -> Mapping[str, Any]:
    value = data.get(key, {})
    if not isinstance(value, dict):
        raise InputError(f"{key} is {show_value(value)}, not a mapping", source=source)
    return value


def _quantities(data: Mapping[str, Any], source: str) -> Mapping[str, int | float | bool]:
    found = _mapping(data, "quantities", source)
    for name, value in found.items():
        if not isinstance(value, bool):
            _check_number(name, value, source)
    return found


def _check_number(name: str, value: object, source: str) -> None:
    """Raises InputError for what can't be compared as a number."""
    if not is_number(value):
        raise InputError(f"{name} is {show_value(value)}, not a usable number", source=source, value=value)


def _rows(data: Mapping[str, Any], key: str, source: str) -> Sequence[Mapping[str, Any]]:
    rows = data.get(key, [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{key} is no list of mappings", source=source)
    for row in rows:
        if "template" in row and not _is_place(row["template"], row.get("indices"), row.get("experts")):
            path = show_value(row.get("path"))
            raise InputError(f"{key}: template, indices and experts of {path} name no place", source=source)
        for name, value in row.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                _check_number(name, value, source)
    return rows


def _is_place(template: object, indices: object, experts: object) -> bool:
    """Whether a row's keys say where it stands: a template, runs of layers, a number of experts."""
    if not isinstance(template, str) or not isinstance(indices, list):
        return False
    if not all(isinstance(run, list) and len(run) == 2 for run in indices):
        return False
    ends = [end for run in indices for end in run]
    if not all(type(n) is int and 0 <= n < MOST_COPIES for n in (experts, *ends)):
        return False
    apart = all(b < c for (_, b), (c, _) in pairwise(indices)) and all(a <= b for a, b in indices)
    pieces = template.split(".")
    return apart and all(pieces) and ("{i}" in pieces) == bool(indices) and ("{e}" in pieces) == bool(experts)


def is_number(value: object) -> bool:
    """Whether a value is a number that can be compared: no bool, nothing past LARGEST, nothing below its inverse."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return isinstance(value, Fraction)
    return value == 0 or 1 / LARGEST <= abs(value) < LARGEST
