"""docs/reference/: every key of a kind of file in words, made of its schema. As a program it writes both for all."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel

from archcalc.documents.kinds import BUNDLED, models
from archcalc.files.schema import schema_of, schema_text

HEAD = """\
# Every key of a {kind} file

{about}.

An unknown key is an error with its line, and so is a missing one that is *needed*: all others have a default. Editors
show the same words from `schema/{kind}.schema.json`.{start}

This page is generated: `make schema`.
"""

START = """ `archcalc show NAME --kind {kind} -o mine.yaml` writes a bundled file to start from,
with its schema beside it; `archcalc specs --kind {kind}` lists them."""

_UNIT = re.compile(r"\s*\[([^\[\]]+)\]$")
_TELLING = ("kind", "scheme")
"""Keys whose one value tells which of several sections stands at a place."""


class Place(NamedTuple):
    """A section of a file: where it stands (the first place leads), and its schema."""

    paths: list[str]
    node: Mapping[str, Any]

    @property
    def told(self) -> str:
        """The value of the key that tells it from others at its place."""
        if self.paths == [""]:
            return ""
        keys = (self.node["properties"].get(key, {}) for key in _TELLING)
        return next((_or(map(_code, _closed(key))) for key in keys if _closed(key)), "")

    @property
    def heading(self) -> str:
        """What the page calls it."""
        where = _code(self.paths[0]) if self.paths[0] else "The file"
        return f"{where}: {self.told}" if self.told else where

    @property
    def link(self) -> str:
        """A link to it, as GitHub makes anchors."""
        slug = re.sub(r"[^\w\- ]", "", self.heading.lower()).replace(" ", "-")
        return f"[{self.told or _code(self.paths[0].rpartition('.')[2])}](#{slug})"


Places = dict[str, Place]
"""Sections by the name of their definition, in the order of the page."""


def reference(kind: str, known: Mapping[str, type[BaseModel]]) -> str:
    """The page of a kind as Markdown. Raises InputError for an unknown kind."""
    schema = schema_of(kind, known)
    places: Places = {"": Place([""], schema)}
    _find(schema, "", schema["definitions"], places)
    start = START.format(kind=kind) if kind in BUNDLED else ""
    head = HEAD.format(kind=kind, about=schema["description"], start=start)
    return head + "".join(_section(place, places) for place in places.values())


def _find(section: Mapping[str, Any], path: str, definitions: Mapping[str, Any], places: Places) -> None:
    """Note every section below one, each with all its places; what holds itself is followed once."""
    for key, node in section["properties"].items():
        for where, name in _refs(node, f"{path}.{key}".removeprefix(".")):
            if name in places:
                places[name].paths.append(where)
            else:
                places[name] = Place([where], definitions[name])
                _find(definitions[name], where, definitions, places)


def _refs(node: Mapping[str, Any], path: str) -> Iterator[tuple[str, str]]:
    """(path, name) of each definition that a value may be."""
    if "$ref" in node:
        yield path, node["$ref"].rpartition("/")[2]
    for word in ("allOf", "anyOf", "oneOf"):
        for member in node.get(word, ()):
            yield from _refs(member, path)
    if "items" in node:
        yield from _refs(node["items"], f"{path}[]")
    if isinstance(node.get("additionalProperties"), dict):
        yield from _refs(node["additionalProperties"], f"{path}.NAME")


def _section(place: Place, places: Places) -> str:
    node, more = place.node, [path for path in dict.fromkeys(place.paths[1:]) if not path.startswith(place.paths[0])]
    lines = [f"\n## {place.heading}\n"]
    if place.paths != [""]:
        lines.append(node["description"] + "." + (f" Also at {', '.join(map(_code, more))}." if more else "") + "\n")
    lines += ["| key | type | default | unit | what it means |", "|---|---|---|---|---|"]
    for key, value in node["properties"].items():
        about = value["description"]
        unit = _UNIT.search(about)
        cells = (
            _code(key),
            _type(value, places),
            "*needed*" if key in node.get("required", ()) else _default(value),
            unit[1] if unit else "",
            _UNIT.sub("", about),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _code(value: Any) -> str:
    return f"`{value}`"


def _or(words: Iterable[str]) -> str:
    """`a`, `b` or `c`."""
    *most, last = dict.fromkeys(words)
    return f"{', '.join(most)} or {last}" if most else last


def _closed(node: Mapping[str, Any]) -> list[Any]:
    """The values of a closed list; none where others are allowed."""
    found: list[Any] = node.get("enum", [node["const"]] if "const" in node else [])
    return found


def _default(node: Mapping[str, Any]) -> str:
    default = node.get("default")
    if default is None:
        return "none"
    return _code(json.dumps(default).strip('"')) if default != "" else "empty"


def _type(node: Mapping[str, Any], places: Places) -> str:
    """What a value may be, in words."""
    return _or(_types(node, places))


def _types(node: Mapping[str, Any], places: Places) -> Iterator[str]:
    """What a value may be, one thing at a time."""
    members = [member for word in ("allOf", "anyOf", "oneOf") for member in node.get(word, ())]
    for member in members:
        yield from _types(member, places)
    if "$ref" in node:
        yield places[node["$ref"].rpartition("/")[2]].link
    elif _closed(node):
        yield from map(_code, _closed(node))
    elif node.get("type") == "array":
        yield _list(node, places)
    elif node.get("type") == "object":
        names = _closed(node.get("propertyNames", {}))
        by = f"under {_or(map(_code, names))}" if names else "by name"
        yield f"{_type(node['additionalProperties'], places)}, {by}"
    elif node.get("type") == "boolean":
        yield from ("true", "false")
    elif "type" in node:
        yield {"string": "text"}.get(node["type"]) or f"{node['type']}{_bounds(node)}"


def _list(node: Mapping[str, Any], places: Places) -> str:
    least, most = node.get("minItems"), node.get("maxItems")
    many = f" of {most}" if least == most is not None else ""
    return f"list{many}: {_type(node['items'], places)}"


def _bounds(node: Mapping[str, Any]) -> str:
    """The numbers that are allowed; a bound against slips of the finger is none."""
    words = {"exclusiveMinimum": "above", "minimum": "from", "exclusiveMaximum": "below", "maximum": "to"}
    return "".join(f" {word} {node[key]:g}" for key, word in words.items() if key in node and node[key] < 10_000)


if __name__ == "__main__":
    from pathlib import Path

    for kind, model in models().items():
        Path(f"schema/{kind}.schema.json").write_text(schema_text(kind, {kind: model}), encoding="utf-8")
        Path(f"docs/reference/{kind}.md").write_text(reference(kind, {kind: model}), encoding="utf-8")
