"""What torch said, kept in a file: so that a machine without torch can still compare it with what archcalc says now.

A record holds, for each kind of number, how many there were, their sum, and a digest of all of them by path. It is
keyed by a digest of what the numbers follow from: the sizes of the spec and the settings of the check.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NamedTuple

from archcalc.documents.document import FORMAT_VERSION, Report, Table
from archcalc.errors import InputError
from archcalc.files.model import Spec
from archcalc.proof.check import COLUMNS, COUNTED, KINDS, our_sides
from archcalc.proof.ours import CACHE, CACHE_DTYPES, IMAGE, PIPELINE, SCHEDULES, SEQ, SETTINGS
from archcalc.proof.sides import Finding, Side

COMMAND = "crosscheck-record"
DESCRIPTIVE = frozenset({"name", "title", "sources", "claims"})
"""Sections of a spec that no compared number follows from."""


class Total(NamedTuple):
    """All numbers of one kind: how many paths, how many parts they stand for, their sum, a digest of each by path."""

    kind: str
    paths: int
    parts: int
    sum: int
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What torch said about the sizes of `key`."""

    key: str
    totals: tuple[Total, ...]


def key_of(spec: Spec) -> str:
    """A digest of the spec's sizes and of the settings that they are compared under.

    What a key says by default is left out: a key that is new changes no digest of a spec that does not have it.
    """
    said = spec.model_dump(exclude_none=True, exclude_defaults=True)
    sizes = {name: value for name, value in said.items() if name not in DESCRIPTIVE}
    settings = [SEQ, IMAGE, CACHE, CACHE_DTYPES, [str(s) for s in SETTINGS], SCHEDULES, PIPELINE, KINDS]
    text = json.dumps([sizes, settings], sort_keys=True, default=str)
    return sha256(text.encode()).hexdigest()


def record(spec: Spec, findings: Iterable[Finding]) -> Record:
    """The torch side of a whole cross-check."""
    kinds: dict[str, Side] = {}
    for finding in findings:
        side = kinds.setdefault(finding["kind"], {})
        if finding["theirs"]:
            side[finding["path"], finding["setting"]] = (finding["count"], finding["theirs"])
    return Record(key=key_of(spec), totals=tuple(_total(kind, side) for kind, side in kinds.items() if side))


def judged(spec: Spec, kept: Record) -> list[dict[str, Any]]:
    """What archcalc says now against what torch said then, kind by kind: the rows of the `crosscheck` report."""
    ours = {kind: _total(kind, side) for kind, side in our_sides(spec).items() if side}
    theirs = {total.kind: total for total in kept.totals}
    rows = []
    for kind in dict.fromkeys((*ours, *theirs)):
        mine, other = ours.get(kind, _NONE), theirs.get(kind, _NONE)
        rows.append(
            {
                "path": kind,
                "kind": kind,
                "paths": max(mine.paths, other.paths),
                "parts": max(mine.parts, other.parts),
                "ours": mine.sum,
                "theirs": other.sum,
                "result": "equal" if mine.digest == other.digest else "differs",
            }
        )
    return rows


def agrees(spec: Spec, kept: Record | None) -> bool:
    """Whether a record is of these sizes, and archcalc still says what torch said."""
    return kept is not None and kept.key == key_of(spec) and all(r["result"] == "equal" for r in judged(spec, kept))


def summary_report(spec: Spec, kept: Record | None) -> Report:
    """The cross-check as a section of a report; of a record of other sizes only that it is one."""
    current = kept if kept is not None and kept.key == key_of(spec) else None
    rows = judged(spec, current) if current else []
    different = sum(row["result"] != "equal" for row in rows)
    if not rows:
        notes = ["No cross-check of these sizes is saved beside this report; the command runs one. It needs torch."]
    elif different:
        notes = [f"{different} of {len(rows)} kinds differ from what torch said when it was last run."]
    else:
        notes = [f"All {sum(row['paths'] for row in rows):,} numbers are equal, integer for integer."]
    return Report(
        command="crosscheck",
        title=f"{spec.title}: archcalc against the torch twin",
        spec=spec,
        inputs={"spec": spec.name, "against": "twin", "only": list(KINDS)},
        quantities={},
        rows=Table("rows", "compared, integer for integer", COLUMNS, rows) if rows else None,
        conventions=COUNTED if rows else (),
        notes=notes,
    )


# -- the file ---------------------------------------------------------------------------------------------------------


def to_json(kept: Record, name: str) -> str:
    """The record as a JSON document. Digests stand for thousands of numbers; the sums are torch's own, exact."""
    document = {
        "format_version": FORMAT_VERSION,
        "tool": "archcalc",
        "command": COMMAND,
        "title": f"{name}: what torch said",
        "key": kept.key,
        "totals": [total._asdict() for total in kept.totals],
    }
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def from_json(text: bytes, source: str) -> Record | None:
    """A saved record, or None for a file that is none. Raises InputError for one of a newer version."""
    try:
        data = json.loads(text)
        version = data["format_version"]
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise InputError(
                f"this record has format_version {version}; this archcalc reads up to {FORMAT_VERSION}",
                source=source,
                hint="a newer archcalc wrote it: update this one, or delete the file",
            )
        if data["command"] != COMMAND or not isinstance(data["key"], str):
            return None
        return Record(key=data["key"], totals=tuple(_read(total) for total in data["totals"]))
    except InputError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def _read(total: Mapping[str, Any]) -> Total:
    kept = Total(str(total["kind"]), total["paths"], total["parts"], total["sum"], str(total["digest"]))
    for n in kept[1:4]:
        if type(n) is not int or not 0 <= n < 1 << 256:
            raise ValueError("no count")
    return kept


def _total(kind: str, side: Side) -> Total:
    lines = sorted(f"{path}\t{setting}\t{count}\t{each}" for (path, setting), (count, each) in side.items() if each)
    return Total(
        kind,
        len(lines),
        sum(count for count, each in side.values() if each),
        sum(count * each for count, each in side.values()),
        sha256("\n".join(lines).encode()).hexdigest(),
    )


_NONE = Total("", 0, 0, 0, "")
