"""What the public config classes take for a key that a config.json leaves out, frozen into `archcalc/hf/defaults.json`.

`python -m tests.families.freeze` rewrites the file from the transformers that is installed. A row is one model_type:

- `config`, `causal`, `image_text`: names of the config class and of the classes that `AutoModelForCausalLM` and
  `AutoModelForImageTextToText` build for it, null where there is none;
- `attribute_map`: other spellings of a key. A spelling that is not among `defaults` is set last and so wins;
- `defaults`: every key that the class declares beyond `base`, as written there: null where the class derives the value;
- `sub_configs`: a nested section's key -> the model_type that it has where it says none;
- `rope_theta`, `rope_type`: what the class takes for a rope that isn't described.

`base` holds the keys that every class has.
"""

import json
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[2] / "archcalc" / "hf" / "defaults.json"

# Model types of the families that archcalc reads; those of their sections follow from the classes.
TYPES = [
    "arcee",
    "deepseek_v2",
    "deepseek_v3",
    "deepseek_v32",
    "dots1",
    "ernie4_5",
    "ernie4_5_moe",
    "gemma3_text",
    "glm4",
    "glm4_moe",
    "glm4_moe_lite",
    "glm_moe_dsa",
    "granite",
    "granitemoe",
    "internlm3",
    "kimi_k25",
    "kimi_linear",
    "llama",
    "minimax_m2",
    "mistral",
    "mixtral",
    "olmo2",
    "olmoe",
    "phi3",
    "phimoe",
    "qwen2",
    "qwen2_5_vl",
    "qwen2_moe",
    "qwen2_vl",
    "qwen3",
    "qwen3_5",
    "qwen3_5_moe",
    "qwen3_moe",
    "qwen3_next",
    "qwen3_vl",
    "qwen3_vl_moe",
    "seed_oss",
    "smollm3",
]


def default(field: Any) -> Any:
    """The declared default of a dataclass field, as JSON has it."""
    value = field.default if field.default is not MISSING else field.default_factory()
    return json.loads(json.dumps(value))


def row(model_type: str, config: Any, base: dict[str, Any]) -> dict[str, Any]:
    """One model_type as its config class declares it."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )

    own = {f.name: default(f) for f in fields(config)}
    specs = config.sub_configs_defaults or {}
    found = {
        "config": config.__name__,
        "causal": MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(model_type),
        "image_text": MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.get(model_type),
        "attribute_map": config.attribute_map,
        "defaults": {k: v for k, v in own.items() if k not in base or base[k] != v},
        "sub_configs": {key: spec.model_type for key, spec in specs.items()},
    }
    if "rope_parameters" in own:
        found |= {"rope_theta": config.default_theta, "rope_type": config.default_rope_type}
    return found


def sections(config: Any) -> list[tuple[str, Any]]:
    """(model_type, config class) of the nested sections of a config class."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    def config_class(spec: Any) -> Any:
        return spec.config_class if hasattr(spec.config_class, "model_type") else CONFIG_MAPPING[spec.model_type]

    return [(spec.model_type, config_class(spec)) for spec in (config.sub_configs_defaults or {}).values()]


def frozen() -> dict[str, Any]:
    """The content of `defaults.json` under the installed transformers."""
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    base = {f.name: default(f) for f in fields(transformers.PreTrainedConfig)}
    rows: dict[str, Any] = {}
    for name in TYPES:
        config = CONFIG_MAPPING[name]
        for model_type, section in [(name, config), *sections(config)]:
            rows.setdefault(model_type, row(model_type, section, base))
    return {"transformers": transformers.__version__, "base": base, "types": rows}


def text(content: dict[str, Any]) -> str:
    """The file: sorted, one line a model_type."""

    def line(value: Any) -> str:
        return json.dumps(value, sort_keys=True)

    rows = ",\n".join(f"  {json.dumps(t)}: {line(r)}" for t, r in sorted(content["types"].items()))
    head = f' "transformers": {line(content["transformers"])},\n "base": {line(content["base"])},\n'
    return f'{{\n{head} "types": {{\n{rows}\n }}\n}}\n'


if __name__ == "__main__":
    FILE.write_text(text(frozen()), encoding="utf-8")
