"""A config made of a spec: the reader makes the same spec of it, or the class is not the one."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from archcalc.errors import InputError
from archcalc.files.loader import load_spec
from archcalc.files.model import Spec
from archcalc.hf.backward import class_of, config_as, config_of
from archcalc.hf.config import frozen
from archcalc.hf.draft import Draft
from archcalc.hf.families.registry import MULTIMODAL, TEXT
from archcalc.hf.inverses import rotary_dim
from archcalc.hf.likeness import differences, forward
from tests.families.bases import BASES
from tests.hf.configs import CLASSES, spec_of
from tests.hf.test_reader import small
from tests.support import BUNDLED, tiny

READABLE = {
    # sizes that the spec itself refuses: a picture of 5 patches does not merge by 2
    name: config | ({"scoring_func": "softmax"} if name.startswith("deepseek_v2") else {})
    for name, config in BASES.items()
    if name != "kimi_k25"
}


def row_of(model_type: str) -> Any:
    return TEXT.get(model_type) or MULTIMODAL[model_type]


@pytest.mark.parametrize("model_type", CLASSES)
def test_a_classs_defaults_come_back(model_type: str) -> None:
    spec = spec_of(small(model_type))
    config, clashes = config_as(row_of(model_type), spec)
    assert clashes == []
    assert list(differences(spec, forward(config))) == []


@pytest.mark.parametrize("base", READABLE)
def test_every_pattern_of_the_families_comes_back(base: str) -> None:
    spec = forward(READABLE[base])
    config, clashes = config_as(row_of(READABLE[base]["model_type"]), spec)
    assert clashes == []
    assert list(differences(spec, forward(config))) == []


@pytest.mark.parametrize("base", [name for name in READABLE if class_of(READABLE[name]["model_type"])])
def test_some_class_is_found_for_every_family(base: str) -> None:
    spec = forward(READABLE[base])
    assert list(differences(spec, forward(config_of(spec)))) == []


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        ("ernie4_5_moe", {"moe_layer_start_index": 3, "moe_layer_end_index": 20, "moe_layer_interval": 3}),
        ("ernie4_5_moe", {"moe_layer_start_index": 99}),
        ("ernie4_5_moe", {"moe_layer_start_index": 6, "moe_layer_end_index": 6, "num_hidden_layers": 9}),
        ("qwen3_moe", {"decoder_sparse_step": 2, "mlp_only_layers": [3]}),
        ("qwen3_moe", {"use_sliding_window": True}),
        ("qwen2_moe", {"use_sliding_window": True, "max_window_layers": 7}),
        ("qwen2", {"use_sliding_window": True, "max_window_layers": 28}),
        ("smollm3", {"no_rope_layer_interval": 3, "use_sliding_window": True, "sliding_window": 512}),
        ("dots1", {"first_k_dense_replace": 99, "max_window_layers": 5}),
        ("glm_moe_dsa", {"index_topk_pattern": "FSSF" * 19 + "FS", "num_hidden_layers": 78}),
        ("kimi_linear", {"layer_types": ["full_attention"] * 4, "num_hidden_layers": 4}),
        ("kimi_linear", {"layer_types": ["linear_attention"] * 4, "num_hidden_layers": 4}),
        ("qwen3_next", {"full_attention_interval": 3, "mlp_only_layers": [0, 5]}),
        ("minimax_m2", {"rotary_dim": 96}),
        ("llama", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0}}),
        ("gemma3_text", {"rope_scaling": {"rope_type": "linear", "factor": 8.0}, "rope_local_base_freq": 5000.0}),
    ],
)
def test_spellings_of_a_pattern_come_back_as_layers(model_type: str, changes: dict[str, Any]) -> None:
    spec = spec_of(small(model_type) | changes)
    plain = spec_of(small(model_type))
    assert list(differences(spec, plain))  # the change is one
    config, clashes = config_as(row_of(model_type), spec)
    assert clashes == []
    assert list(differences(spec, forward(config))) == []


def test_every_share_of_a_head_comes_back() -> None:
    for head_dim in range(2, 257, 2):
        for turned in range(2, head_dim + 1, 2):
            draft = Draft()
            draft.values = {"head_dim": head_dim}
            rotary_dim(draft, turned)
            assert int(head_dim * draft.data["partial_rotary_factor"]) == turned


@pytest.mark.parametrize("key", ["hidden_size", "intermediate_size", "num_key_value_heads", "vocab_size", "rope_theta"])
def test_another_size_in_the_config_shows_by_its_field(key: str) -> None:
    spec = spec_of(small("llama"))
    config = config_of(spec)
    found = list(differences(spec, forward({**config, key: config[key] // 2})))
    assert [clash.field.rpartition(".")[2] for clash in found] == [key]


BUNDLED_TYPES = {
    "deepseek-v3": "deepseek_v3",
    "deepseek-v3.2": "deepseek_v32",
    "gemma-3-27b": "gemma3_text",
    "glm-5": "deepseek_v32",  # the first that fits: every layer has an indexer of its own
    "k25": "kimi_k25",
    "kimi-k2": "deepseek_v3",
    "kimi-k2-thinking": "deepseek_v3",
    "kimi-linear-48b": "kimi_linear",
    "llama-3.1-405b": "llama",
    "llama-3.1-70b": "llama",
    "llama-3.1-8b": "llama",
    "minimax-m2.5": "minimax_m2",
    "mixtral-8x22b": "mixtral",
    "qwen2-72b": "qwen2",
    "qwen3-235b-a22b": "qwen3_moe",
    "qwen3-30b-a3b": "qwen3_moe",
    "qwen3-32b": "qwen3",
    "qwen3-coder-next": "qwen3_next",
    "qwen3-vl-235b": "qwen3_vl_moe",
    "qwen3.5-397b-a17b": "qwen3_5_moe",
}


@pytest.mark.parametrize("name", BUNDLED_TYPES)
def test_a_bundled_spec_has_a_public_class(name: str) -> None:
    assert config_of(load_spec(name))["model_type"] == BUNDLED_TYPES[name]


def test_kimi_k3_is_the_one_bundled_spec_without_a_public_class() -> None:
    assert set(BUNDLED) - set(BUNDLED_TYPES) == {"kimi-k3"}
    with pytest.raises(InputError, match="transformers has no class that has"):
        config_of(load_spec("kimi-k3"))


def test_the_names_of_blocks_do_not_matter() -> None:
    spec = spec_of(small("qwen3_moe"))
    plain = spec.model_dump()
    backbone = plain["backbone"]
    backbone["attention"] = {"mine": backbone["attention"]["full"]}
    backbone["ffn"] = {"yours": backbone["ffn"]["moe"]}
    backbone["layers"] = [{"count": 1, "attention": "mine", "ffn": "yours"}] * spec.backbone.num_hidden_layers
    assert config_of(Spec.model_validate(plain)) == config_of(spec)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda b: b["ffn"]["dense"].update(gated=False, hidden_act="relu2"),
            r"ffn\.dense\.gated false: the nearest, Qwen3ForCausalLM, has true",
        ),
        (lambda b: b["attention"]["full"].update(output_gate="per_head"), r"full\.output_gate \"per_head\".*none"),
        (lambda b: b.update(lm_head_bias=True), r"backbone\.lm_head_bias true: the nearest, Qwen3ForCausalLM"),
    ],
)
def test_a_spec_that_no_class_is_is_refused_with_the_fields_name(change: Any, message: str) -> None:
    plain = spec_of(small("qwen3")).model_dump()
    change(plain["backbone"])
    with pytest.raises(InputError, match=message):
        config_of(Spec.model_validate(plain))


def test_a_class_of_another_family_may_be_the_one() -> None:
    """Qwen3 with half of each head turned is what Glm4MoeForCausalLM is with as many dense layers as there are."""
    plain = spec_of(small("qwen3")).model_dump()
    plain["backbone"]["attention"]["full"]["rotary_dim"] = 64
    config = config_of(Spec.model_validate(plain))
    assert (config["model_type"], config["first_k_dense_replace"]) == (
        "glm4_moe",
        plain["backbone"]["num_hidden_layers"],
    )


def test_two_blocks_that_one_key_stands_for_clash() -> None:
    plain = tiny()
    plain["backbone"]["ffn"]["wide"] = plain["backbone"]["ffn"]["dense"] | {"intermediate_size": 24}
    plain["backbone"]["num_hidden_layers"] += 1
    plain["backbone"]["layers"].append({"count": 1, "attention": "gqa", "ffn": "wide"})
    with pytest.raises(InputError, match=r"backbone\.ffn\.wide\.intermediate_size 24"):
        config_of(Spec.model_validate(deepcopy(plain)))


def test_every_class_of_the_frozen_facts_has_a_dialect_that_is_tried() -> None:
    built = {name for name in frozen()["types"] if class_of(name)}
    assert built == {name for name in (*TEXT, *MULTIMODAL) if class_of(name)}
