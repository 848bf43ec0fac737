"""A report of everything about one spec: sections, each of one command or of one asked several times."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from archcalc.documents.ask import answer, called, line
from archcalc.documents.document import Report, Table, Value
from archcalc.documents.kept import File, held, of_plan
from archcalc.documents.sweep.figure import Figure
from archcalc.errors import InputError
from archcalc.files.model import Spec
from archcalc.hf.spec import load_spec


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A spec, and how a reader names it on the command line."""

    spec: Spec
    word: str

    @property
    def stem(self) -> str:
        """The file name of its report, without an ending."""
        return file_stem(self.spec.name)

    def ask(self, title: str, command: str, **arguments: Any) -> Asked:
        """A command's answer about it. Raises InputError."""
        report = answer(command, self.spec, arguments)
        return Asked(title=title, command=line(command, self.word, arguments), report=report)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A command line and what it answers. `title` tells it from its neighbours in a section."""

    title: str
    command: str
    report: Report


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture beside the report, as `STEM-name.svg`: the command line that draws it, and what it shows."""

    name: str
    caption: str
    command: str
    figure: Callable[[], Figure]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One part of a report.

    Attributes:
        name: stable; the key of the section in JSON.
        title: the heading.
        asked: the command, or the same under several arguments, the main one first: the others stand beside it.
        pictures: drawn beside them.
    """

    name: str
    title: str
    asked: tuple[Asked, ...]
    pictures: tuple[Picture, ...] = ()


def quantities(sections: Iterable[Section]) -> dict[str, Value]:
    """The quantities of the first command line of each command."""
    first: dict[str, Report] = {}
    for section in sections:
        first.setdefault(section.asked[0].report.command, section.asked[0].report)
    return {name: n for report in first.values() for name, n in report.quantities.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Book:
    """All sections of one spec.

    Attributes:
        source: the spec.
        carried: the plans and GPUs that it was asked about, as `--plan` and `--gpu` name them, and the values of other
            flags that were given.
        sections: in reading order.
        headline: what a reader asks first: a row for each question, with `answer` and `more` for people.
        notes: what it is not about, and what to type for that.
    """

    source: Source
    carried: Mapping[str, Any]
    sections: tuple[Section, ...]
    headline: Table
    notes: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """What writes the report again."""
        return line("report", self.source.word, self.carried)

    @property
    def quantities(self) -> dict[str, Value]:
        """The quantities of the first command line of each command."""
        return quantities(self.sections)

    @property
    def pictures(self) -> Iterator[Picture]:
        """The pictures of all sections."""
        return (picture for section in self.sections for picture in section.pictures)

    @property
    def report(self) -> Report:
        """The whole as one document: all quantities, parameters as rows, claims as findings, sentences gathered."""
        named = {section.name: section.asked[0].report for section in self.sections}
        gathered = [asked.report for section in self.sections for asked in section.asked]
        return Report(
            command="report",
            title=f"{self.source.spec.title}: report",
            spec=self.source.spec,
            inputs={
                "spec": self.source.spec.name,
                **self.carried,
                **({"image": [list(sides) for sides in self.carried["image"]]} if "image" in self.carried else {}),
                "plan": [called(plan, "plans") for plan in self.carried["plan"]],
                "gpu": [called(gpu, "hardware") for gpu in self.carried["gpu"]],
            },
            quantities=self.quantities,
            rows=named["params"].rows,
            tables=[self.headline],
            findings=named["claims"].findings if "claims" in named else (),
            extra=self._held,
            assumptions=list(dict.fromkeys(text for report in gathered for text in report.assumptions)),
            conventions=list(dict.fromkeys(text for report in gathered for text in report.conventions)),
            notes=self.notes,
        )

    @property
    def _held(self) -> dict[str, Any]:
        """The plans and GPUs of one's own, and what the plans name."""
        plans = (file for plan in self.carried["plan"] for file in of_plan(called(plan, "plans"), plan))
        return held([*plans, *(File("hardware", called(gpu, "hardware"), gpu) for gpu in self.carried["gpu"])])

    def file_of(self, picture: Picture) -> str:
        """The file name of a picture."""
        return f"{self.source.stem}-{picture.name}.svg"


def read_source(argument: str) -> Source:
    """A spec by path or bundled name. Raises InputError or SpecError."""
    return Source(spec=load_spec(argument), word=called(argument))


def file_stem(name: str) -> str:
    """A spec's name as the beginning of a file name: letters, digits, `.`, `_`, `-`.

    A name with anything else in it, too long, or ending like a file that stands beside a report, gets a digest of the
    whole name, so that two names never meet.
    """
    if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", name) and not re.search(r"\.crosscheck$|\.$", name, re.I):
        return name
    kept = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:60]
    return f"{kept or 'spec'}-{sha256(name.encode(errors='backslashreplace')).hexdigest()[:8]}"


def check_stems(sources: Sequence[Source]) -> None:
    """Raises InputError for two specs whose reports would be the same file (where case does not count, too)."""
    seen: dict[str, str] = {}
    for source in sources:
        key = source.stem.casefold()
        if key in seen:
            raise InputError(
                f"the reports of {seen[key]} and {source.word} would be the same file",
                value=source.spec.name,
                hint="name each spec once; the file is named by the spec's `name`",
            )
        seen[key] = source.word
