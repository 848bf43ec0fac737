"""A spec in, the `config.json` of a public class out: the reader's tables backwards, then forwards again as a check.

What comes out describes the spec if the reader makes the same of it. So nothing here has to be believed: a dialect that
drops or changes a field is no candidate.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from archcalc.arch.decoder import Decoder
from archcalc.arch.layers import LayerKind, Layers, Step
from archcalc.errors import InputError, SpecError
from archcalc.files.model import Spec
from archcalc.hf.config import frozen, show
from archcalc.hf.dialect import Dialect, Fixed, Key, Layer, Multimodal, Rule, Table
from archcalc.hf.draft import Clash, Draft
from archcalc.hf.families.registry import MULTIMODAL, TEXT
from archcalc.hf.likeness import LAYOUT, UNHELD, around, differences, forward, without

TOKENS = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
"""Ids that no spec has: a class's own may be beyond the spec's vocabulary, which it refuses."""

UNREAD = "a config that is read"

Blocks = Mapping[str, Mapping[str, str]]
"""By section, for each block of the spec the block of the dialect."""


def config_of(spec: Spec) -> dict[str, Any]:
    """The config of the first public class that is this architecture.

    Raises:
        InputError: no class is; the message names the nearest one and the first field that it has not.
    """
    nearest: tuple[int, str, Clash] | None = None
    for row in _classes(spec):
        config, clashes = config_as(row, spec)
        if not clashes:
            return config
        far = sum(_weight(clash) for clash in clashes)
        if nearest is None or far < nearest[0]:
            nearest = far, row.model_type, clashes[0]
    if nearest is None:
        raise InputError("transformers has no class that takes pictures like this")
    _, model_type, (field, value, other) = nearest
    raise InputError(
        f"transformers has no class that has {field} {_said(value)}: the nearest, {class_of(model_type)}, has"
        f" {_said(other)}"
    )


def class_of(model_type: str) -> str:
    """The public class that is built for a model type; empty where there is none."""
    row = frozen()["types"].get(model_type, {})
    return str(row.get("image_text") or row.get("causal") or "")


def _classes(spec: Spec) -> Iterator[Dialect | Multimodal]:
    """The dialects of public classes, with a tower where the spec has one."""
    rows: Iterable[Dialect | Multimodal] = TEXT.values() if spec.vision is None else MULTIMODAL.values()
    return (row for row in rows if class_of(row.model_type))


def _said(value: Any) -> str:
    return show(value) if value is None or isinstance(value, bool | int | float | str | list | dict) else str(value)


def _weight(clash: Clash) -> int:
    """A block of another kind is further away than a field of the same."""
    return {UNREAD: 1000, "kind": 100, "layers": 3}.get(clash.field.rpartition(".")[2], 1)


def config_as(row: Dialect | Multimodal, spec: Spec) -> tuple[dict[str, Any], list[Clash]]:
    """The config of one dialect for a spec, and the fields that it has not; none if the class is the architecture."""
    config, clashes = _written(row, spec)
    return config, clashes or list(_lost(spec, config))


# -- writing ----------------------------------------------------------------------------------------------------------


def _written(row: Dialect | Multimodal, spec: Spec) -> tuple[dict[str, Any], list[Clash]]:
    """The keys that the dialect would need, and the fields that it has none for."""
    top = Draft()
    if isinstance(row, Dialect):
        _backbone(row, spec.backbone, top)
        return {"model_type": row.model_type, **TOKENS, **top.data}, top.clashes
    text, vision = Draft(top), Draft(top)
    _backbone(row.text, spec.backbone, text)
    for name, table in (("vision", row.vision), ("projector", row.projector)):
        section = getattr(spec, name)
        _fields(table, section.model_dump(), section.model_dump(exclude_defaults=True), vision, name)
    config = {
        "model_type": row.model_type,
        "tie_word_embeddings": text.data.pop("tie_word_embeddings", False),
        **top.data,
        "text_config": {"model_type": row.text.model_type, **TOKENS, **text.data},
        "vision_config": {"model_type": row.vision_type, **vision.data},
    }
    return config, top.clashes


def _backbone(row: Dialect, backbone: Decoder, draft: Draft) -> None:
    plain, said = without(backbone, LAYOUT), without(backbone, LAYOUT, exclude_defaults=True)
    blocks = {side: _chosen(side, row, backbone) for side in ("attention", "ffn")}
    plain["rotary_half"] = next((half for half in map(_half, backbone.attention.values()) if half), 0)
    table = {name: source for name, source in row.backbone.items() if name not in LAYOUT}
    _fields(table, plain, said, draft, "backbone")
    for side, chosen in blocks.items():
        for name, kind in chosen.items():
            _block(side, name, getattr(row, side)[kind], backbone, draft)
    draft.field = "backbone.layers"
    layers = [_layer(kind, blocks, backbone, row.norm_names) for kind in backbone.kinds()]
    whole = [layer for layer in layers if layer is not None]
    if len(whole) < len(layers):
        draft.clash("steps of their own", "attention, then a feed-forward")
    else:
        row.layers.write(draft, whole)


def _half(block: Any) -> int:
    """Pairs of features of a head."""
    return int(getattr(block, "head_dim", 0)) // 2


def _chosen(side: str, row: Dialect, backbone: Decoder) -> dict[str, str]:
    """For each block of the spec the block of the dialect that holds most of it."""
    tables: Mapping[str, Table] = getattr(row, side)
    found = {}
    for name in getattr(backbone, side):
        far = {}
        for kind, table in tables.items():
            scratch = Draft()
            _block(side, name, table, backbone, scratch)
            far[kind] = sum(_weight(clash) for clash in scratch.clashes)
        found[name] = min(far, key=lambda kind: far[kind])
    return found


def _block(side: str, name: str, table: Table, backbone: Decoder, draft: Draft) -> None:
    block = getattr(backbone, side)[name]
    values, said = block.model_dump(), block.model_dump(exclude_defaults=True)
    if "rope_parameters" in values:
        own = values["rope_parameters"] = values["rope_parameters"] or around(backbone)
        if own == around(backbone):
            said.pop("rope_parameters", None)
    _fields(table, values, said, draft, f"backbone.{side}.{name}")


def _fields(table: Table, values: Mapping[str, Any], said: Mapping[str, Any], draft: Draft, where: str) -> None:
    """A section's fields by their sources. `said` are those that are not at their default: each needs a source."""
    for name, source in table.items():
        value = values.get(name)
        draft.values, draft.field = values, f"{where}.{name}"
        if name in UNHELD:
            continue
        if name not in values:
            draft.clash(None, "one")
        elif isinstance(source, Fixed):
            if value != source.value:
                draft.clash(value, source.value)
        elif isinstance(source, str | Key):
            draft.put(source if isinstance(source, str) else source.name, value)
        elif isinstance(source, Rule):
            if source.write is not None:
                source.write(draft, value)
        elif isinstance(value, Mapping):
            _fields(source, value, {}, draft, draft.field)
        else:
            draft.clash(value, "one")
    for name, value in said.items():
        if name not in table and name not in UNHELD:
            draft.field = f"{where}.{name}"
            draft.clash(value, "none")


def _layer(kind: LayerKind, blocks: Blocks, backbone: Decoder, norms: Mapping[str, Any]) -> Layer | None:
    """A layer by the dialect's names; None where its steps are not the usual two, with the dialect's norms."""
    if [step.section for step in kind] != ["attention", "ffn"]:
        return None
    scope = kind[0].scope
    steps = [
        Step(attention=kind[0].mixer, scope=scope, **norms.get("attention", {})),
        Step(ffn=kind[1].mixer, **norms.get("ffn", {})),
    ]
    if Layers(count=1, steps=steps).kind(backbone.norm, backbone.norm_placement) != kind:
        return None
    attention, ffn = (blocks[step.section][step.mixer] for step in kind)
    return Layer(attention, ffn, "" if scope == "self_attn" else scope)


def _lost(spec: Spec, config: dict[str, Any]) -> Iterator[Clash]:
    """The fields that the reader makes another thing of."""
    try:
        again = forward(config)
    except SpecError as error:
        yield Clash(UNREAD, str(error), f"none for {config['model_type']}")
        return
    yield from differences(spec, again)
