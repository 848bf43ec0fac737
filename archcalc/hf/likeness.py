"""Whether two specs are one architecture, however they name their blocks; and what a config says as a spec."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from archcalc.arch.decoder import Decoder
from archcalc.arch.layers import LayerKind
from archcalc.files.loader import validate
from archcalc.files.model import Spec
from archcalc.hf import json_file
from archcalc.hf.draft import Clash
from archcalc.hf.reader import read
from archcalc.hf.source import Source

UNHELD = frozenset(
    {
        "dtype",
        "processor",
        "in_patch_limit",
        "in_patch_limit_each_frame",
        "patch_limit_on_one_side",
        "temporal_merge_kernel_size",
        "mtp_stored",
    }
)
"""Fields that no class of a model has: the dtype of its weights, a processor's limits, what a release holds."""

LAYOUT = frozenset({"layers", "attention", "ffn", "mtp_layer"})
"""Fields of the backbone that are compared layer by layer."""


def forward(config: dict[str, Any]) -> Spec:
    """The spec of a config, valid. Raises SpecError."""
    document = json_file.load(json.dumps(config), "config.json")
    imported = read(Source(config=document, quant=None, index=None, name="model", where="config.json"))
    return validate(imported.data, imported, Spec)


def differences(spec: Spec, other: Spec) -> Iterator[Clash]:
    """The fields of an architecture that another spec has otherwise, names of blocks and places in files aside."""
    mine, theirs = spec.backbone, other.backbone
    yield from _unequal(without(mine, LAYOUT), without(theirs, LAYOUT), "backbone")
    layers = [*zip(mine.kinds(), theirs.kinds(), strict=False)]
    if mine.num_nextn_predict_layers:
        layers.append((_predicted(mine), _predicted(theirs)))
    for a, b in dict.fromkeys(layers):
        yield from _unlike(layers.index((a, b)), (a, b), mine, theirs)
    for name in ("vision", "projector"):
        a_part, b_part = values_of(getattr(spec, name)) or {}, values_of(getattr(other, name)) or {}
        yield from _unequal(a_part, b_part, name)


def _predicted(backbone: Decoder) -> LayerKind:
    own = backbone.mtp_layer
    return backbone.kinds()[-1] if own is None else own.kind(backbone.norm, backbone.norm_placement)


def _unlike(place: int, pair: tuple[LayerKind, LayerKind], mine: Decoder, theirs: Decoder) -> Iterator[Clash]:
    """Two layers at a place, by what their blocks hold."""
    a, b = pair
    if [step._replace(mixer="") for step in a] != [step._replace(mixer="") for step in b]:
        yield Clash("backbone.layers", _steps(a), _steps(b))
        return
    for one, two in zip(a, b, strict=True):
        blocks = _effective(mine, one.section, one.mixer), _effective(theirs, two.section, two.mixer)
        if blocks[0]["kind"] != blocks[1]["kind"]:
            words = [f"{block['kind']} in layer {place}" for block in blocks]
            yield Clash("backbone.layers", *words)
            return
        yield from _unequal(*blocks, f"backbone.{one.section}.{one.mixer}")


def _steps(kind: Sequence[Any]) -> str:
    return ", ".join(f"{step.input_norm or '-'} {step.scope} {step.output_norm or '-'}" for step in kind)


def _effective(backbone: Decoder, side: str, name: str) -> dict[str, Any]:
    """A block's fields, without a rotary embedding of its own that is the backbone's."""
    values: dict[str, Any] = getattr(backbone, side)[name].model_dump()
    if values.get("rope_parameters") == around(backbone):
        values["rope_parameters"] = None
    return values


def _unequal(mine: Mapping[str, Any], theirs: Mapping[str, Any], where: str) -> Iterator[Clash]:
    for name in dict.fromkeys((*mine, *theirs)):
        a, b = mine.get(name), theirs.get(name)
        if a != b and name not in UNHELD:
            yield Clash(f"{where}.{name}", a, b)


def around(backbone: Decoder) -> dict[str, Any]:
    """The backbone's rotary embedding, as that of a block is written."""
    return {"rope_theta": backbone.rope_theta, "rope_scaling": values_of(backbone.rope_scaling)}


def without(section: Any, names: frozenset[str], **options: Any) -> dict[str, Any]:
    """The plain data of a section but for some fields; `options` are `model_dump`'s."""
    return {name: value for name, value in section.model_dump(**options).items() if name not in names}


def values_of(section: Any) -> Any:
    """The plain data of a section that may be missing."""
    return None if section is None else section.model_dump()
