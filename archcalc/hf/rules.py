"""Fields that follow from more than one key of a config: dtype, rotary embedding, head size, windows."""

from __future__ import annotations

from typing import Any

from archcalc.arch.rope import NEEDED, READ
from archcalc.hf import inverses
from archcalc.hf.config import Config, Said, show
from archcalc.hf.dialect import Fixed, Rule

DTYPES = ("bfloat16", "float16", "float32")
ORIGINAL = "original_max_position_embeddings"


def dtype(config: Config) -> Said:
    """`dtype`, or `torch_dtype` as older configs spell it, here or one level up; bfloat16 is assumed where neither
    says."""
    level: Config | None = config
    while level is not None:
        for key in ("dtype", "torch_dtype"):
            value = level.data.get(key)
            if value is None:
                continue
            level.taken[key] = "used"
            name = value.removeprefix("torch.") if isinstance(value, str) else value
            if name not in DTYPES:
                raise level.error(
                    f"{key} {show(value)} is no dtype of weights here", key, hint=f"one of {', '.join(DTYPES)}"
                )
            return Said(name, (*level.loc, key), "" if key == "dtype" else key)
        level = level.outer
    return Said("bfloat16", (), "assumed: the config has no dtype", default=True)


# -- rotary embedding -------------------------------------------------------------------------------------------------


def rotary(config: Config) -> tuple[dict[str, Any], str]:
    """The rotary parameters in one mapping, and the key that they stand under: `rope_parameters` since transformers
    5, `rope_scaling` before, which replaces the other as a whole where it says anything."""
    found: dict[str, Any] = {}
    name = ""
    for key in ("rope_scaling", "rope_parameters"):
        value = config.data.get(key)
        if value is not None and not isinstance(value, dict):
            raise config.error(f"{key} must be a mapping, not {show(value)}", key)
        if not value:
            config.take(key, "null" if value is None else "empty")
        elif found:
            config.take(key, f"{name} goes before it")
        else:
            config.taken[key] = "used"
            found, name = value, key
    return found, name


def rope_theta(config: Config) -> Said:
    """`rope_theta`: inside `rope_parameters`, or beside the others as older configs write it; else the class's."""
    values, key = rotary(config)
    if "rope_theta" in values:
        return Said(_real(values["rope_theta"]), (*config.loc, key, "rope_theta"), key)
    if config.data.get("rope_theta") is not None:
        config.taken["rope_theta"] = "used"
        return Said(_real(config.data["rope_theta"]), (*config.loc, "rope_theta"))
    config.take("rope_theta", "null")
    if not config.facts.config:
        raise config.error("rope_theta is missing, and no public class has a default", None)
    theta = config.facts.rope_theta
    config.made["rope_theta"] = f"default of {config.facts.config}: {theta}"
    return Said(theta, (), config.made["rope_theta"], default=True)


def rope_scaling(config: Config) -> Said:
    """The scaling of the rotary embedding. It changes no size: kinds that a spec can't hold are named and left out, and
    so are keys that a kind does not read. Without an original context classes take the longest
    (modeling_rope_utils.py)."""
    values, key = rotary(config)
    kind = values.get("rope_type", values.get("type", "default"))
    loc = (*config.loc, key) if key else ()
    if kind is None:
        raise config.error(f"{key}: its kind is null", key, hint='write "default" where nothing is stretched')
    if not isinstance(kind, str):
        hint = 'one word, such as "yarn"'
        raise config.error(f"{key}: its kind is {show(kind)}, which is no word", key, hint=hint)
    if kind == "default":
        return Said(None, loc)
    if kind not in READ or "factor" not in values:
        return Said(None, loc, f"{key}: {kind}, which changes no size")
    inner = {}
    for name in ("factor", *READ[kind]):
        if value := values.get(name):
            inner[name] = Said(_whole(value) if name == ORIGINAL else _real(value), (*loc, name))
    if ORIGINAL in NEEDED[kind] and ORIGINAL not in inner:
        longest = config.read("max_position_embeddings")
        inner[ORIGINAL] = longest._replace(note=f"max_position_embeddings: {ORIGINAL} is not set")
    return Said({"type": Said(kind, loc, "" if "type" in values else "rope_type"), **inner}, loc, key)


def _real(value: Any) -> Any:
    return float(value) if type(value) is int and abs(value) < 1 << 53 else value


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def rotary_dim(config: Config, head_dim: int, default: float, key_of_its_own: bool) -> Said | None:
    """Features of a head that turn, where not all do: `partial_rotary_factor` of them, or a class's `rotary_dim`."""
    values, key = rotary(config)
    for name in ("partial_rotary_factor", *(("rotary_dim",) if key_of_its_own else ())):
        config.take(name, "used")
    if "partial_rotary_factor" in values:
        factor, loc, note = values["partial_rotary_factor"], (*config.loc, key, "partial_rotary_factor"), ""
    elif config.data.get("partial_rotary_factor") is not None:
        factor, loc = config.data["partial_rotary_factor"], (*config.loc, "partial_rotary_factor")
    elif key_of_its_own and config.data.get("rotary_dim") is not None:
        return Said(config.data["rotary_dim"], (*config.loc, "rotary_dim"))
    else:
        factor, loc = default, ()
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor <= 1:
        where = "partial_rotary_factor" if "partial_rotary_factor" in config.data else key
        raise config.error(f"partial_rotary_factor must be above 0 and at most 1, not {show(factor)}", where)
    if factor == 1:
        return None
    if loc:
        note = f"partial_rotary_factor {factor} of head_dim"
    else:
        note = f"default of {config.facts.config}: {factor} of head_dim"
        config.made["partial_rotary_factor"] = f"default of {config.facts.config}: {factor}"
    turned = int(head_dim * factor)
    if not turned:
        raise config.error(f"partial_rotary_factor {factor} of head_dim {head_dim} is no feature", "head_dim")
    return Said(turned + turned % 2, loc, note, default=not loc)


# -- attention --------------------------------------------------------------------------------------------------------


def whole_head(config: Config) -> int:
    """`head_dim` where the reader computes with it. Raises SpecError for what is no size."""
    value = head_dim(config).value
    if type(value) is not int or value < 1:
        raise config.error(f"head_dim must be an integer of at least 1, not {show(value)}", "head_dim")
    return value


def head_dim(config: Config) -> Said:
    """`head_dim`, or hidden_size / num_attention_heads where neither the file nor the class has one."""
    declared = config.facts.defaults.get("head_dim")
    if config.data.get("head_dim") is not None or (declared is not None and "head_dim" not in config.data):
        return config.read("head_dim")
    config.take("head_dim", "null")
    hidden, heads = config.integer("hidden_size", least=1), config.integer("num_attention_heads", least=1)
    if hidden < heads:
        raise config.error(f"hidden_size {hidden} is less than num_attention_heads {heads}", "hidden_size")
    return Said(hidden // heads, (), "hidden_size / num_attention_heads")


def check_heads(config: Config) -> tuple[int, int]:
    """hidden_size and num_attention_heads. Raises SpecError where one does not divide into the other."""
    hidden, heads = config.integer("hidden_size", least=1), config.integer("num_attention_heads", least=1)
    if hidden % heads:
        raise config.error(f"hidden_size {hidden} does not divide into num_attention_heads {heads}", "hidden_size")
    return hidden, heads


def check_biases(config: Config) -> None:
    """Raises SpecError where the linears of one side have biases and those of the other none (InternLM3 in
    transformers)."""
    qkv, others = config.flag("attention_bias"), config.flag("mlp_bias")
    if qkv != others:
        raise config.error(
            f"qkv_bias {show(qkv)} beside bias {show(others)}: the class has both or none", "attention_bias"
        )


def even_head_dim(config: Config) -> Said:
    """hidden_size / num_attention_heads, which must divide; a `head_dim` in the file has to say the same."""
    hidden, heads = check_heads(config)
    given = config.data.get("head_dim")
    config.take("head_dim", "the class computes it")
    if given is not None and given != hidden // heads:
        message = (
            f"head_dim is {show(given)}, and the class takes hidden_size / num_attention_heads = {hidden // heads}"
        )
        raise config.error(message, "head_dim")
    return Said(hidden // heads, (), "hidden_size / num_attention_heads")


def one_of(key: str, *values: str) -> Rule:
    """A key that has one of the values which its class knows."""

    def read(config: Config) -> Said:
        said = config.read(key)
        if said.value not in values:
            known = " or ".join(values)
            raise config.error(f"{key} is {show(said.value)}, and this model type knows {known}", key)
        return said

    return Rule(read, inverses.same(key))


def released(name: str, own: str) -> Rule:
    """A size that a release spells in its own way, which the public class does not read: it has to be the class's."""

    def read(config: Config) -> Said:
        said = config.read(own)
        given = config.data.get(name)
        if given is None:
            return said._replace(note=said.note or own)
        config.taken[name] = "used"
        config.made.pop(own, None)  # the file says it after all
        if given != said.value:
            message = f"{name} is {show(given)}; {config.facts.config} reads {own} alone, and has {show(said.value)}"
            raise config.error(message, name, hint=f"add {own} if the model has that many")
        return Said(said.value, (*config.loc, name))

    return Rule(read, inverses.same(own))


def assumed(key: str, value: int, why: str) -> Rule:
    """A key that the class leaves null, where it can't run so: the value of the family's releases, said as assumed."""

    def read(config: Config) -> Said:
        said = config.read(key, None)
        if said.value is not None:
            return said
        config.made[key] = f"assumed: {why}"
        config.assumed.append(f"{key}: {value}; {why}")
        return Said(value, (), config.made[key], default=True)

    return Rule(read, inverses.same(key))


def kv_heads(config: Config) -> Said:
    """`num_key_value_heads`; as many as there are heads where it is null."""
    said = config.read("num_key_value_heads", None)
    if said.value is not None:
        return said
    heads = config.read("num_attention_heads")
    return Said(heads.value, heads.loc, "num_attention_heads: num_key_value_heads is not set")


def partial(default: float = 1.0, *, key_of_its_own: bool = False) -> Rule:
    """`rotary_dim` of a head whose class turns a part of it, `default` of it where the config does not say."""

    def read(config: Config) -> Said | None:
        return rotary_dim(config, whole_head(config), default, key_of_its_own)

    return Rule(read, inverses.rotary_dim)


def by_type(config: Config, layer_type: str, key: str, otherwise: float) -> Said:
    """The rotary base of one layer type: nested in `rope_parameters` since transformers 5, a key of its own before."""
    values, name = rotary(config)
    nested = values.get(layer_type)
    if isinstance(nested, dict) and "rope_theta" in nested:
        return Said(_real(nested["rope_theta"]), (*config.loc, name, layer_type, "rope_theta"), f"{name}.{layer_type}")
    if config.data.get(key) is not None:
        config.taken[key] = "used"
        return Said(_real(config.data[key]), (*config.loc, key), "" if key == "rope_theta" else key)
    config.made[key] = f"default of {config.facts.config}: {otherwise}"
    return Said(otherwise, (), config.made[key], default=True)


def theta_of(layer_type: str, key: str, otherwise: float) -> Rule:
    """`by_type` as a rule."""
    return Rule(lambda config: by_type(config, layer_type, key, otherwise), inverses.theta_of(key))


def every_head() -> Rule:
    """`num_attention_heads` of latent attention."""
    key = "num_attention_heads"
    return Rule(lambda config: config.read(key), inverses.every_head, key)


# -- multi-token prediction -------------------------------------------------------------------------------------------


UNKNOWN = Fixed(None, "unknown until headers: configs and releases disagree")
"""Whether a release holds its prediction modules, where no header of the family has been seen."""


def mtp(key: str) -> Rule:
    """How many prediction modules the config claims. No public class builds any, so that no class default counts."""

    def read(config: Config) -> Said:
        value = config.data.get(key)
        if value is None:
            config.take(key, "null")
            return Said(0, (), "the config claims no multi-token prediction")
        config.taken[key] = "used"
        return Said(value, (*config.loc, key), "" if key == "num_nextn_predict_layers" else key)

    return Rule(read, inverses.mtp(key))


def when(key: str, value: str) -> Rule:
    """A field that has a value where a key is true, and is null where it is false."""

    def read(config: Config) -> Said:
        on = config.flag(key)
        said = config.read(key)
        return Said(value if on else None, said.loc, said.note or f"{key}: {str(on).lower()}", said.default)

    return Rule(read, inverses.when(key, value))


def inside(key: str, name: str, otherwise: str = "") -> Rule:
    """A field inside a mapping of the config, or else another key."""

    def read(config: Config) -> Said:
        mapping = config.value(key, None)
        if isinstance(mapping, dict) and name in mapping:
            return Said(mapping[name], (*config.loc, key, name), f"{key}.{name}")
        if not otherwise:
            raise config.error(f"{key}.{name} is missing, and no public class has a default for it", key)
        said = config.read(otherwise)
        return said._replace(note=said.note or otherwise)

    return Rule(read, inverses.inside(key, name))
