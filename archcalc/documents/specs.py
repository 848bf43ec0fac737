"""The `specs` report: what is bundled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from archcalc.documents.document import Column, Report, Table
from archcalc.documents.kinds import BUNDLED, KINDS, content, given
from archcalc.documents.params import params_quantities
from archcalc.errors import InputError, did_you_mean, show_value
from archcalc.files.loader import NOUNS, bundled_names, load_spec
from archcalc.workload import Workload

COLUMNS: Mapping[str, tuple[Column, ...]] = {
    "spec": (
        Column("path", "spec"),
        Column("title", "model"),
        Column("parameters", "parameters", "count"),
        Column("active", "active", "count"),
        Column("layers", "layers", "int"),
        Column("context", "context", "int"),
    ),
    "plan": (
        Column("path", "plan"),
        Column("title", "what it is"),
        Column("gpus", "GPUs", "int"),
        Column("hardware", "of"),
        Column("stack", "stack"),
    ),
    "hardware": (
        Column("path", "GPU"),
        Column("title", "name"),
        Column("memory_visible_bytes", "visible memory", "bytes"),
        Column("memory_bandwidth", "bytes/s", "int"),
        Column("bfloat16_flops", "bfloat16 a second, dense", "flops"),
    ),
    "engine": (
        Column("path", "engine"),
        Column("title", "name"),
        Column("share_of", "takes a share of"),
        Column("utilization", "share", "number"),
        Column("block_size", "page, tokens", "int"),
    ),
    "stack": (
        Column("path", "stack"),
        Column("title", "name"),
    ),
}
"""What is shown of each kind."""

ASKED = {
    "spec": "SPEC is asked for",
    "plan": "--plan PLAN is asked for",
    "hardware": "--gpu is asked for, and under `hardware` in a plan",
    "engine": "--engine is asked for",
    "stack": "a plan has a `stack`",
}
"""Where a name can be used."""


def specs_report(kind: str = "spec") -> Report:
    """Every bundled file of a kind with its name, title and sizes. Raises InputError for a kind that has none."""
    if kind not in BUNDLED:
        hint = did_you_mean(kind, BUNDLED) or f"one of {', '.join(BUNDLED)}"
        raise InputError(f"no files of the kind {show_value(kind)} are bundled", value=kind, hint=hint)
    folder = KINDS[kind].folder or ""
    rows = [{"path": name, **_row(kind, name)} for name in bundled_names(folder)]
    return Report(
        command="specs",
        title=f"{len(rows)} bundled {NOUNS[folder]}s",
        inputs={"kind": kind},
        quantities={},
        rows=Table("rows", f"use a name wherever {ASKED[kind]}", COLUMNS[kind], rows),
    )


def _row(kind: str, name: str) -> dict[str, Any]:
    """What the columns of a kind say of one file."""
    if kind == "spec":
        return _spec(name)
    said = content(given(name, kind)).model_dump()
    if kind == "plan":
        said["gpus"] = said["parallel"]["world"]
    if kind == "hardware":
        said["bfloat16_flops"] = said["peak_flops"].get("bfloat16")
    return {column.key: said[column.key] for column in COLUMNS[kind] if column.key != "path"}


def _spec(name: str) -> dict[str, Any]:
    spec = load_spec(name)
    found = params_quantities(spec.trace(Workload()))
    return {
        "title": spec.title,
        "parameters": found["params.total"],
        "active": found["params.active"],
        "layers": spec.backbone.num_hidden_layers,
        "context": spec.backbone.max_position_embeddings,
    }
