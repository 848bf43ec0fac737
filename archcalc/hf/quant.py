"""Quantization configs of Hugging Face releases to the storage section of a spec.

The config is evaluated for every weight in every layer, then compressed to rules. What it does not say is taken from a
table of facts, or assumed and said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any, NamedTuple, get_args

from archcalc.errors import InputError, show_value
from archcalc.files.scheme import StoredDtype
from archcalc.hf.quant_cells import Config, Evaluation
from archcalc.hf.quant_facts import ASSUMED, FACTS, Fact
from archcalc.hf.quant_methods import Reading, Settings, fp8, modelopt, mxfp4
from archcalc.hf.quant_packed import auto_round, awq, bitsandbytes, compressed_tensors, gptq, mlx
from archcalc.hf.quant_rules import Cell, Store, compress
from archcalc.tape import Weight

METHODS: dict[str, Callable[[Settings], Reading]] = {
    "auto-round": auto_round,
    "awq": awq,
    "bitsandbytes": bitsandbytes,
    "compressed-tensors": compressed_tensors,
    "fp8": fp8,
    "gptq": gptq,
    "mlx": mlx,
    "modelopt": modelopt,
    "mxfp4": mxfp4,
}
"""Readers by quant_method; MLX's configs name none."""


class Found(NamedTuple):
    """A storage section with what it rests on.

    Attributes:
        section: as a spec writes it: a mapping by role, or a list of rules.
        assumed: what neither the config nor a source says.
        notes: what else to say.
    """

    section: dict[str, Store] | list[dict[str, Any]]
    assumed: list[str]
    notes: list[str]


def storage(
    config: Mapping[str, Any],
    hf_quant: Mapping[str, Any] | None,
    weights: Sequence[Weight],
    family: str,
    release_name: Callable[[str], str] = str,
    copies: bool | None = None,
) -> Found:
    """The storage section of a release.

    Args:
        config: config.json.
        hf_quant: hf_quant_config.json beside it, or None.
        weights: the model's weights, as its tape has them.
        family: model type at the top of the config.
        release_name: from a module's path, its layer written out and `{e}` for the expert, to the release's own name.
        copies: whether embedding and head are stored again in each prediction module; None for what is known of the
            family.

    Raises:
        InputError: a method, or a key, that is not known and may change sizes; experts of a layer that differ.
    """
    found = quantization(config, hf_quant)
    fact = FACTS.get((family.removesuffix("_text"), found.method), ASSUMED)
    dtype, assumed = _dtype(config)
    settings = Settings(found.data, found.where, dtype, fact.scale or "float32")
    reading = METHODS[found.method](settings) if found.data else Reading()
    if found.method == "fp8" and (experts := _experts(config)):
        reading = reading._replace(experts=experts)
        assumed.append(f"storage: routed experts of {family} as {experts['scheme']}, by header rows of one release")
    evaluated = Evaluation(reading, found, fact, dtype, release_name)
    cells = evaluated.cells(weights)
    default: Store = {"scheme": "plain", "dtype": dtype}
    rules = compress(cells, default)[:-1]
    if (fact.copies if copies is None else copies) and any(w.part == "mtp" for w in weights):
        rules += [("mtp_embedding", default), ("mtp_head", default)]
    assumed += [*fact.assumed, *_assumed(found, fact, family, cells)]
    if found.method == "bitsandbytes" and any(w.role == "routed_expert" for w in weights):
        assumed.append(
            "storage: routed experts are quantized, as by transformers 4; 5 stacks them and leaves them plain"
        )
    if evaluated.routers and fact is ASSUMED:
        assumed.append("storage: routers are not quantized; the config does not name them")
    return Found(_section([*rules, ("default", default)]), assumed, [*reading.notes, *evaluated.notes()])


def quantization(config: Mapping[str, Any], hf_quant: Mapping[str, Any] | None = None) -> Config:
    """Where a release says how it is quantized, with method `none` where it does not. Raises InputError."""
    text = config.get("text_config")
    places = [("", config, False), *([("text_config.", text, True)] if isinstance(text, Mapping) else [])]
    for prefix, holder, inside in places:
        for key in ("quantization_config", "compression_config", "quantization"):
            data = holder.get(key)
            if data is None:
                continue
            if not isinstance(data, Mapping):
                raise InputError(f"{prefix}{key} is no mapping", value=data)
            method = _method(data, f"{prefix}{key}")
            if method != "modelopt" or "quant_algo" in data or hf_quant is None:
                return Config(method, data, f"{prefix}{key}", inside)
    if hf_quant is None:
        return Config("none", {}, "")
    data = hf_quant.get("quantization")
    if not isinstance(data, Mapping):
        raise InputError("hf_quant_config.json: quantization is no mapping", value=data)
    return Config("modelopt", data, "hf_quant_config.json: quantization")


def _method(data: Mapping[str, Any], where: str) -> str:
    """The method of a config. Raises InputError for one that is not known, naming it."""
    name = data.get("quant_method")
    if name is None and "bits" in data and "group_size" in data:
        return "mlx"
    producer = data.get("producer")
    if name is None and isinstance(producer, Mapping) and producer.get("name") == "modelopt":
        return "modelopt"
    if isinstance(name, str) and name.startswith("modelopt"):
        return "modelopt"
    if not isinstance(name, str) or name not in METHODS:
        known = ", ".join(method for method in METHODS if method != "mlx")
        raise InputError(f"{where}.quant_method {show_value(name)} is not known", value=name, hint=f"known: {known}")
    return name


def _dtype(config: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The dtype of what is not quantized, and what is assumed of it. Raises InputError for one that is not known."""
    text = config.get("text_config")
    for holder in (config, text if isinstance(text, Mapping) else {}):
        for key in ("dtype", "torch_dtype"):
            if holder.get(key) is not None:
                name = str(holder[key]).removeprefix("torch.")
                if name not in get_args(StoredDtype):
                    raise InputError(
                        f"{key} {show_value(holder[key])} is no dtype of stored weights", value=holder[key]
                    )
                return name, []
    return "bfloat16", ["storage: bfloat16 for what is not quantized; the config has no dtype and no torch_dtype"]


def _experts(config: Mapping[str, Any]) -> Store | None:
    """The scheme of routed experts that are narrower than the rest (DeepSeek-V4). Raises InputError."""
    name = config.get("expert_dtype")
    if name not in (None, "fp4", "fp8"):
        raise InputError(f"expert_dtype {show_value(name)} is not known", value=name, hint="fp4 or fp8")
    return {"scheme": "mxfp4-pack-quantized"} if name == "fp4" else None


def _assumed(found: Config, fact: Fact, family: str, cells: list[Cell]) -> list[str]:
    """What neither the config nor a source says of these weights."""
    if fact is not ASSUMED:
        return []
    said, how = [], f" by {found.method}" if found.data else ""
    if found.method == "fp8" and any(cell.store["scheme"] == "fp8-block" for cell in cells):
        said.append(f"storage: scales of FP8 blocks in float32; the config does not say, and {family} is in no source")
    if any(not cell.weight.trainable for cell in cells):
        said.append(f"storage: buffers of routers in float32; no source of {family}{how} is known")
    return said


def _section(rules: Sequence[tuple[str, Store]]) -> dict[str, Store] | list[dict[str, Any]]:
    """Rules as a spec writes them: by role if all are, in a mapping's own order, where `mtp` goes first."""
    matches = [match for match, _ in rules]
    roles = not any(set(match) & set(".*:") for match in matches)
    if roles and "mtp" not in matches[1:]:
        *others, default = rules
        return {match: deepcopy(scheme) for match, scheme in (default, *others)}
    return [{"match": match, "store": deepcopy(scheme)} for match, scheme in rules]
