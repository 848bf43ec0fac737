"""Report to text: one file a format. Only here are numbers rounded and given units."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import Literal

from archcalc.documents.document import Report
from archcalc.errors import InputError, did_you_mean
from archcalc.render.inert import inert

Renderer = Callable[[Report, str], str]

FORMATS: dict[str, str] = {
    "table": "archcalc.render.table",
    "json": "archcalc.render.json",
    "csv": "archcalc.render.csv",
    "markdown": "archcalc.render.markdown",
    "github": "archcalc.render.github",
}
"""Format name to the module that renders it (imported when used)."""

PICTURES: dict[str, Literal["svg", "png"]] = {".svg": "svg", ".png": "png"}
"""File ending of a picture to its format; every other ending is one of a report's."""

ENDINGS = {"json": "json", "csv": "csv", "md": "markdown", "txt": "table"}
"""File ending to format."""


def renderer(name: str) -> Renderer:
    """The `render(report, units)` function of a format. Raises InputError for an unknown name."""
    if name not in FORMATS:
        raise InputError(
            f"unknown format {name}",
            value=name,
            hint=did_you_mean(name, FORMATS) or f"one of {', '.join(FORMATS)}",
        )
    render: Renderer = import_module(FORMATS[name]).render
    return render


COMMANDING = ("json", "github")
"""Formats whose lines are no text for people alone: raw data, and commands of our own, between which `github` makes the
rest inert itself."""

FOLDED = ("table", "markdown")
"""Formats for people who may not want every assumption."""


def counted(report: Report, name: str) -> Report:
    """In a format of FOLDED the report with a count in place of its assumptions; a single one says as much in as little
    room."""
    n = len(report.assumptions)
    if name not in FOLDED or n < 2:
        return report
    return replace(report, assumptions=[f"{n} values that no source gives (--assumptions)"])


def suited(report: Report, name: str, units: str, assumptions: bool) -> Report:
    """The report in the form that suits a format; `assumptions` lists all of them in every one."""
    if report.command == "diff":
        from archcalc.render.changes import form_of

        report = form_of(report, name, units)
    return report if assumptions else counted(report, name)


def text_of(report: Report, name: str, units: str, assumptions: bool = False) -> str:
    """What a command whose report it is prints in a format, off a terminal. Raises InputError for an unknown one."""
    render = renderer(name)
    if report.command == "diff" and name == "markdown":
        from archcalc.render.folded import render
    text = render(suited(report, name, units, assumptions), units)
    return text if name in COMMANDING else inert(text)
