"""The `import` command: a release's config as a spec, and the receipt of it."""

from __future__ import annotations

import re

from archcalc.documents.document import Column, Report, Table
from archcalc.errors import InputError
from archcalc.files.loader import text_of, validate
from archcalc.files.model import Spec
from archcalc.hf.config import show
from archcalc.hf.imported import Imported
from archcalc.hf.spec import config_text, import_config, is_config

COLUMNS = (Column("path", "key"), Column("value", "value"), Column("became", "what became of it"))


def imported(argument: str) -> Imported:
    """The spec of a release, valid. Raises InputError for what names no release, SpecError for a config that is not
    read."""
    document = import_config(argument)
    if document is None:
        text, source = text_of(argument)
        if not is_config(text):
            hint = "archcalc show prints a spec" if _is_ours(text) else "a model's config is JSON, and has model_type"
            raise InputError("this is no config.json of a model", source=source, value=argument, hint=hint)
        document = config_text(text, source)
    validate(document.data, document, Spec)
    return document


def _is_ours(text: bytes) -> bool:
    """Whether a text says that it is one of our files."""
    return re.search(rb"^\W*kind\W", text, re.MULTILINE) is not None


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
    keys = len(rows) - supplied
    return Report(
        command="import",
        title=f"{document.data['title']}: {keys} keys, all known; {supplied} values are defaults of the public class",
        inputs={"spec": document.data["name"]},
        quantities={},
        rows=Table("rows", "keys of the config, then what its class supplies", COLUMNS, rows),
        notes=document.notes,
    )
