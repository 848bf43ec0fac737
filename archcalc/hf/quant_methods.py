"""Quantization methods: what each says in its config, key by key. A key that is not known here may change sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from archcalc.errors import InputError, show_value
from archcalc.hf.quant_names import NameList, NameMap

Store = dict[str, Any]
"""A scheme as a storage section writes it."""


class Reading(NamedTuple):
    """What a quantization config says, before it meets a weight.

    Attributes:
        groups: schemes with the modules that they are for, None for all linears; the first that takes a weight wins.
        skipped: what stays plain.
        named: schemes by module name, before all else; None for what stays plain.
        experts: the scheme of routed experts where it is one of their own.
        only: roles that it can be for; all linears if empty.
        head: whether the head is a linear like any other.
        embeddings: whether embeddings and routers are quantized too.
        backbone: whether it is for the layers of the backbone alone.
        routers: whether the method leaves routers by itself.
        lenient: whether inputs that groups don't divide leave a matrix plain.
        notes: what to say of it.
    """

    groups: tuple[tuple[NameList | None, Store], ...] = ()
    skipped: NameList = NameList((), "", "exact")
    named: NameMap = NameMap({}, "")
    experts: Store | None = None
    only: frozenset[str] = frozenset()
    head: bool = False
    embeddings: bool = False
    backbone: bool = False
    routers: bool = False
    lenient: bool = False
    notes: tuple[str, ...] = ()


class Settings:
    """A quantization config whose keys are asked for; what nobody asked for is an error that names it."""

    def __init__(self, data: Mapping[str, Any], where: str, dtype: str, scale: str) -> None:
        self.data, self.where, self.dtype, self.scale = data, where, dtype, scale
        self.asked: set[str] = set()

    def get(self, *names: str, default: Any = None) -> Any:
        """The value of the first of these keys that is there and not null."""
        self.asked |= set(names)
        return next((self.data[name] for name in names if self.data.get(name) is not None), default)

    def must(self, name: str, *values: Any) -> None:
        """Raises InputError for a value that is none of these; a key that is missing or null is all right."""
        value = self.get(name)
        if value is not None and value not in values:
            raise self.error(name, f"{name} {show_value(value)} is not known")

    def error(self, name: str, message: str) -> InputError:
        """An error about a key."""
        return InputError(f"{self.where}.{name}: {message}", value=self.data.get(name))

    def inner(self, data: object, name: str) -> Settings:
        """A mapping inside. Raises InputError for what is none."""
        if not isinstance(data, Mapping):
            raise self.error(name, "this is no mapping")
        return Settings(data, f"{self.where}.{name}", self.dtype, self.scale)

    def names(self, *keys: str) -> list[str]:
        """A list of names under the first of these keys that is there."""
        found = self.get(*keys, default=[])
        if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
            raise self.error(next(key for key in keys if key in self.data), "this is no list of names")
        return found

    def done(self, harmless: str = "") -> None:
        """Raises InputError for a key that was not asked for and is not harmless, unless it holds nothing."""
        known = self.asked | set(harmless.split())
        for name, value in self.data.items():
            if name not in known and value not in (None, [], {}):
                raise self.error(name, "this key is not known, and might change sizes")


def fp8(s: Settings) -> Reading:
    """FP8 in blocks (DeepSeek) or with a scale a matrix; overlaid with ModelOpt's map where there is one. The head
    stays unless a list of what does leaves it out (transformers, quantizers/base.py, get_modules_to_not_convert)."""
    s.must("fmt", "e4m3", "float8_e4m3fn")
    s.must("scale_fmt", "ue8m0", "float32", "float")  # how scales are rounded; their dtype is the release's
    s.must("expert_dtype", "fp8")
    block, static = s.get("weight_block_size"), s.get("activation_scheme") == "static"
    s.must("activation_scheme", "dynamic", "static")
    scheme: Store = {"scheme": "float-quantized", "strategy": "tensor", "scale_dtype": "float32"}
    if block == [1, 32]:
        scheme = {"scheme": "mxfp8"}
    elif block is not None:
        scheme = {"scheme": "fp8-block", "block_size": block, "scale_dtype": s.scale}
    elif static:
        scheme["input_scale"] = True
    entries = s.get("quantized_layers", default={})
    skipped = NameList(
        s.names("modules_to_not_convert", "ignored_layers"), f"{s.where}.modules_to_not_convert", "boundary"
    )
    named = modelopt_map(s, entries)
    s.done(
        "quant_method dequantize"
        + (" config_groups group_size ignore kv_cache_quant_algo moe_quant_algo producer quant_algo" if entries else "")
    )
    notes = ("Blocks of [1, 32] are taken as mxfp8.",) if block == [1, 32] else ()
    head = s.get("modules_to_not_convert", "ignored_layers") is not None
    return Reading(groups=((None, scheme),), skipped=skipped, named=named, head=head, notes=notes)


def mxfp4(s: Settings) -> Reading:
    """gpt-oss: routed experts alone (transformers, quantizer_mxfp4.py)."""
    s.must("dequantize", False)
    skipped = NameList(s.names("modules_to_not_convert"), f"{s.where}.modules_to_not_convert", "boundary")
    s.done("quant_method")
    return Reading(
        groups=((None, {"scheme": "mxfp4"}),), skipped=skipped, only=frozenset({"routed_expert"}), routers=True
    )


# ------------------------------------------------------------------------------------------------ ModelOpt

ALGORITHMS: dict[str, Store] = {
    "FP8": {"scheme": "float-quantized", "strategy": "tensor", "scale_dtype": "float32", "input_scale": True},
    "FP8_PER_CHANNEL_PER_TOKEN": {"scheme": "float-quantized", "strategy": "channel", "scale_dtype": "float32"},
    "FP8_PB_WO": {"scheme": "fp8-block", "block_size": [128, 128], "scale_dtype": "float32"},
    "NVFP4": {"scheme": "nvfp4"},
    "W4A16_NVFP4": {"scheme": "nvfp4", "input_scale": False},
    "MXFP8": {"scheme": "mxfp8"},
}
"""NVIDIA/Model-Optimizer, quant_algo names (modelopt/torch/export/model_config.py)."""


def algorithm(s: Settings, name: object, group: object) -> Store:
    """The scheme of a quant_algo. Raises InputError for one that is not known."""
    if not isinstance(name, str) or name not in ALGORITHMS:
        raise s.error("quant_algo", f"{show_value(name)} is not known")
    scheme = ALGORITHMS[name]
    if scheme["scheme"] == "nvfp4" and group not in (None, 16):
        return {**scheme, "group_size": group}
    return scheme


def modelopt_map(s: Settings, entries: object) -> NameMap:
    """quantized_layers: schemes by module name."""
    if not isinstance(entries, Mapping):
        raise s.error("quantized_layers", "this is no mapping")
    seen: dict[tuple[Any, Any], Store] = {}
    found = {}
    for name, entry in entries.items():
        inner = s.inner(entry, "quantized_layers")
        kind = (inner.get("quant_algo"), inner.get("group_size"))
        inner.done("has_zero_point")
        if not isinstance(kind[0], str) or not isinstance(kind[1], int | None):
            raise inner.error("quant_algo", f"{show_value(kind[0])} in groups of {show_value(kind[1])} is not known")
        if kind not in seen:
            seen[kind] = algorithm(inner, *kind)
        found[name] = seen[kind]
    return NameMap(found, f"{s.where}.quantized_layers")


def modelopt(s: Settings) -> Reading:
    """NVIDIA's ModelOpt: one algorithm, or MIXED_PRECISION with a map. Head and routers stay unless named."""
    name, group = s.get("quant_algo"), s.get("group_size")
    entries = s.get("quantized_layers", default={})
    skipped = NameList(s.names("exclude_modules", "ignore"), f"{s.where}.exclude_modules", "glob")
    cache = s.get("kv_cache_quant_algo") or s.get("kv_cache_scheme")
    s.asked.add("kv_cache_quant_algo")
    s.done("quant_method producer config_groups")
    if "quant_algo" not in s.data:
        raise s.error("quant_algo", "this key is missing")
    if name in (None, "MIXED_PRECISION"):
        if name is not None and not entries:
            raise s.error("quantized_layers", "MIXED_PRECISION without a map of layers")
        groups: tuple[tuple[NameList | None, Store], ...] = ()
    else:
        groups = ((None, algorithm(s, name, group)),)
    notes = ("Scales of a quantized cache (k_scale, v_scale) are not counted: 8 bytes a layer.",) if cache else ()
    return Reading(groups=groups, skipped=skipped, named=modelopt_map(s, entries), routers=True, notes=notes)
