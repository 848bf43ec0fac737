"""What a function may be handed as a spec, and the loaded spec."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from copy import deepcopy
from operator import index
from typing import TYPE_CHECKING, Any, TypeAlias

from archcalc.api.arguments import shown
from archcalc.api.report import Report
from archcalc.errors import InputError, Problem, Related
from archcalc.files.document import Document, Loc

if TYPE_CHECKING:
    from collections.abc import Sequence

    from archcalc.arch.decoder import Decoder
    from archcalc.arch.projector import Projection
    from archcalc.arch.vision import Vision
    from archcalc.files.model import Claim
    from archcalc.files.model import Spec as Model
    from archcalc.files.storage import Storage

SpecLike: TypeAlias = "str | os.PathLike[str] | Mapping[str, Any] | Spec"
"""What the command line takes (a path, a bundled name, a config.json, a model folder, hf:ORG/NAME), a path, a spec or a
config as plain data, or what `load` returned."""


class Spec:
    """A loaded spec: read once, and asked as often as you like.

    Attributes:
        name: its short name, `k25`.
        title: its name for people.
        source: the file that it was read from.
        sources: where the sizes of each section are from.
        assumed: what no source gives.
        backbone, vision, projector: the sizes by section, frozen; None for a section that there is none of.
        storage: how the release stores each weight.
        claims: what has been claimed about it.
        data: all of it as plain data of your own: change it, and hand it to any function.
        text: all of it as the text of a file.
        model, document: what the other modules of archcalc work on; they may change.
    """

    __slots__ = ("document", "model")

    def __init__(self, model: Model, document: Document) -> None:
        self.model = model
        self.document = document

    def __repr__(self) -> str:
        return f"<archcalc.Spec {self.name}: {self.title}>"

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def title(self) -> str:
        return self.model.title

    @property
    def source(self) -> str:
        return self.document.source

    @property
    def sources(self) -> Mapping[str, str]:
        return self.model.sources

    @property
    def assumed(self) -> Sequence[str]:
        return self.model.assumed

    @property
    def backbone(self) -> Decoder:
        return self.model.backbone

    @property
    def vision(self) -> Vision | None:
        return self.model.vision

    @property
    def projector(self) -> Projection | None:
        return self.model.projector

    @property
    def storage(self) -> Storage:
        return self.model.storage

    @property
    def claims(self) -> Sequence[Claim]:
        return self.model.claims

    @property
    def data(self) -> dict[str, Any]:
        return deepcopy(self.document.data)

    @property
    def text(self) -> str:
        return self.document.text


class ImportedSpec(Report):
    """What became of each key of a config: a report whose rows are the keys, with the spec that came out.

    Attributes:
        spec: the spec.
        text: its YAML, which `save("x.yaml")` writes.
    """

    __slots__ = ("spec",)

    def __init__(self, spec: Spec, receipt: Any) -> None:
        super().__init__(receipt)
        self.spec = spec

    @property
    def text(self) -> str:
        return self.spec.text

    def save(self, path: str | os.PathLike[str], *, units: str = "gib", assumptions: bool = False) -> None:
        """Write the spec to a .yaml file, or the report to any other. Raises InputError where it can't."""
        from pathlib import Path

        if os.fspath(path).endswith((".yaml", ".yml")):
            from archcalc.render.save import write

            write(Path(path), self.text.encode())
        else:
            super().save(path, units=units, assumptions=assumptions)


def load(spec: SpecLike) -> Spec:
    """Read and validate a spec.

    Args:
        spec: a path, a bundled name (`"k25"`), a config.json, a model folder, `"hf:ORG/NAME"`, or a mapping: a spec, or
            the content of a config.json, as plain data.

    Raises:
        InputError: nothing of that name, or a file that can't be read.
        SpecError: a readable file that is no valid spec, with the place of each error.
    """
    if isinstance(spec, Spec):
        return spec
    from archcalc.hf.spec import load_located

    if isinstance(spec, Mapping):
        return _of_data(spec)
    argument = os.fspath(spec) if isinstance(spec, os.PathLike) else spec
    if not isinstance(argument, str):
        hint = "give a path, a name, a mapping, or what archcalc.load returned"
        raise InputError(f"{shown(spec)} is no spec", source="spec", value=spec, hint=hint)
    return Spec(*load_located(argument))


def import_config(source: str | os.PathLike[str] | Mapping[str, Any]) -> ImportedSpec:
    """Read a Hugging Face config.json as a spec: the command `import`.

    Args:
        source: a config.json, a model folder, `"hf:ORG/NAME[@REV]"`, or the content of a config.json.

    Returns:
        A report with a row for each key of the config (`path`, `value`, `became`, and `default` where the model's class
        supplies it), its `spec`, and the spec's YAML as `text`.

    Raises:
        InputError: what names no release, or can't be had.
        SpecError: a config with a key that could change a number and that is not understood.
    """
    from archcalc.documents.importing import imported, receipt
    from archcalc.files.loader import validate
    from archcalc.files.model import Spec as Model

    if isinstance(source, Mapping):
        document = _config(source)
    else:
        argument = os.fspath(source) if isinstance(source, os.PathLike) else source
        if not isinstance(argument, str):
            raise InputError(f"{shown(source)} is no config", source="source", value=source)
        document = imported(argument)
    return ImportedSpec(Spec(validate(document.data, document, Model), document), receipt(document))


# -- plain data -------------------------------------------------------------------------------------------------------


class Given(Document):
    """Plain data that stands in no file: errors name the path of a value."""

    __slots__ = ()

    def problem(
        self,
        message: str,
        loc: Loc = (),
        *,
        key: bool = False,
        value: object = None,
        hint: str | None = None,
        related: Iterable[tuple[Loc, str]] = (),
    ) -> Problem:
        places = tuple(Related(text, self._path(other)) for other, text in related)
        return Problem(message, self._path(loc), value=value, hint=hint, related=places)

    def _path(self, loc: Loc) -> str:
        return ".".join(filter(None, [self.source, self.name(loc)]))


def _of_data(data: Mapping[str, Any]) -> Spec:
    """A spec that was handed in as plain data, or a config."""
    from archcalc.files.loader import validate
    from archcalc.files.model import Spec as Model

    document = _config(data) if "model_type" in data and "kind" not in data else _given(data)
    return Spec(validate(document.data, document, Model), document)


def _given(data: Mapping[str, Any]) -> Document:
    text = _as_json(data)
    return Given(json.loads(text), text, "spec", {}, (1, 1))


def _config(data: Mapping[str, Any]) -> Any:
    from archcalc.hf.spec import config_text

    return config_text(_as_json(data).encode(), "<config>")


def _integer(value: Any) -> int:
    """A whole number of another library. Raises TypeError for what is none."""
    if hasattr(value, "__index__"):
        return index(value)
    raise TypeError(f"a {type(value).__name__} is in it")


def _as_json(data: Mapping[str, Any]) -> str:
    """Plain data as text. Raises InputError for what no file could hold."""
    try:
        return json.dumps(dict(data), indent=1, allow_nan=False, default=_integer)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"this is no plain data: {error}", source="spec", hint="use what a YAML file holds") from None
