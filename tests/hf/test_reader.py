"""The config reader: what it takes, what it refuses, and what it says about either."""

from __future__ import annotations

import json
from typing import Any

import pytest

from archcalc.calc.params import count
from archcalc.errors import SpecError
from archcalc.files.loader import parse
from archcalc.files.model import Spec
from archcalc.hf.families.registry import ENCODERS, MISSING, MULTIMODAL, TEXT
from archcalc.workload import Workload
from tests.hf.configs import CLASSES, imported, of_class, spec_of

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "vocab_size": 100,
}

RUNS = {"dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1}}
"""What a class has no usable default for."""


def small(model_type: str, **changes: Any) -> dict[str, Any]:
    """A class's config with what it has no default for, and towers' text tied where the class does."""
    given = RUNS.get(model_type, {}) | changes
    if model_type in ("deepseek_v2",):
        given = {"num_experts_per_tok": 6, **given}
    if model_type.endswith("_text") and model_type.startswith(("qwen2", "qwen3_vl")):
        given = {"tie_word_embeddings": False, **given}
    config = of_class(model_type, **given)
    if "vision_config" in config and "text_config" in config:  # the defaults of the two don't fit each other
        width = "hidden_size" if model_type == "qwen2_vl" else "out_hidden_size"
        if width in config["vision_config"] and model_type != "kimi_k25":
            config["vision_config"][width] = config["text_config"]["hidden_size"]
    return config


def total(spec: Spec) -> int:
    return count(spec.trace(Workload())).total


@pytest.mark.parametrize("model_type", CLASSES)
def test_every_key_of_a_public_class_is_used_harmless_or_what_the_class_does(model_type):
    """Closed lists: a class may declare no key that its dialect has not heard of."""
    document = imported(small(model_type))
    assert [row.key for row in document.receipt if not row.became] == []


@pytest.mark.parametrize("model_type", CLASSES)
def test_the_printed_spec_is_the_spec_that_the_config_is_read_as(model_type):
    document = imported(small(model_type))
    printed = parse(document.text, "printed.yaml", Spec)
    assert printed.model_dump() == spec_of(small(model_type)).model_dump()


@pytest.mark.parametrize("model_type", [name for name in CLASSES if name not in MULTIMODAL])
def test_a_key_that_could_be_a_size_is_refused_with_its_place(model_type):
    config = small(model_type) | {"memory_heads": 7}
    line = list(config).index("memory_heads") + 2  # one key a line, after the brace
    with pytest.raises(SpecError, match="memory_heads 7 could change a size") as error:
        imported(config)
    assert (error.value.problems[0].line, error.value.problems[0].column) == (line, 2)


@pytest.mark.parametrize("value", [None, False, 0, "", [], {}])
def test_a_key_that_is_off_is_no_size(value):
    assert total(spec_of(LLAMA | {"memory_heads": value})) == total(spec_of(LLAMA))


def test_a_default_of_the_class_is_named_beside_its_field():
    text = imported(LLAMA).text
    assert "rms_norm_eps: 0.000001  # default of LlamaConfig: 1e-06" in text
    assert "attention_bias: false  # default of LlamaConfig: false" in text
    assert "num_key_value_heads: 4  # num_attention_heads: num_key_value_heads is not set" in text
    assert "head_dim: 16  # hidden_size / num_attention_heads" in text


def test_a_size_that_neither_file_nor_class_has_is_named():
    with pytest.raises(SpecError, match="hidden_size is missing, and no public class has a default"):
        imported({"model_type": "mimo", "num_hidden_layers": 2})


def test_a_key_of_another_name_stands_beside_its_field():
    text = imported(small("ernie4_5_moe")).text
    assert "n_routed_experts: 64  # moe_num_experts" in text


# -- keys that a class ignores ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model_type", "key", "value"),
    [
        ("qwen2", "attention_bias", False),  # its q, k and v are biased whatever that says
        ("minimax_m2", "use_qk_norm", False),
        ("minimax_m2", "shared_intermediate_size", 128),
        ("deepseek_v3", "moe_layer_freq", 2),
        ("deepseek_v3", "scoring_func", "softmax"),
        ("glm4_moe_lite", "first_k_dense_replace", 3),
        ("qwen3_5_text", "attn_output_gate", False),
        ("deepseek_v2", "mlp_bias", True),
        ("kimi_linear", "tie_word_embeddings", True),
        ("olmoe", "head_dim", 77),
        ("qwen3_5_moe_text", "decoder_sparse_step", 2),
    ],
)
def test_a_key_that_the_class_ignores_must_say_what_the_class_does(model_type, key, value):
    with pytest.raises(SpecError, match=key):
        imported(small(model_type) | {key: value})


def test_the_vision_keys_of_k25s_release_must_say_what_its_class_builds():
    """Kimi_K25VisionConfig reads hidden_size and not the release's vt_hidden_size (transformers 5.24)."""
    config = small("kimi_k25")
    config["vision_config"]["vt_hidden_size"] = 1024
    with pytest.raises(SpecError, match="vt_hidden_size is 1024; Kimi_K25VisionConfig reads hidden_size alone"):
        imported(config)


def test_two_names_of_one_key_may_not_disagree():
    with pytest.raises(SpecError, match="num_local_experts 4 and num_experts 8 are one key"):
        imported(small("mixtral") | {"num_local_experts": 4, "num_experts": 8})


# -- ties and parts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", ["qwen3_vl", "qwen3_5", "qwen3_5_moe", "kimi_k25"])
def test_ties_of_a_model_with_towers_are_read_at_the_top(model_type):
    config = small(model_type, tie_word_embeddings=False)
    config["text_config"]["tie_word_embeddings"] = True
    assert not spec_of(config).backbone.tie_word_embeddings
    assert spec_of(config | {"tie_word_embeddings": True}).backbone.tie_word_embeddings


def test_a_tie_inside_the_text_of_qwen2_vl_counts():
    """Qwen2VLConfig forwards it (transformers 5.24, configuration_qwen2_vl.py, __post_init__)."""
    config = small("qwen2_vl", tie_word_embeddings=False)
    config["text_config"]["tie_word_embeddings"] = True
    assert spec_of(config).backbone.tie_word_embeddings


@pytest.mark.parametrize(("model_type", "tied"), [("smollm3", True), ("gemma3_text", True), ("llama", False)])
def test_a_missing_tie_is_the_classs(model_type, tied):
    config = small(model_type)
    del config["tie_word_embeddings"]
    assert spec_of(config).backbone.tie_word_embeddings is tied


def test_a_file_without_its_towers_is_the_text_alone_and_says_so():
    config = small("qwen3_vl")
    del config["vision_config"]
    document = imported(config, name="Qwen3-VL")
    assert spec_of(config).vision is None
    assert "vision_config is missing, so that the vision tower is left out" in document.text


@pytest.mark.parametrize("model_type", ["qwen3_vl", "qwen3_5", "kimi_k25"])
def test_a_flattened_file_is_refused(model_type):
    config = small(model_type)
    flat = {**config, **config.pop("text_config"), "model_type": model_type}
    del flat["text_config"]
    with pytest.raises(SpecError, match="text_config is missing"):
        imported(flat)


def test_a_flat_qwen2_vl_is_read_as_its_class_does():
    nested = small("qwen2_vl")
    flat = {**nested, **nested["text_config"], "model_type": "qwen2_vl"}
    del flat["text_config"]
    assert spec_of(flat).model_dump() == spec_of(nested).model_dump()


@pytest.mark.parametrize("model_type", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_text_keys_at_the_top_too_have_to_say_the_same(model_type):
    # transformers 4.52.4 wrote both; the class reads text_config alone
    nested = small(model_type)
    windows = {"sliding_window": 32768} if "sliding_window" in nested["text_config"] else {}  # off, and so no size
    both = {**nested["text_config"], **nested, **windows}
    assert spec_of(both).model_dump() == spec_of(nested).model_dump()
    with pytest.raises(SpecError, match="hidden_size 96 could change a size"):
        imported({**both, "hidden_size": 96})


def test_rope_scaling_replaces_rope_parameters_as_in_the_class():
    # transformers 5.24, modeling_rope_utils.py: what it leaves out comes from the top, not from the other mapping
    both = {"rope_parameters": {"rope_theta": 500.0}, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}
    assert spec_of({**LLAMA, **both, "rope_theta": 77.0}).backbone.rope_theta == 77.0
    assert spec_of({**LLAMA, **both, "rope_scaling": {}}).backbone.rope_theta == 500.0


@pytest.mark.parametrize(("model_type", "turned"), [("minimax_m2", 32), ("phi3", None), ("qwen3_next", 64)])
def test_rotary_dim_is_a_key_of_minimax_alone(model_type, turned):
    # phi3 and qwen3_next read partial_rotary_factor, by default 1 and 0.25 of a head of 256
    spec = spec_of(of_class(model_type, rotary_dim=32))
    assert {getattr(block, "rotary_dim", turned) for block in spec.backbone.attention.values()} == {turned}


# -- types ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", sorted({*MISSING, *ENCODERS, "klingon"}))
def test_a_type_that_is_not_read_is_refused_by_name(model_type):
    with pytest.raises(SpecError, match=model_type):
        imported({"model_type": model_type, "hidden_size": 64})


def test_a_type_that_nearly_is_one_gets_a_hint():
    with pytest.raises(SpecError) as error:
        imported({"model_type": "qwen3_mo"})
    assert error.value.problems[0].hint == "did you mean qwen3_moe?"


@pytest.mark.parametrize("model_type", [None, 7, ["llama"]])
def test_a_file_without_a_type_is_refused(model_type):
    with pytest.raises(SpecError, match="model_type"):
        imported({"model_type": model_type} if model_type is not None else {})


def test_kimi_k2_needs_the_class_that_its_architectures_name():
    """transformers has no kimi_k2; the release's own config names DeepseekV3ForCausalLM."""
    config = small("deepseek_v3") | {"model_type": "kimi_k2"}
    with pytest.raises(SpecError, match="architectures does not name DeepseekV3ForCausalLM"):
        imported(config)
    named = config | {"architectures": ["DeepseekV3ForCausalLM"]}
    assert total(spec_of(named)) == total(spec_of(small("deepseek_v3")))


def test_no_type_is_both_read_and_missing():
    assert not {*TEXT, *MULTIMODAL} & {*MISSING, *ENCODERS}


# -- places -----------------------------------------------------------------------------------------------------------


def test_an_error_of_the_spec_points_into_the_config():
    """GQA's rule is the spec's own; the place is the config's."""
    config = LLAMA | {"num_key_value_heads": 3}
    with pytest.raises(SpecError, match="num_attention_heads 4 is no multiple of num_key_value_heads 3") as error:
        spec_of(config)
    problem = error.value.problems[0]
    assert problem.source == "config.json"
    assert problem.line == list(config).index("num_attention_heads") + 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": "64"}, "hidden_size"),
        ({"hidden_size": -64}, "hidden_size"),
        ({"hidden_size": 64.5}, "hidden_size"),
        ({"hidden_size": True}, "hidden_size"),
        ({"hidden_size": None}, "hidden_size"),
        ({"num_hidden_layers": 1_000_000}, "num_hidden_layers"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"vocab_size": [1]}, "vocab_size"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
        ({"torch_dtype": "int3"}, "torch_dtype"),
        ({"rope_theta": "big"}, "rope_theta"),
        ({"rope_scaling": [1]}, "rope_scaling"),
    ],
)
def test_nonsense_is_one_clear_error_at_its_key(change, message):
    with pytest.raises(SpecError) as error:
        spec_of(LLAMA | change)
    assert message in str(error.value)
    assert error.value.problems[0].line is not None


def test_a_receipt_has_each_key_once_and_what_it_became():
    document = imported(LLAMA | {"torch_dtype": "float16", "use_cache": True})
    became = {row.key: row.became for row in document.receipt}
    assert became["hidden_size"] == "backbone.hidden_size"
    assert became["torch_dtype"] == "backbone.dtype"
    assert became["use_cache"] == "harmless"
    assert [row.key for row in document.receipt if not row.default] == list(json.loads(document.config.text))
