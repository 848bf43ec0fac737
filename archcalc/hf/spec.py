"""Find, read and validate what a SPEC argument names: a spec of ours, or a release's config file read as one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from archcalc.files import loader
from archcalc.files.document import Document
from archcalc.files.model import Spec

if TYPE_CHECKING:
    from archcalc.hf.imported import Imported


def load_spec(argument: str) -> Spec:
    """A validated spec from a path, a bundled name, a `config.json`, a model folder, `hf:ORG/NAME`, or `-` for stdin.

    Raises:
        InputError: a file that can't be read.
        SpecError: a readable file that is no valid spec, or a config that is not read.
    """
    return load_located(argument)[0]


def load_located(argument: str) -> tuple[Spec, Document]:
    """A validated spec, and the document that knows where each part of it stands. Raises as `load_spec`."""
    document = import_config(argument)
    if document is None:
        return loader.load_located(argument)
    return loader.validate(document.data, document, Spec), document


def load_with_config(argument: str) -> tuple[Spec, dict[str, Any] | None]:
    """A validated spec, and the content of the config.json that it was read from, None for a spec of ours. Raises as
    `load_spec`."""
    spec, document = load_located(argument)
    config: Document | None = getattr(document, "config", None)
    return spec, None if config is None else config.data


def import_config(argument: str) -> Imported | None:
    """A release's config read as a spec that is not yet validated; None for an argument that names no release.

    The network is touched for `hf:` alone.
    """
    if not argument.startswith("hf:") and not argument.lower().endswith(".json") and not os.path.isdir(argument):
        return None
    from archcalc.hf.reader import read
    from archcalc.hf.source import source_of

    source = source_of(argument)
    return None if source is None else read(source)


def config_text(text: bytes, name: str) -> Imported:
    """The text of a config file, wherever it comes from, read as a spec that is not yet validated."""
    from archcalc.hf import json_file
    from archcalc.hf.reader import read
    from archcalc.hf.source import Source

    document = json_file.load(text, name)
    stem = os.path.basename(os.path.dirname(name) if os.path.basename(name) == "config.json" else name)
    return read(Source(config=document, quant=None, index=None, name=stem.removesuffix(".json") or "model", where=name))
