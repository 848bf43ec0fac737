"""Find, read and validate what a SPEC argument names: a spec of ours, or a release's config file read as one."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from archcalc.errors import AssumedSize
from archcalc.files import loader
from archcalc.files.document import Document
from archcalc.files.model import Spec
from archcalc.files.yaml_loader import load

if TYPE_CHECKING:
    from archcalc.hf.imported import Imported
    from archcalc.limits import Limit


def load_spec(argument: str) -> Spec:
    """A validated spec from a path, a bundled name, a `config.json`, a model folder, `hf:ORG/NAME`, or `-` for stdin.

    Raises:
        InputError: a file that can't be read.
        SpecError: a readable file that is no valid spec, or a config that is not read.
    """
    return load_located(argument)[0]


def load_located(argument: str) -> tuple[Spec, Document]:
    """A validated spec, and the document that knows where each part of it stands. Raises as `load_spec`."""
    document = document_of(argument)
    return loader.validate(document.data, document, Spec), document


def document_of(argument: str) -> Document:
    """What an argument names, not yet validated: a file of ours, or a release's config read as a spec. Raises
    InputError or SpecError."""
    document: Document | None = import_config(argument)
    if document is None:
        text, source = loader.text_of(argument)
        document = config_text(text, source) if is_config(text) else load(text, source)
    return document


def load_with_config(argument: str) -> tuple[Spec, dict[str, Any] | None]:
    """A validated spec, and the content of the config.json that it was read from, None for a spec of ours. Raises as
    `load_spec`."""
    spec, document = load_located(argument)
    config: Document | None = getattr(document, "config", None)
    return spec, None if config is None else config.data


def called(argument: str) -> str | None:
    """What the release that an argument names is called in a text that does not depend on where it was written; None
    where it names none."""
    if not _may_name_release(argument):
        return None
    from archcalc.hf.source import called

    return called(argument)


def import_config(argument: str) -> Imported | None:
    """A release's config read as a spec that is not yet validated; None for an argument that names no release.

    The network is touched for `hf:` alone.
    """
    if not _may_name_release(argument):
        return None
    from archcalc.hf.reader import read
    from archcalc.hf.source import source_of

    source = source_of(argument)
    return None if source is None or is_spec(source.config) else _told(read(source))


def _may_name_release(argument: str) -> bool:
    if loader.kept_alone():
        return False
    return argument.startswith("hf:") or argument.lower().endswith(".json") or os.path.isdir(argument)


def is_config(text: bytes) -> bool:
    """Whether a text that no name tells looks like a release's config."""
    return text.lstrip()[:1] == b"{" and b'"model_type"' in text


def is_spec(document: Document) -> bool:
    """Whether a JSON file holds one of our own files, which are YAML, as JSON is."""
    return "model_type" not in document.data and document.data.get("kind") in loader.KINDS


def config_text(
    text: bytes, source: str, path: str | None = None, beside: Callable[[str, Limit], bytes | None] | None = None
) -> Imported:
    """The text of a config file, wherever it comes from, read as a spec that is not yet validated.

    Args:
        text: the file.
        source: what errors call it.
        path: what names the model, if not `source`.
        beside: the text of a file around it, by its name and how large it may be; None for one that is not there.
    """
    from archcalc.hf import json_file
    from archcalc.hf.reader import read
    from archcalc.hf.source import FILES, INDEX, QUANT, alone

    around = {}
    for name in (QUANT, INDEX) if beside else ():
        content = beside(name, FILES[name]) if beside else None
        if content is not None:
            at = source.removesuffix(os.path.basename(source)) + name
            around[name] = json_file.load(content, at, limit=FILES[name])
    config = json_file.load(text, source)
    return _told(read(alone(config, path or source, quant=around.get(QUANT), index=around.get(INDEX))))


def _told(imported: Imported) -> Imported:
    """The same, with a warning about sizes that the public class supplied."""
    for text in imported.supplied:
        warnings.warn(f"{imported.source}: {text}", AssumedSize, stacklevel=3)
    return imported
