"""The first section of a report: what the model is, in parts, layers, sizes and sources."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from archcalc.arch.layers import LayerKind
from archcalc.documents.document import Column, Report, Table
from archcalc.documents.params import params_quantities
from archcalc.documents.paths import ranges
from archcalc.errors import show_value
from archcalc.files.model import Spec
from archcalc.files.storage import Storage
from archcalc.workload import Workload

PARTS = (
    Column("part", "part"),
    Column("what", "what it is"),
    Column("parameters", "parameters", "count"),
    Column("share", "share", "share"),
)
LAYERS = (
    Column("layers", "layers"),
    Column("count", "how many", "int"),
    Column("attention", "attention"),
    Column("ffn", "feed-forward"),
)
SIZES = (Column("field", "field"), Column("value", "value"))
SOURCES = (Column("section", "section"), Column("source", "source"))

NO_SIZE = frozenset({"layers", "kind"})
"""Keys that other tables show."""


def model_report(spec: Spec) -> Report:
    """Parts with their parameters, layer patterns, every size of the spec, and where they come from."""
    sources = [{"path": name, "section": name, "source": text} for name, text in spec.sources.items()]
    return Report(
        command="show",
        title=spec.title,
        inputs={"spec": spec.name},
        quantities={},
        rows=Table("rows", "parts", PARTS, _parts(spec)),
        tables=[
            Table("layers", "layers", LAYERS, _layers(spec)),
            Table("sizes", "sizes", SIZES, list(_sizes(spec))),
            Table("sources", "sources", SOURCES, sources),
        ],
    )


def _parts(spec: Spec) -> list[dict[str, Any]]:
    found = params_quantities(spec.trace(Workload()))
    total = int(found["params.total"])
    blocks = {
        "backbone": spec.backbone,
        "vision": spec.vision,
        "projector": spec.projector,
    }
    rows: list[dict[str, Any]] = [
        {
            "path": name,
            "part": name,
            "what": _first_sentence(block.__doc__ or ""),
            "parameters": found[f"params.{name}"],
            "share": found[f"params.{name}"] / total,
        }
        for name, block in blocks.items()
        if block is not None
    ]
    if found["params.mtp"]:
        words = "Multi-token prediction, apart from the total."
        rows.append({"path": "mtp", "part": "mtp", "what": words, "parameters": found["params.mtp"], "share": None})
    return rows


def _first_sentence(text: str) -> str:
    whole = " ".join(text.split())
    return whole.partition(". ")[0].rstrip(".") + "."


def _layers(spec: Spec) -> list[dict[str, Any]]:
    return [
        {
            "path": f"layers.{ranges(indices)}",
            "layers": ranges(indices),
            "count": len(indices),
            "attention": _kinds(kind, "attention", spec.backbone.attention),
            "ffn": _kinds(kind, "ffn", spec.backbone.ffn),
        }
        for kind, indices in spec.backbone.runs().items()
    ]


def _kinds(layer: LayerKind, section: str, blocks: Mapping[str, Any]) -> str:
    """The mixers of a layer that stand in one section."""
    return ", ".join(_kind(step.mixer, blocks[step.mixer]) for step in layer if step.section == section)


def _kind(name: str, block: Any) -> str:
    """A section's kind, and its name where that is another."""
    return str(block.kind) if name == block.kind else f"{name} ({block.kind})"


def _sizes(spec: Spec) -> Iterator[dict[str, Any]]:
    """Every value of the blocks, by its place in the spec; nothing that is null."""
    for part in ("backbone", "vision", "projector", "storage"):
        block = getattr(spec, part)
        if block is not None:
            yield from _flat(block.model_dump() if part != "storage" else _stored(spec.storage), part)


def _stored(storage: Storage) -> Mapping[str, Any]:
    """Schemes by what they are for: a role, or what a rule matches."""
    if isinstance(storage, Mapping):
        return {str(role): scheme.model_dump() for role, scheme in storage.items()}
    return {rule.match: rule.store.model_dump() for rule in storage}


def _flat(values: Mapping[str, Any], prefix: str) -> Iterator[dict[str, Any]]:
    for key, value in values.items():
        path = f"{prefix}.{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, path)
        elif value is not None and key not in NO_SIZE:
            yield {"path": path, "field": path, "value": _shown(value)}


def _shown(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_shown(item) for item in value)
    return value if isinstance(value, str) else f"{value:,}" if type(value) is int else show_value(value)
