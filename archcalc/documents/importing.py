"""The `import` command: a release's config as a spec, and the receipt of it."""

from __future__ import annotations

from archcalc.documents.document import Column, Report, Table
from archcalc.errors import InputError
from archcalc.files.loader import validate
from archcalc.files.model import Spec
from archcalc.hf.config import show
from archcalc.hf.imported import Imported
from archcalc.hf.spec import import_config

COLUMNS = (Column("path", "key"), Column("value", "value"), Column("became", "what became of it"))


def imported(argument: str) -> Imported:
    """The spec of a release, valid. Raises InputError for what names no release, SpecError for a config that is not
    read."""
    document = import_config(argument)
    if document is None:
        raise InputError(
            f"{argument} is no config.json, no model folder and no hf:ORG/NAME",
            value=argument,
            hint=f"did you mean hf:{argument}?" if argument.count("/") == 1 else "give a path to a config.json",
        )
    validate(document.data, document, Spec)
    return document


def receipt(document: Imported) -> Report:
    """What became of each key of the config, and what the model's class supplied."""
    rows = [
        {
            "path": row.key,
            "value": "" if row.default else show(row.value),
            "became": row.became,
            "default": row.default,
        }
        for row in document.receipt
    ]
    supplied = sum(row.default for row in document.receipt)
    return Report(
        command="import",
        title=f"{document.data['title']}: what became of each key",
        inputs={"spec": document.data["name"]},
        quantities={},
        rows=Table("rows", "keys of the config, then what its class supplies", COLUMNS, rows),
        notes=[*document.notes, f"{len(rows) - supplied} keys; {supplied} values are defaults of the public class."],
    )
