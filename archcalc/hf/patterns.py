"""Layer patterns: the spellings of one thing, a list of layer kinds, each normalised once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from archcalc.hf import inverses
from archcalc.hf.config import Config, show
from archcalc.hf.dialect import Layer, LayerPattern, Pattern
from archcalc.hf.draft import Draft

MOST_LAYERS = 10_000
"""As many as a spec may have."""

LAYER_TYPES = {"full_attention": "full", "sliding_attention": "sliding"}
INDEXERS = {"full": "full", "shared": "shared"}

Kinds = Callable[[Config], list[str]]
"""One name a layer."""


def inverse(write: inverses.WriteKinds) -> Callable[[Kinds], Pattern]:
    """A pattern that is read by the function below and written by this one."""
    return lambda read: Pattern(read, write)


def depth(config: Config) -> int:
    """`num_hidden_layers`. Raises SpecError for none, or more than a spec may have."""
    count = config.integer("num_hidden_layers", least=1)
    if count > MOST_LAYERS:
        raise config.error(f"num_hidden_layers {count} is more than {MOST_LAYERS:,}", "num_hidden_layers")
    return count


def layers(attention: Pattern | str, ffn: Pattern | str, scopes: dict[str, str] | None = None) -> LayerPattern:
    """Layers from the kinds of their two halves, each the same for all or a pattern."""

    def read(config: Config) -> list[Layer]:
        count = depth(config)
        mixers = [attention] * count if isinstance(attention, str) else attention(config)
        others = [ffn] * count if isinstance(ffn, str) else ffn(config)
        return [Layer(a, f, (scopes or {}).get(a, "")) for a, f in zip(mixers, others, strict=True)]

    def write(draft: Draft, found: Sequence[Layer]) -> None:
        for half, kinds in ((attention, [layer.attention for layer in found]), (ffn, [layer.ffn for layer in found])):
            (inverses.constant(half) if isinstance(half, str) else half.write)(draft, kinds)
        for layer in found:
            if layer.scope != (scopes or {}).get(layer.attention, ""):
                draft.clash(layer.scope or "self_attn", (scopes or {}).get(layer.attention) or "self_attn")

    return LayerPattern(read, write)


def named(key: str, names: dict[str, str], otherwise: Kinds) -> Pattern:
    """A list with a name a layer (`layer_types`, `mlp_layer_types`, `indexer_types`), or else another rule."""

    def read(config: Config) -> list[str]:
        value = config.value(key, None)
        if value is None:
            return otherwise(config)
        return _named(config, key, value, names)

    return Pattern(read, inverses.named(key, names))


def _named(config: Config, key: str, value: Any, names: dict[str, str]) -> list[str]:
    count = depth(config)
    if not isinstance(value, list) or len(value) != count:
        long = f"has {len(value)} entries" if isinstance(value, list) else f"is {show(value)}"
        raise config.error(f"{key} {long}, and num_hidden_layers is {count}", key)
    for entry in value:
        if not isinstance(entry, str) or entry not in names:
            known = ", ".join(names)
            raise config.error(f"{key} names {show(entry)}, which this model type has not", key, hint=f"known: {known}")
    return [names[entry] for entry in value]


def first_dense(key: str = "first_k_dense_replace", absent: Any = ...) -> Pattern:
    """The first k layers are dense, all others sparse (DeepSeek)."""

    def read(config: Config) -> list[str]:
        count, first = depth(config), config.integer(key, absent)
        return ["dense" if i < first else "moe" for i in range(count)]

    return Pattern(read, inverses.first_dense(key))


def first_layer_dense(config: Config) -> list[str]:
    """The first layer is dense, all others sparse, whatever `first_k_dense_replace` says (GLM-4.7-Flash)."""
    return ["dense", *["moe"] * (depth(config) - 1)]


@inverse(inverses.sparse_step)
def sparse_step(config: Config) -> list[str]:
    """`decoder_sparse_step` and `mlp_only_layers` (Qwen): every step-th layer is sparse, but those listed."""
    count = depth(config)
    step = config.integer("decoder_sparse_step", least=1)
    only = integers(config, "mlp_only_layers")
    some = config.integer("num_experts") > 0
    return ["moe" if some and i not in only and (i + 1) % step == 0 else "dense" for i in range(count)]


def integers(config: Config, key: str, absent: Any = ...) -> Sequence[int]:
    """A list of integers; null is an empty one. Raises SpecError for anything else."""
    value = config.value(key, absent)
    if value is None:
        return []
    if not isinstance(value, list) or any(type(entry) is not int for entry in value):
        raise config.error(f"{key} must be a list of integers, not {show(value)}", key)
    return value


def interval(key: str, default: int, every: str, others: str) -> Kinds:
    """Every n-th layer is one kind, all others another (`full_attention_interval`)."""

    def read(config: Config) -> list[str]:
        count, step = depth(config), config.integer(key, default, least=1)
        return [others if (i + 1) % step else every for i in range(count)]

    return read


@inverse(inverses.upper_windows)
def upper_windows(config: Config) -> list[str]:
    """`max_window_layers`: layers from that one on slide, where `sliding_window` is set."""
    count = depth(config)
    if config.value("sliding_window", None) is None:
        return ["full"] * count
    first = config.integer("max_window_layers")
    return ["full" if i < first else "sliding" for i in range(count)]


def windows_if_used(key: str, names: dict[str, str]) -> Pattern:
    """`layer_types`, or else `max_window_layers`, where `use_sliding_window` is on; without it no layer slides."""

    def read(config: Config) -> list[str]:
        full = ["full"] * depth(config)
        if config.value("use_sliding_window", False) is True:
            return named(key, names, upper_windows)(config)
        named(key, names, lambda _: full)(config)  # the class checks the list all the same
        return full

    return Pattern(read, inverses.used_windows(key, names))


def types_of(windows: Pattern) -> Callable[[Config], list[str]]:
    """The `layer_types` that say what a pattern does, for a class that does not read them."""
    words = {kind: word for word, kind in LAYER_TYPES.items()}
    return lambda config: [words[kind] for kind in windows(config)]


@inverse(inverses.every_window)
def every_window(config: Config) -> list[str]:
    """`sliding_window` of all layers alike (Mistral), none where it is null."""
    return ["full" if config.value("sliding_window", None) is None else "sliding"] * depth(config)


@inverse(inverses.every_window_if_used)
def every_window_if_used(config: Config) -> list[str]:
    """`sliding_window` of all layers alike, where `use_sliding_window` is on (Qwen3-MoE)."""
    return every_window(config) if config.value("use_sliding_window", False) is True else ["full"] * depth(config)


@inverse(inverses.used_windows("layer_types", LAYER_TYPES))
def alternating_windows(config: Config) -> list[str]:
    """Every other layer below `max_window_layers` slides, from the first on (Qwen2-MoE)."""
    count, first = depth(config), config.integer("max_window_layers", 0)
    on = config.value("use_sliding_window", False) is True
    plain = ["sliding" if on and i % 2 == 0 and i < first else "full" for i in range(count)]
    kinds = named("layer_types", LAYER_TYPES, lambda _: plain)(config)
    _check_used(kinds, on, config)
    return kinds


def _check_used(kinds: Sequence[str], on: bool, config: Config) -> None:
    """Raises SpecError for layers that slide by name with windows off: the class's masks and kernels then differ."""
    if "sliding" in kinds and not on:
        raise config.error("layer_types has sliding_attention, and use_sliding_window is off", "layer_types")


@inverse(inverses.smollm)
def smollm(config: Config) -> list[str]:
    """SmolLM3: every fourth layer does not rotate (`no_rope_layers` holds a 0, or `no_rope_layer_interval`), and those
    slide where `use_sliding_window` is on, unless `layer_types` says which do."""
    count = depth(config)
    turns = integers(config, "no_rope_layers") or interval("no_rope_layer_interval", 4, "", "1")(config)
    if len(turns) != count:
        raise config.error(
            f"no_rope_layers has {len(turns)} entries, and num_hidden_layers is {count}", "no_rope_layers"
        )
    on = config.value("use_sliding_window", False) is True and config.value("sliding_window", None) is not None
    slides = named(
        "layer_types",
        LAYER_TYPES,
        lambda _: ["sliding" if on and not turn else "full" for turn in turns],
    )(config)
    _check_used(slides, on, config)
    return [kind if turn else f"{kind}_nope" for kind, turn in zip(slides, turns, strict=True)]


@inverse(inverses.ernie)
def ernie(config: Config) -> list[str]:
    """ERNIE 4.5: sparse from `moe_layer_start_index` to `moe_layer_end_index`, every `moe_layer_interval`-th."""
    count, step = depth(config), config.integer("moe_layer_interval", 1, least=1)
    first, last = config.integer("moe_layer_start_index", 0), config.integer("moe_layer_end_index", -1, least=-1)
    last = count - 1 if last == -1 else last
    return ["moe" if (i + 1) % step == 0 and first <= i <= last else "dense" for i in range(count)]


@inverse(inverses.named("indexer_types", INDEXERS))
def indexers(config: Config) -> list[str]:
    """GLM-5: `indexer_types`, or `index_topk_pattern` in letters, or every `index_topk_freq`-th layer after
    `index_skip_topk_offset` owns an indexer and the others share it."""
    count = depth(config)
    letters = {"F": "full", "S": "shared"}
    if config.value("indexer_types", None) is not None:
        return named("indexer_types", INDEXERS, lambda _: [])(config)
    pattern = config.value("index_topk_pattern", None)
    if pattern is not None:
        listed = list(pattern) if isinstance(pattern, str) else pattern
        return _named(
            config,
            "index_topk_pattern",
            listed,
            letters if isinstance(pattern, str) else INDEXERS,
        )
    step, offset = max(config.integer("index_topk_freq", 1), 1), config.integer("index_skip_topk_offset", 2)
    return ["shared" if max(i - offset + 1, 0) % step else "full" for i in range(count)]


@inverse(inverses.kda)
def kda(config: Config) -> list[str]:
    """Kimi Linear: `linear_attn_config` lists its layers, counted **from 1**; `layer_types` goes before it."""
    count = depth(config)
    lists = config.value("linear_attn_config", None)

    def listed(_: Config) -> list[str]:
        if not isinstance(lists, dict) or not {"full_attn_layers", "kda_layers"} <= lists.keys():
            return ["full" if i and i % 4 == 0 else "linear" for i in range(count)]
        full, linear = lists["full_attn_layers"], lists["kda_layers"]
        if not all(isinstance(some, list) for some in (full, linear)) or sorted([*full, *linear], key=str) != sorted(
            range(1, count + 1), key=str
        ):
            message = f"full_attn_layers and kda_layers do not name each of the {count} layers once, counted from 1"
            raise config.error(message, "linear_attn_config")
        return ["full" if i + 1 in full else "linear" for i in range(count)]

    return named("layer_types", {"full_attention": "full", "linear_attention": "linear"}, listed)(config)
