"""A report of everything about one spec: sections, each with the command that makes it. Renderers see only this."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from shlex import quote

from archcalc.documents.document import Report, Value
from archcalc.documents.sweep.figure import Figure
from archcalc.errors import InputError, harmless
from archcalc.files.loader import bundled_dir, find, load_spec
from archcalc.files.model import Spec

PLANS: dict[str, tuple[str, ...]] = {"kimi-k2": ("k2-pretrain",), "k25": ("k2-pretrain",)}
"""Bundled plans that a bundled spec is known to have been trained under. K2.5's report (arXiv:2602.02276, section 4.5)
says that it was trained as K2 was, the vision tower apart."""

HEADLINE = {
    "params.total": "parameters",
    "params.active": "parameters that a token uses",
    "flops.per_token": "forward FLOPs of a token in a prefill of 4,096, causal",
    "kv.bytes_per_token": "KV cache of one token more, bf16",
    "kv.sequence_bytes_128k": "KV cache of a sequence of 131,072 tokens, bf16",
    "weights.bytes": "released weights",
    "weights.bits_per_parameter": "bits of a released weight",
}
"""What a reader asks first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture beside the report, as `STEM-name.svg`. `figure` gives what it shows."""

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
        commands: what to type for these numbers and more, the main one first.
        report: the numbers.
        pictures: drawn beside them.
    """

    name: str
    title: str
    commands: tuple[str, ...]
    report: Report
    pictures: tuple[Picture, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Book:
    """All sections of one spec.

    Attributes:
        stem: what its files are named, without an ending.
        spec: the spec's name.
        title: the model's name for people.
        command: what writes the report again.
        sections: in reading order.
    """

    stem: str
    spec: str
    title: str
    command: str
    sections: tuple[Section, ...]

    @property
    def quantities(self) -> dict[str, Value]:
        """The quantities of all sections."""
        return {name: n for section in self.sections for name, n in section.report.quantities.items()}

    @property
    def pictures(self) -> Iterator[Picture]:
        """The pictures of all sections."""
        return (picture for section in self.sections for picture in section.pictures)

    @property
    def report(self) -> Report:
        """The whole as one document: all quantities, parameters as rows, claims as findings, assumptions gathered."""
        by_name = {section.name: section.report for section in self.sections}
        params, claims = by_name["params"], by_name.get("claims")
        return Report(
            command="report",
            title=f"{self.title}: report",
            inputs={"spec": self.spec},
            quantities=self.quantities,
            rows=params.rows,
            findings=claims.findings if claims else (),
            assumptions=gathered(self.sections, "assumptions"),
            conventions=gathered(self.sections, "conventions"),
        )

    def file_of(self, picture: Picture) -> str:
        """The file name of a picture."""
        return f"{self.stem}-{picture.name}.svg"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A spec, and how a reader names it on the command line."""

    spec: Spec
    word: str

    @property
    def stem(self) -> str:
        """The file name of its report, without an ending."""
        return file_stem(self.spec.name)

    def command(self, name: str, *arguments: str) -> str:
        """A command line about it, on one line."""
        return harmless(" ".join(["archcalc", name, quote(self.word), *arguments]))


def read_source(argument: str) -> Source:
    """A spec by path or bundled name. Raises InputError or SpecError.

    A bundled spec is called by its name, however it was found; another one by its file's name, wherever it lies: so the
    text of a report does not depend on where it was written.
    """
    path = find(argument)
    inside = path.resolve().parent == bundled_dir().resolve()
    return Source(spec=load_spec(argument), word=path.stem if inside else path.name)


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


def gathered(sections: Sequence[Section], field: str) -> list[str]:
    """The sentences of all sections, each once."""
    return list(dict.fromkeys(line for section in sections for line in getattr(section.report, field)))
