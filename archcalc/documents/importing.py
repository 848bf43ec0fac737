"""The `import` command: a release's config as a spec, and the receipt of it."""

from __future__ import annotations

import re

from archcalc.documents.document import Column, Report, Table
from archcalc.errors import InputError
from archcalc.files.identity import identity
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
            hint = _other_file(text, source) or "a model's config is JSON, and has model_type"
            raise InputError("this is no config.json of a model", source=source, value=argument, hint=hint)
        document = config_text(text, source)
    validate(document.data, document, Spec)
    return document


def _other_file(text: bytes, source: str) -> str | None:
    """What takes one of our files; None for a text that does not say that it is one."""
    kind = re.search(rb"^\W*kind\W+(\w*)", text, re.MULTILINE)
    if kind is None:
        return None
    found = identity({"kind": kind[1].decode("ascii", "replace")}, source)
    return "archcalc show prints a spec" if found is None or kind[1] == b"spec" else found.hint


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
