"""A `config.json` in, a spec out: which dialect, its tables filled, what is left over judged."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from archcalc.errors import InputError, SpecError, did_you_mean
from archcalc.files.document import Document, Loc
from archcalc.files.identity import identity
from archcalc.files.loader import validate
from archcalc.files.model import Spec
from archcalc.hf import prediction
from archcalc.hf.config import Config, Said, facts_of, show
from archcalc.hf.dialect import Dialect, Multimodal, Rule, fill
from archcalc.hf.families.registry import ENCODERS, MISSING, MULTIMODAL, TEXT
from archcalc.hf.fold import folded
from archcalc.hf.imported import Became, Imported
from archcalc.hf.quant import Found, quantization, storage
from archcalc.hf.source import QUANT, Source
from archcalc.hf.unread import judge
from archcalc.tape import Weight
from archcalc.workload import Workload


def read(source: Source) -> Imported:
    """The spec that a release's config file describes.

    Raises:
        SpecError: a type that is not read, a key that is missing or could change a size, with its place in the file.
    """
    document, name = source.config, source.name.encode(errors="replace").decode()  # of bytes that are no UTF-8
    where = f"{source.where} config.json" if source.where.startswith("hf:") else f"config.json of {name}"
    row = dialect_of(document)
    top = Config(document, (), facts_of(row.class_type or row.model_type))
    top.taken["model_type"] = "the dialect"
    if isinstance(row, Multimodal):
        return _multimodal(row, top, source, name, where)
    said = _head(name, where, config=("backbone", "storage"))
    said["backbone"] = backbone(row, top)
    _refuse(judge(top, row.must, row.harmless))
    return _finish(said, [top], row, source, [])


def dialect_of(document: Document) -> Dialect | Multimodal:
    """The row of a config's `model_type`. Raises SpecError naming the type and what is missing for it."""
    model_type = document.data.get("model_type")
    found = identity(document.data, document.source) if model_type is None else None
    if found is not None:
        raise _error(document, f"this is {found.what}: model_type is missing", (), found.hint)
    if not isinstance(model_type, str):
        what = "is missing" if model_type is None else f"must be text, not {show(model_type)}"
        hint = "a config.json of a Hugging Face model has one, such as llama"
        raise _error(document, f"model_type {what}", ("model_type",), hint)
    row = TEXT.get(model_type) or MULTIMODAL.get(model_type)
    if row is None:
        raise _error(document, *_unread(model_type))
    if row.architectures:
        named = document.data.get("architectures")
        if not isinstance(named, list) or not set(row.architectures) & set(map(str, named)):
            classes = " or ".join(row.architectures)
            message = f"model_type {show(model_type)} has no public class, and architectures does not name {classes}"
            raise _error(document, message, ("architectures",), None)
    return row


def _unread(model_type: str) -> tuple[str, Loc, str | None]:
    if model_type in ENCODERS:
        return f"model_type {show(model_type)} is an encoder: archcalc reads decoders", ("model_type",), None
    if model_type in MISSING:
        return f"model_type {show(model_type)} is not read: {MISSING[model_type]}", ("model_type",), None
    alike = (name for name in (*TEXT, *MULTIMODAL) if name.count("_") == model_type.count("_"))
    hint = did_you_mean(model_type, alike) or f"read are {', '.join(sorted((*TEXT, *MULTIMODAL)))}"
    return f"model_type {show(model_type)} is not read: no dialect of archcalc knows its keys", ("model_type",), hint


def backbone(row: Dialect, config: Config, ties: Said | None = None) -> dict[str, Any]:
    """The backbone section: sizes, layer patterns, and the blocks that the layers name."""
    own = {} if ties is None else {"tie_word_embeddings": Rule(lambda _: ties)}
    fields = fill({**row.backbone, **own}, config)
    before = {**config.taken, **config.made}
    layers = row.layers(config)
    asked = [key for key in (*config.taken, *config.made) if key not in before]
    used_attention = dict.fromkeys(layer.attention for layer in layers)
    used_ffn = dict.fromkeys(layer.ffn for layer in layers)
    fields["layers"] = Said(folded(layers, row.norm_names), (), ", ".join(_shown(config, key) for key in asked))
    fields["attention"] = {name: fill(row.attention[name], config) for name in used_attention}
    fields["ffn"] = {name: fill(row.ffn[name], config) for name in used_ffn}
    for name in (*row.attention, *row.ffn):  # keys of blocks that this model has not are read all the same
        if name not in used_attention and name not in used_ffn:
            _touch(row.attention.get(name) or row.ffn[name], config)
    _check_mtp(fields)
    for check in row.checks:
        check(config)
    return fields


def _check_mtp(fields: dict[str, Any]) -> None:
    """Leave out what is said of prediction modules where there are none, or of a kind of layer that is not there."""
    none = not fields["num_nextn_predict_layers"].value
    layer = fields.get("mtp_layer")
    if none or (layer is not None and any(layer.value[side] not in fields[side] for side in ("attention", "ffn"))):
        fields.pop("mtp_layer", None)
    if none:
        fields.pop("mtp_stored", None)


def _shown(config: Config, key: str) -> str:
    """A key that the layer pattern follows from, with its value where that is short."""
    if key not in config.data:
        return f"{key}, {config.made[key]}"
    value = config.data[key]
    return key if isinstance(value, list | dict) else f"{key} {show(value)}"


def _touch(table: Mapping[str, Any], config: Config) -> None:
    """Note the keys of a block that no layer uses."""
    for source in table.values():
        key = source if isinstance(source, str) else getattr(source, "name", None)
        for name in config.names(key) if isinstance(key, str) else ():
            if name in config.data:
                config.taken.setdefault(name, "of a kind of layer that this model has not")


def _multimodal(row: Multimodal, top: Config, source: Source, name: str, where: str) -> Imported:
    """A text model with a tower. Without `vision_config` the text alone, which the notes say."""
    flat = not isinstance(top.data.get("text_config"), dict)
    if flat and not (row.flat and top.data.get("text_config") is None):
        if top.data.get("text_config") is not None:
            raise top.error(f"text_config must be a mapping, not {show(top.data['text_config'])}", "text_config")
        message = f"text_config is missing: {row.model_type} reads the sizes of its text model there and ignores others"
        raise _error(top.document, message, ("text_config",), "this file was flattened; take the release's own")
    facts = facts_of(row.text.of_class)
    text = Config(top.document, () if flat else ("text_config",), facts, None if flat else top)
    text.taken |= {"model_type": "the dialect"}
    vision = _part(top, "vision_config", row.vision_type)
    ties = _ties(row, top, text)
    said = _head(name, where, config=("backbone", *(("vision", "projector") if vision else ()), "storage"))
    said["backbone"] = backbone(row.text, text, ties)
    problems = []
    notes = []
    if vision is None:
        notes.append(f"{name}: the text model alone: vision_config is missing, so that the vision tower is left out")
    else:
        vision.taken["model_type"] = "the tower's own word"
        said["vision"], said["projector"] = fill(row.vision, vision), fill(row.projector, vision)
        problems += judge(vision, row.vision_must, row.vision_harmless)
    if flat:
        text.taken |= {key: became for key, became in top.taken.items() if key not in text.taken}
        problems += judge(text, {**row.must, **row.text.must}, row.harmless | row.text.harmless)
    else:
        text.taken.setdefault("tie_word_embeddings", f"{row.model_type} reads it at the top alone")
        _repeated(top, text)
        problems += judge(text, row.text.must, row.text.harmless) + judge(top, row.must, row.harmless)
    _refuse(problems)
    return _finish(said, [text, *([] if flat else [top]), *([vision] if vision else [])], row, source, notes)


def _repeated(top: Config, text: Config) -> None:
    """Keys of the text model that stand at the top too, as transformers 4.52 to 4.56 saved Qwen-VL: the class ignores
    them there, so that they have to say the same. A window that the text model does not use may be another."""
    off = {"sliding_window", "layer_types"} if text.data.get("use_sliding_window") is not True else ()
    for key, value in top.data.items():
        if key not in top.taken and key in text.data and (key in off or text.data[key] == value):
            top.taken[key] = "windows are off" if key in off else "text_config says the same"


def _part(top: Config, key: str, type_name: str) -> Config | None:
    """A sub-config, or None where it is missing."""
    value = top.data.get(key)
    if value is None:
        return None
    if not isinstance(value, dict):
        raise top.error(f"{key} must be a mapping, not {show(value)}", key)
    return Config(top.document, (key,), facts_of(type_name), top)


def _ties(row: Multimodal, top: Config, text: Config) -> Said:
    """`tie_word_embeddings`, at the level where the class reads it."""
    said = top.read("tie_word_embeddings")
    if row.ties == "either" and said.value is False and text.data.get("tie_word_embeddings") is True:
        return text.read("tie_word_embeddings")
    return said


def _head(name: str, where: str, config: tuple[str, ...]) -> dict[str, Any]:
    slug = "".join(char if char.isalnum() or char in ".-_" else "-" for char in name.lower()).strip("-._") or "model"
    return {
        "kind": "spec",
        "name": slug,
        "title": name,
        "sources": dict.fromkeys(config, f"{where}"),
    }


def _finish(
    said: dict[str, Any], configs: list[Config], row: Dialect | Multimodal, source: Source, notes: list[str]
) -> Imported:
    document = source.config
    receipt = [became for config in configs for became in _receipt(config)]
    if row.proof:
        notes.append(f"model_type {row.model_type} has no public class in transformers; {row.proof}")
    dtype = said["backbone"]["dtype"]
    said["storage"] = {"default": {"scheme": "plain", "dtype": dtype.value}}
    plain = Imported(said, document, receipt, notes)
    weights = validate(plain.data, plain, Spec).trace(Workload()).weights()
    names = row.text.scope_names if isinstance(row, Multimodal) else row.scope_names
    again = prediction.copies(said["backbone"], source.index)
    found = stored(document, source.quant, weights, row.model_type, names, again)
    said["storage"] = found.section
    method = quantization(document.data, None if source.quant is None else source.quant.data).method
    notes.extend(prediction.look(said["backbone"], method, source.index))
    supplied = [text for text in map(_supplied, configs) if text]
    assumed = [*supplied, *(text for config in configs for text in config.assumed)]
    if assumed or found.assumed:
        said["assumed"] = list(dict.fromkeys((*assumed, *found.assumed)))
    order = ("kind", "name", "title", "sources", "assumed", "backbone", "vision", "projector", "storage")
    said = {name: said[name] for name in order if name in said}
    return Imported(said, document, receipt, [*notes, *found.notes], supplied)


def _supplied(config: Config) -> str:
    """What is said of the sizes that a class supplied; empty where the file has all of them."""
    sizes = config.supplied()
    return (
        f"sizes that the config leaves out are defaults of {config.facts.config}: {', '.join(sizes)}" if sizes else ""
    )


def stored(
    document: Document,
    quant: Document | None,
    weights: list[Weight],
    family: str,
    names: Sequence[tuple[str, str]],
    copies: bool | None,
) -> Found:
    """How the release stores its weights. Raises SpecError at the quantization config."""
    rules = [(re.compile(pattern), name) for pattern, name in names]

    def release_name(path: str) -> str:
        for pattern, name in rules:
            path = pattern.sub(name, path)
        return path

    try:
        return storage(document.data, None if quant is None else quant.data, weights, family, release_name, copies)
    except SpecError:
        raise
    except InputError as error:
        message = error.message.removeprefix(f"{QUANT}: ")
        where = quant if quant is not None and message != error.message else document
        loc = _spelled(where.data, message)
        raise SpecError.from_problems(
            [where.problem(message, loc, key=True, value=error.value, hint=error.hint)]
        ) from None


def _spelled(data: Any, message: str) -> Loc:
    """The path that a message begins with, as far as the data has it: `quantization_config.bits: ...`."""
    loc: list[str | int] = []
    while isinstance(data, dict):
        key = next((key for key in data if re.match(rf"{re.escape(key)}(?![\w-])", message)), None)
        if not key:
            break
        loc.append(key)
        data, message = data[key], message[len(key) :].removeprefix(".")
    return tuple(loc)


def _receipt(config: Config) -> list[Became]:
    prefix = "".join(f"{part}." for part in config.loc)
    kept = [Became(key=prefix + key, value=config.data[key], became=config.taken.get(key, "")) for key in config.data]
    made = [Became(key=prefix + key, value=None, became=text, default=True) for key, text in config.made.items()]
    return kept + made


def _refuse(problems: list[Any]) -> None:
    if problems:
        raise SpecError.from_problems(problems)


def _error(document: Document, message: str, loc: Loc, hint: str | None) -> SpecError:
    value = document.data.get(str(loc[0])) if loc else None
    return SpecError.from_problems([document.problem(message, loc, value=value, hint=hint)])
