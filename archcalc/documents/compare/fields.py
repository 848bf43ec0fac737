"""Fields of two specs: which key says something else, and on which line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from archcalc.documents.compare.change import change
from archcalc.documents.compare.saved import is_number
from archcalc.errors import show_value
from archcalc.files.yaml_loader import Document, Loc

VIEW = ("spec", "depth", "top", "by", "base", "head")
"""Inputs of a saved report that name it or choose what is shown."""

Tree = Mapping[str, Any]
MISSING = object()


class FieldChange(NamedTuple):
    """A field that differs: where it is, what it was, what it is; MISSING on a side that has none."""

    loc: Loc
    before: Any
    after: Any


def spec_tree(dump: Mapping[str, Any]) -> Tree:
    """A spec's data, defaults written out, with claims under their own words: one more does not shift the others."""
    claims: dict[str, Any] = {}
    for claim in dump.get("claims", ()):
        name, n = claim["claim"], 2
        while name in claims:
            name, n = f"{claim['claim']} ({n})", n + 1
        claims[name] = {key: value for key, value in claim.items() if key != "claim"}
    return {**dump, "claims": claims}


def findings_tree(findings: Sequence[Mapping[str, Any]]) -> Tree:
    """Findings of a saved report by what each is about, so that a new verdict is a changed field."""
    named: dict[str, Any] = {}
    for finding in findings:
        words = [str(finding[key]) for key in ("claim", "limit", "kind", "path", "quantity") if finding.get(key)]
        name = " ".join(words[:2]) or f"finding {len(named) + 1}"
        plain = {key: value for key, value in finding.items() if not isinstance(value, list | dict)}
        named.setdefault(name, plain)
    return named


def field_changes(before: Tree, after: Tree, descriptive: Sequence[str]) -> list[FieldChange]:
    """Every field that differs, in the files' order, those that only describe last.

    A section that came or went as a whole is one.
    """
    found = [FieldChange(*each) for each in _walk(before, after, ())]
    return sorted(found, key=lambda change: not matters(change, descriptive))


def matters(change: FieldChange, descriptive: Sequence[str]) -> bool:
    """Whether a changed field does more than describe."""
    return not change.loc or change.loc[0] not in descriptive


def field_rows(
    changes: Sequence[FieldChange],
    descriptive: Sequence[str],
    base: Document | None = None,
    head: Document | None = None,
) -> list[dict[str, Any]]:
    """A row for each field that differs.

    `line` is the field's line in the head's file (of a field that went: the line of the section it stood in),
    `base_line` that in the base's.
    """
    rows = []
    for each in changes:
        loc, old, new = each
        kind = "added" if old is MISSING else "removed" if new is MISSING else "changed"
        old, new = (None if value is MISSING else value for value in (old, new))
        number = change(old, new) if is_number(old) and is_number(new) else change(None, None)._replace(delta=None)
        rows.append(
            {
                "field": field_name(loc),
                "change": kind,
                "matters": matters(each, descriptive),
                "line": _line(head, loc),
                "base_line": _line(base, loc),
                "before": _plain(old),
                "after": _plain(new),
                "delta": number.delta,
                "percent": number.percent,
            }
        )
    return rows


def field_name(loc: Loc) -> str:
    """A path into a spec for people: `backbone.layers[1].count`; words that are no plain key stand in quotes."""
    text = ""
    for part in loc:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part.replace("_", "").isalnum() and part.isascii():
            text += f".{part}"
        else:
            text += f"[{show_value(part)}]"
    return text.removeprefix(".")


def _walk(before: Any, after: Any, loc: Loc) -> Iterator[tuple[Loc, Any, Any]]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in dict.fromkeys((*after, *before)):
            yield from _walk(before.get(key, MISSING), after.get(key, MISSING), (*loc, key))
    elif _sections(before) and _sections(after):
        for n in range(max(len(before), len(after))):
            old = before[n] if n < len(before) else MISSING
            yield from _walk(old, after[n] if n < len(after) else MISSING, (*loc, n))
    elif _differ(before, after):
        yield loc, before, after


def _differ(before: Any, after: Any) -> bool:
    """Whether two values differ; a missing key says as much as null."""
    if before in (None, MISSING) or after in (None, MISSING):
        return not (before in (None, MISSING) and after in (None, MISSING))
    return bool(before != after) or isinstance(before, bool) != isinstance(after, bool)


def _plain(value: Any) -> Any:
    """A scalar or list as it is; of a section, only how much it holds, nulls left out."""
    return f"a section of {_leaves(value)} fields" if isinstance(value, Mapping) else value


def _leaves(value: Any) -> int:
    return sum(map(_leaves, value.values())) if isinstance(value, Mapping) else int(value is not None)


def _sections(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], Mapping)


def _line(document: Document | None, loc: Loc) -> int | None:
    """The line of a field, or of the nearest section around it."""
    if document is None:
        return None
    if loc[:1] == ("claims",) and len(loc) > 1:
        claims = document.data.get("claims") or []
        texts = [claim.get("claim") if isinstance(claim, dict) else None for claim in claims]
        loc = ("claims", texts.index(loc[1]), *loc[2:]) if loc[1] in texts else ("claims",)
    return document.position(loc, key=True)[0]
