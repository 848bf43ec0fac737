"""The `specs` report: what is bundled."""

from __future__ import annotations

from archcalc.documents.document import Column, Report, Table
from archcalc.documents.params import params_quantities
from archcalc.files.loader import bundled_names, load_spec
from archcalc.workload import Workload

COLUMNS = (
    Column("path", "spec"),
    Column("title", "model"),
    Column("parameters", "parameters", "count"),
    Column("active", "active", "count"),
    Column("layers", "layers", "int"),
    Column("context", "context", "int"),
)


def specs_report() -> Report:
    """Every bundled spec with its name, title and sizes."""
    rows = []
    for name in bundled_names():
        spec = load_spec(name)
        found = params_quantities(spec.trace(Workload()))
        rows.append(
            {
                "path": name,
                "title": spec.title,
                "parameters": found["params.total"],
                "active": found["params.active"],
                "layers": spec.backbone.num_hidden_layers,
                "context": spec.backbone.max_position_embeddings,
            }
        )
    return Report(
        command="specs",
        title=f"{len(rows)} bundled specs",
        inputs={},
        quantities={},
        rows=Table("rows", "use a name wherever SPEC is asked for", COLUMNS, rows),
    )
