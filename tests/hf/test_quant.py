"""Quantization configs to storage sections: whole releases to the byte, each method's own rules, what is refused.

The configs are written from public facts: what a release's quantization_config says, with its lists spelled out.
"""

from __future__ import annotations

import json
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from archcalc.documents.weights import weights
from archcalc.errors import InputError
from archcalc.files.loader import load_spec
from archcalc.files.model import Spec
from archcalc.files.storage import release
from archcalc.hf.quant import Found, storage
from archcalc.tape import Dim, Weight
from archcalc.workload import Workload
from tests.calc.test_weights import CHECKPOINTS
from tests.support import data, dumped, spec_of, tiny

MODELS = Path(__file__).parents[1] / "published" / "models"
BF16 = {"scheme": "plain", "dtype": "bfloat16"}
FP32 = {"scheme": "plain", "dtype": "float32"}
BLOCKS = {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]}
NVFP4 = {"quant_algo": "NVFP4", "group_size": 16}


def of(spec: Spec) -> list[Weight]:
    return spec.trace(Workload()).weights()


def stored(spec: Spec, section: Any) -> Any:
    """The bytes of a spec under a section, which has to be a valid one as text too."""
    content = spec.model_dump(mode="json", exclude_unset=True, by_alias=True)
    return weights(spec_of({**content, "storage": deepcopy(section)})).quantities["weights.bytes"]


def found(content: dict[str, Any], quantized: dict[str, Any], family: str = "some", **config: Any) -> Found:
    """What a config with this quantization_config says of a model."""
    return storage(
        {"dtype": "bfloat16", "quantization_config": quantized, **config}, None, of(spec_of(content)), family
    )


def wide(**layers: Any) -> dict[str, Any]:
    """The tiny model with sizes that groups of 32 divide: layer 0 dense, 1 and 2 with six experts."""
    content = tiny(**layers)
    backbone = content["backbone"]
    backbone |= {"hidden_size": 64, "vocab_size": 128}
    backbone["attention"]["gqa"] |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    backbone["ffn"]["dense"]["intermediate_size"] = 96
    backbone["ffn"]["moe"]["moe_intermediate_size"] = 32
    return content


def paths(content: dict[str, Any], section: Any) -> dict[str, str]:
    """By path, layers and experts written out: the scheme of each matrix under a section."""
    spec = spec_of({**content, "storage": deepcopy(section)})
    how = release(spec.storage)
    return {
        w.path.replace("{i}", str(layer)): how.rule(w, layer)[1].scheme
        for w in of(spec)
        for layer in w.indices or (0,)
        if w.into and w.flat
    }


def by_role(answer: Found) -> dict[str, Any]:
    """A section that is a mapping."""
    assert isinstance(answer.section, dict)
    return answer.section


def rules(answer: Found) -> list[dict[str, Any]]:
    """A section that is a list of rules."""
    assert isinstance(answer.section, list)
    return answer.section


# ------------------------------------------------------------------------------------------- releases to the byte


def test_deepseek_v3_comes_out_as_its_spec_has_it() -> None:
    spec = load_spec("deepseek-v3")
    config = {"model_type": "deepseek_v3", "torch_dtype": "bfloat16", "quantization_config": BLOCKS}
    assert storage(config, None, of(spec), "deepseek_v3") == (data("deepseek-v3")["storage"], [], [])


def test_kimi_k2_comes_out_as_its_spec_has_it() -> None:
    config = {"torch_dtype": "bfloat16", "quantization_config": BLOCKS}
    assert storage(config, None, of(load_spec("kimi-k2")), "kimi_k2").section == data("kimi-k2")["storage"]


def test_deepseek_v32_comes_out_to_the_byte() -> None:
    content = data("deepseek-v3")
    content["backbone"]["attention"]["mla"]["indexer"] = {
        "index_n_heads": 64,
        "index_head_dim": 128,
        "index_topk": 2048,
    }
    answer = found(content, {**BLOCKS, "scale_fmt": "ue8m0"}, "deepseek_v32")
    assert [rule["match"] for rule in rules(answer)] == [
        "router_bias",
        "*norm",
        "*.weights_proj",
        "attention",
        "dense_ffn",
        "routed_expert",
        "shared_expert",
        "mtp_embedding",
        "mtp_head",
        "default",
    ]
    assert stored(spec_of(content), answer.section) == CHECKPOINTS["deepseek-v3.2"]["value"]
    assert answer.assumed == []


def test_qwen3_30b_a3b_fp8_comes_out_to_the_byte() -> None:
    spec = load_spec(str(MODELS / "qwen3-coder-30b-a3b.yaml"))  # the same sizes
    names = [f"model.layers.{i}.{what}" for i in range(48) for what in ("input_layernorm", "mlp.gate")]
    config = {
        "torch_dtype": "bfloat16",
        "quantization_config": {**BLOCKS, "modules_to_not_convert": ["lm_head", *names]},
    }
    answer = storage(config, None, of(spec), "qwen3_moe")
    block = {"scheme": "fp8-block", "block_size": [128, 128], "scale_dtype": "bfloat16"}
    assert tuple(answer) == ({"default": BF16, "attention": block, "routed_expert": block}, [], [])
    assert stored(spec, answer.section) == CHECKPOINTS["qwen3-30b-a3b-fp8"]["value"]


def k25(fmt: str = "pack-quantized", *ignored: str, **weights: Any) -> dict[str, Any]:
    args = {"num_bits": 4, "group_size": 32, "strategy": "group", "symmetric": True, "type": "int", **weights}
    group = {"targets": ["Linear"], "weights": args, "input_activations": None, "output_activations": None}
    proj = r"re:.*mlp\.(gate|up|gate_up|down)_proj.*"
    return {
        "config_groups": {"group_0": group},
        "format": fmt,
        "ignore": ["re:.*self_attn.*", "re:.*shared_experts.*", proj, *ignored],
        "kv_cache_scheme": None,
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
    }


def test_kimi_k25_comes_out_as_its_spec_has_it() -> None:
    # the config stands inside text_config: its names are those of the text model, and it is not for the tower
    spec = load_spec("k25")
    config = {"dtype": "bfloat16", "text_config": {"quantization_config": k25("pack-quantized", "lm_head")}}
    answer = storage(config, None, of(spec), "kimi_k25")
    assert tuple(answer) == (data("k25")["storage"], [], [])
    assert stored(spec, answer.section) == CHECKPOINTS["k25"]["value"]


def test_qwen3_14b_mlx_comes_out_to_the_byte() -> None:
    spec = load_spec(str(MODELS / "qwen3-14b.yaml"))
    settings = {"group_size": 64, "bits": 4}
    config = {"torch_dtype": "bfloat16", "quantization": settings, "quantization_config": settings}
    answer = storage(config, None, of(spec), "qwen3")
    assert set(answer.section) == {"default", "embedding", "attention", "dense_ffn", "head"}
    assert stored(spec, answer.section) == CHECKPOINTS["qwen3-14b-mlx-4bit"]["value"]


def test_kimi_k3_packs_its_routed_experts_alone() -> None:
    def w(path: str, suffix: str, out: int, into: int, role: Any, **more: Any) -> Weight:
        dims = ((Dim("o", out),), (Dim("i", into),) if into else ())
        place = {"part": "backbone", "dtype": "bfloat16", "indices": (1, 2), **more}
        return Weight(f"language_model.model.layers.{{i}}.{path}", suffix, *dims, role=role, **place)

    parts = [
        w("block_sparse_moe.experts.{e}.gate_proj", "weight", 3072, 3584, "routed_expert", stack=(Dim("e", 4),)),
        w("block_sparse_moe.routed_expert_up_proj", "weight", 7168, 3584, "routed_expert"),
        w("block_sparse_moe.gate", "weight", 896, 7168, "router"),
        w("block_sparse_moe.gate", "e_score_correction_bias", 896, 0, "router_bias", trainable=False, dtype="float32"),
        w("self_attn.q_proj", "weight", 12_288, 7168, "attention"),
        w("self_attn.q_conv1d", "weight", 12_288, 4, "attention", flat=False),
        w("self_attn", "A_log", 128, 0, "attention"),
    ]
    quantized = k25("mxfp4-pack-quantized", "re:.*lm_head.*", type="float", scale_dtype="torch.uint8")
    config = {"dtype": "bfloat16", "text_config": {"quantization_config": quantized}}
    answer = storage(config, None, parts, "kimi_k3")
    how = {rule["match"]: rule["store"] for rule in rules(answer)}
    assert how["routed_expert"] == {"scheme": "mxfp4-pack-quantized"}
    assert how["*.routed_expert_up_proj"] == how["default"] == BF16
    assert how["router_bias"] == FP32
    assert {match for match, store in how.items() if store == FP32} == {"router_bias", "*.q_conv1d", "*.A_log"}


def test_kimi_linear_is_in_bf16_but_for_its_states() -> None:
    # 98,245,528,576 B of 49,122,681,728 elements: two bytes each, and two more for 82,560 = 20 x (4096 + 32)
    assert 98_245_528_576 - 2 * 49_122_681_728 == 2 * 20 * (4096 + 32)
    bias = Weight("gate", "e_score_correction_bias", (Dim("n", 4),), role="router_bias", part="backbone",
                  dtype="float32", trainable=False)  # fmt: skip
    state = Weight("attn", "A_log", (Dim("n", 4),), role="attention", part="backbone", dtype="bfloat16")
    answer = storage({"torch_dtype": "bfloat16"}, None, [bias, state], "kimi_linear")
    assert answer.section == {"default": BF16, "attention": FP32}


# ------------------------------------------------------------------------------------------- ModelOpt


def test_an_excluded_prediction_layer_and_projections_read_as_one_would_write_them() -> None:
    # nvidia/DeepSeek-V3.1-NVFP4: of attention the output projection alone; layer 61 whole
    names = [f"model.layers.{i}.self_attn.{p}" for i in range(61) for p in ("q_a_proj", "q_b_proj", "kv_b_proj")]
    names += [f"model.layers.{i}.self_attn.kv_a_proj_with_mqa" for i in range(61)]
    algorithm = {**NVFP4, "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head", "model.layers.61*", *names]}
    spec = load_spec("deepseek-v3")
    config = {"torch_dtype": "bfloat16"}
    answer = storage(config, {"producer": {}, "quantization": algorithm}, of(spec), "deepseek_v3")
    four = {"scheme": "nvfp4"}
    assert [(rule["match"], rule["store"]) for rule in rules(answer)] == [
        ("router_bias", FP32),
        ("mtp", BF16),
        ("*.o_proj", four),
        ("dense_ffn", four),
        ("routed_expert", four),
        ("shared_expert", four),
        ("default", BF16),
    ]
    assert any("k_scale" in note for note in answer.notes)
    assert any("routers in float32" in line for line in answer.assumed)


def test_fp8_of_modelopt_has_a_scale_of_weights_and_of_inputs() -> None:
    # 70,553,706,496 parameters, of them embedding, head and 161 norms in bf16; two scales for each of 80 x 7 matrices
    spec = load_spec("llama-3.1-70b")
    algorithm = {"quant_algo": "FP8", "kv_cache_quant_algo": None, "exclude_modules": ["lm_head"]}
    answer = storage({"torch_dtype": "bfloat16"}, {"quantization": algorithm}, of(spec), "llama")
    assert stored(spec, answer.section) == 70_553_706_496 + 2 * 128_256 * 8192 + 161 * 8192 + 80 * 7 * 8


MIXED = {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}


def big_map() -> tuple[dict[str, Any], dict[str, Any]]:
    """A model of 58 layers with 128 experts, and a map with an entry for each of its 22,504 matrices but the gates."""
    content = wide(num_hidden_layers=58, layers=[{"count": 58, "attention": "gqa", "ffn": "moe"}])
    backbone = content["backbone"]
    del backbone["ffn"]["dense"]
    backbone["ffn"]["moe"] |= {"n_routed_experts": 128, "n_shared_experts": 0}
    layers = [f"model.layers.{i}" for i in range(58)]
    four = [f"{at}.mlp.experts.{e}.{p}_proj" for at in layers for e in range(128) for p in ("gate", "up", "down")]
    eight = [f"{at}.self_attn.{p}_proj" for at in layers for p in "qkvo"]
    return content, {**dict.fromkeys(four, NVFP4), **{name: {"quant_algo": "FP8"} for name in eight}}


def test_a_map_of_22504_entries_is_read_within_a_second_and_becomes_two_rules() -> None:
    content, entries = big_map()
    assert len(entries) == 22_504
    text = json.dumps({"dtype": "bfloat16", "quantization_config": {**MIXED, "quantized_layers": entries}}, indent=4)
    assert len(text) > 3_000_000
    parts = of(spec_of(content))
    start = time.process_time()
    answer = storage(json.loads(text), None, parts, "some")
    assert time.process_time() - start < 1
    fp8 = {"scheme": "float-quantized", "strategy": "tensor", "scale_dtype": "float32", "input_scale": True}
    assert by_role(answer).items() >= {"attention": fp8, "routed_expert": {"scheme": "nvfp4"}}.items()


def test_one_expert_stored_otherwise_is_refused() -> None:
    content, entries = big_map()
    changed = {**entries, "model.layers.7.mlp.experts.3.up_proj": {"quant_algo": "FP8"}}
    with pytest.raises(InputError, match=r"quantized_layers stores 127 of the 128 experts .*layers\.7.*up_proj"):
        found(content, {**MIXED, "quantized_layers": changed})
    del entries["model.layers.7.mlp.experts.3.up_proj"]
    with pytest.raises(InputError, match=r"127 of the 128 experts"):
        found(content, {**MIXED, "quantized_layers": entries})


def test_an_entry_for_a_module_is_for_all_inside() -> None:
    entries = {f"model.layers.{i}.mlp.experts": {"quant_algo": "W4A16_NVFP4", "group_size": 16} for i in (1, 2)}
    answer = found(wide(), {**MIXED, "quantized_layers": entries})
    assert by_role(answer)["routed_expert"] == {"scheme": "nvfp4", "input_scale": False}


def test_layers_that_differ_become_rules_by_path() -> None:
    names = {f"model.layers.{i}.self_attn.{p}_proj": {"quant_algo": "FP8"} for i in (0, 2) for p in "qkvo"}
    answer = found(wide(), {**MIXED, "quantized_layers": {**names, "lm_head": NVFP4}})
    schemes = paths(wide(), answer.section)
    fp8 = {path for path, scheme in schemes.items() if scheme == "float-quantized"}
    assert fp8 == set(names)
    assert schemes["lm_head"] == "nvfp4"
    assert {scheme for path, scheme in schemes.items() if path not in fp8 | {"lm_head"}} == {"plain"}
    assert len(answer.section) <= 5


def test_a_map_for_another_model_is_refused() -> None:
    entries = {"backbone.layers.0.mixer.in_proj": NVFP4}
    with pytest.raises(InputError, match=r"none of its 1 entries is for a weight of this model.*mixer\.in_proj"):
        found(wide(), {**MIXED, "quantized_layers": entries})


def test_a_release_may_name_modules_otherwise() -> None:
    names = [f"model.layers.{i}.block_sparse_moe.experts.{e}.w{n}" for i in (1, 2) for e in range(6) for n in (1, 2, 3)]
    quantized = {**MIXED, "quantized_layers": dict.fromkeys(names, NVFP4)}
    config = {"dtype": "bfloat16", "quantization_config": quantized}

    def renamed(path: str) -> str:
        for ours, theirs in (("gate_proj", "w1"), ("down_proj", "w2"), ("up_proj", "w3")):
            path = path.replace(f"mlp.experts.{{e}}.{ours}", f"block_sparse_moe.experts.{{e}}.{theirs}")
        return path

    answer = storage(config, None, of(spec_of(wide())), "mixtral", renamed)
    assert by_role(answer)["routed_expert"] == {"scheme": "nvfp4"}
    assert "dense_ffn" not in by_role(answer)


# ------------------------------------------------------------------------------------------- other methods


def test_mxfp4_is_for_routed_experts_alone() -> None:
    # openai/gpt-oss-20b: transformers' own method
    listed = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
    answer = found(wide(), {"quant_method": "mxfp4", "modules_to_not_convert": listed})
    assert by_role(answer)["routed_expert"] == {"scheme": "mxfp4"}
    assert {match for match, store in by_role(answer).items() if store["scheme"] != "plain"} == {"routed_expert"}


def test_awq_packs_the_layers_of_the_backbone() -> None:
    settings = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True}
    answer = found(wide(), {**settings, "modules_to_not_convert": ["shared_experts"]}, dtype="float16")
    awq = {"scheme": "awq", "num_bits": 4, "group_size": 32, "scale_dtype": "float16"}
    half = {"scheme": "plain", "dtype": "float16"}
    assert answer.section == {
        "default": half, "router_bias": FP32, "attention": awq, "dense_ffn": awq, "routed_expert": awq
    }  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "scheme"),
    [
        (
            {"quant_method": "gptq", "bits": 4, "group_size": -1, "desc_act": False, "sym": True},
            {"scheme": "gptq", "num_bits": 4, "group_size": None, "scale_dtype": "bfloat16"},
        ),
        (
            {"quant_method": "auto-round", "bits": 4, "group_size": 32, "packing_format": "auto_round:auto_gptq"},
            {"scheme": "gptq", "num_bits": 4, "group_size": 32, "scale_dtype": "bfloat16"},
        ),
        (
            {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
            {"scheme": "bitsandbytes-4bit", "quant_type": "nf4", "dtype": "bfloat16"},
        ),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, {"scheme": "bitsandbytes-int8"}),
        (
            {"quant_method": "fp8", "activation_scheme": "static"},
            {"scheme": "float-quantized", "strategy": "tensor", "scale_dtype": "float32", "input_scale": True},
        ),
        ({"quant_method": "fp8", "weight_block_size": [1, 32]}, {"scheme": "mxfp8"}),
        (
            k25("float-quantized", "lm_head", num_bits=8, type="float", strategy="channel", group_size=None),
            {"scheme": "float-quantized", "strategy": "channel", "scale_dtype": "bfloat16"},
        ),
        (
            k25("pack-quantized", "lm_head", symmetric=False),
            {
                "scheme": "pack-quantized",
                "num_bits": 4,
                "group_size": 32,
                "scale_dtype": "bfloat16",
                "symmetric": False,
            },
        ),
        (
            k25("nvfp4-pack-quantized", "lm_head", type="float", group_size=16),
            {"scheme": "nvfp4", "input_scale": False},
        ),
    ],
    ids=lambda value: value.get("quant_method", ""),
)
def test_the_scheme_of_a_method(settings: dict[str, Any], scheme: dict[str, Any]) -> None:
    answer = found(wide(), settings)
    assert by_role(answer)["routed_expert"] == scheme
    assert by_role(answer).get("head") is None


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        (BLOCKS, "modules_to_not_convert"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "llm_int8_skip_modules"),
    ],
    ids=["fp8", "bitsandbytes"],
)
def test_a_list_of_what_stays_replaces_the_head_that_stays_without_one(settings: dict[str, Any], key: str) -> None:
    # transformers 5.24, quantizers/base.py, get_modules_to_not_convert: its default is taken where there is no list
    quantized = {
        str(listed): paths(wide(), found(wide(), {**settings, key: listed}).section)["lm_head"] != "plain"
        for listed in (None, ["model.layers.0"], ["model.layers.0", "lm_head"])
    }
    assert [*quantized.values()] == [False, True, False]


def test_what_bitsandbytes_does_with_experts_is_assumed() -> None:
    # transformers 5.24, integrations/bitsandbytes.py: nn.Linear alone is replaced, and a mixture has none
    answer = found(wide(), {"quant_method": "bitsandbytes", "load_in_4bit": True})
    assert any("transformers 4" in line for line in answer.assumed)


def test_compressed_tensors_ignores_a_module_not_what_stands_inside_it() -> None:
    # compressed-tensors 0.20.0, utils/match.py, match_name: the name is the target, or an expression matches it
    whole = k25("pack-quantized") | {"ignore": ["model.layers.0.self_attn", "model.layers.1.self_attn.o_proj"]}
    schemes = paths(wide(), found(wide(), whole).section)
    assert schemes["model.layers.0.self_attn.q_proj"] == "pack-quantized"
    assert schemes["model.layers.1.self_attn.o_proj"] == "plain"


@pytest.mark.parametrize(("dynamic", "kept"), [(True, False), ("local", True), (False, True)])
def test_a_scale_of_inputs_is_stored_unless_all_of_it_is_found_while_running(dynamic: Any, kept: bool) -> None:
    # compressed-tensors 0.20.0, lifecycle/initialize.py: input_global_scale is made for `local` too
    config = k25("nvfp4-pack-quantized", "lm_head", type="float", group_size=16, strategy="tensor_group")
    config["config_groups"]["group_0"]["input_activations"] = {"num_bits": 4, "dynamic": dynamic, "group_size": 16}
    assert by_role(found(wide(), config))["routed_expert"].get("input_scale", True) is kept


@pytest.mark.parametrize(
    "pattern",
    [
        r"re:model\.layers\.(0|2)\..*",
        r"re:.*\.(0|2)\.(mlp|self_attn).*",
        r"re:.*(layers\.0|layers\.2)\..*",
        r"re:.*layers\.[02]\..*",
        r"re:.*layers.(0|2).*_proj",
    ],
)
def test_an_expression_for_some_layers_is_for_those_alone(pattern: str) -> None:
    section = found(wide(), k25("pack-quantized") | {"ignore": [pattern, "lm_head"]}).section
    schemes = paths(wide(), section)
    assert {i: schemes[f"model.layers.{i}.self_attn.q_proj"] for i in range(3)} == {
        0: "plain",
        1: "pack-quantized",
        2: "plain",
    }


def test_mlx_modules_may_have_settings_of_their_own() -> None:
    own = {"model.layers.0.mlp.down_proj": {"bits": 8, "group_size": 32}, "model.embed_tokens": False}
    settings = {"bits": 4, "group_size": 32, **own}
    answer = storage({"dtype": "bfloat16", "quantization": settings}, None, of(spec_of(wide())), "some")
    schemes = paths(wide(), answer.section)
    assert schemes["model.embed_tokens"] == "plain"
    assert schemes["lm_head"] == "mlx-affine"
    eight = [rule["match"] for rule in rules(answer) if rule["store"].get("num_bits") == 8]
    assert eight == ["*.mlp.down_proj"]  # experts' paths have more between


def test_groups_that_mlx_can_not_divide_stay_plain_and_are_named() -> None:
    content = wide()
    content["backbone"]["ffn"]["moe"]["moe_intermediate_size"] = 16
    answer = storage(
        {"dtype": "bfloat16", "quantization": {"bits": 4, "group_size": 32}}, None, of(spec_of(content)), "s"
    )
    assert paths(content, answer.section)["model.layers.1.mlp.experts.{e}.down_proj"] == "plain"
    assert any("don't divide" in note and "experts.{e}.down_proj" in note for note in answer.notes)


def test_a_literal_name_is_no_prefix_of_a_longer_one() -> None:
    # transformers, should_convert_module: up to a module boundary. `mlp.gate` is not mlp.gate_proj.
    quantized = {**BLOCKS, "modules_to_not_convert": ["model.layers.0.mlp.gate", "model.layers.1", "model.*.mlp.up"]}
    schemes = paths(wide(), found(wide(), quantized).section)
    assert schemes["model.layers.0.mlp.gate_proj"] == schemes["model.layers.0.mlp.up_proj"] == "fp8-block"
    assert schemes["model.layers.1.self_attn.q_proj"] == "plain"
    assert schemes["model.layers.2.self_attn.q_proj"] == "fp8-block"


def test_one_expert_in_a_list_is_refused() -> None:
    with pytest.raises(InputError, match="ignore"):
        found(wide(), k25("pack-quantized", "model.layers.1.mlp.experts.3.up_proj"))
    with pytest.raises(InputError, match=r"ignore names some of the 6 experts"):
        found(wide(), k25("pack-quantized", r"re:.*experts\.3\..*"))


def test_without_a_quantization_config_all_is_plain() -> None:
    answer = storage({"torch_dtype": "float16"}, None, of(load_spec("llama-3.1-70b")), "llama")
    assert tuple(answer) == ({"default": {"scheme": "plain", "dtype": "float16"}}, [], [])


def test_what_no_source_says_is_assumed_and_listed() -> None:
    answer = storage({"quantization_config": BLOCKS}, None, of(spec_of(wide())), "new_family")
    assert len(answer.assumed) == 4
    for words in ("no dtype", "scales of FP8 blocks in float32", "routers in float32", "routers are not quantized"):
        assert any(words in line for line in answer.assumed), words


def test_experts_of_deepseek_v4_are_narrower_than_the_rest() -> None:
    answer = found(wide(), {**BLOCKS, "scale_fmt": "ue8m0"}, "deepseek_v4", expert_dtype="fp4")
    assert by_role(answer)["routed_expert"] == {"scheme": "mxfp4-pack-quantized"}
    assert by_role(answer)["attention"]["scale_dtype"] == "float8_e8m0fnu"
    assert any("routed experts" in line for line in answer.assumed)


def test_a_router_that_the_config_names_is_no_assumption() -> None:
    lines = found(wide(), {**BLOCKS, "modules_to_not_convert": ["gate"]}).assumed
    assert not any("routers are not quantized" in line for line in lines)


def test_a_router_of_a_model_that_is_not_quantized_is_no_assumption() -> None:
    answer = storage({"dtype": "bfloat16"}, None, of(spec_of(wide())), "some")
    assert answer.assumed == ["storage: buffers of routers in float32; no source of some is known"]


def test_entries_for_no_weight_are_counted() -> None:
    listed = ["gate", "e_score_correction_bias", "model.layers.0.self_attn.indexers_proj", "lm_head"]
    (note,) = found(wide(), {**BLOCKS, "modules_to_not_convert": listed}).notes
    assert "1 entries are for no weight, such as model.layers.0.self_attn.indexers_proj" in note


def test_a_config_without_its_algorithm_is_read_from_the_file_beside_it() -> None:
    bare = {"quant_method": "modelopt", "config_groups": {}}
    config = {"dtype": "bfloat16", "quantization_config": bare}
    answer = storage(config, {"quantization": NVFP4}, of(spec_of(wide())), "some")
    assert by_role(answer)["attention"] == {"scheme": "nvfp4"}
    with pytest.raises(InputError, match="quant_algo"):
        found(wide(), bare)


# ------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"quant_method": "aqlm"}, "quant_method"),
        ({"quant_method": None}, "quant_method"),
        ({**BLOCKS, "weight_rotation": "hadamard"}, "weight_rotation"),
        ({**BLOCKS, "fmt": "e5m2"}, "fmt"),
        ({**BLOCKS, "modules_to_not_convert": "lm_head"}, "modules_to_not_convert"),
        ({**BLOCKS, "modules_to_not_convert": ["(a*)*b"]}, "modules_to_not_convert.*for ever"),
        ({**BLOCKS, "weight_block_size": [128]}, "block_size"),
        ({"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemv"}, "version"),
        ({"quant_method": "awq", "group_size": 32}, "bits"),
        ({"quant_method": "awq", "bits": 3, "group_size": 32}, "bits 3 is not known in awq"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 32, "dynamic": {"+:.*": {"bits": 8}}}, "dynamic"),
        ({"quant_method": "bitsandbytes"}, "load_in_4bit"),
        ({"quant_method": "modelopt", "quant_algo": "W4A8_AWQ"}, "quant_algo"),
        ({**MIXED}, "quantized_layers"),
        ({**MIXED, "quantized_layers": {"lm_head": {**NVFP4, "pre_quant_scale": True}}}, "pre_quant_scale"),
        (k25("marlin-24"), "marlin-24"),
        (k25(actorder="group"), "actorder"),
        (k25(num_bits=3), "num_bits"),
        ({**k25(), "sparsity_config": {"format": "sparse-24-bitmask"}}, "sparsity_config"),
        ({**k25(), "transform_config": {"a": 1}}, "transform_config"),
        ({**k25(), "ignore": ["re:(a*)*b"]}, "ignore.*for ever"),
        (
            {"quant_method": "auto-round", "bits": 4, "group_size": 32, "extra_config": {"a": {"bits": 8}}},
            "extra_config",
        ),
        ({"quant_method": "mxfp4", "dequantize": True}, "dequantize"),
    ],
)
def test_what_is_not_known_and_may_change_sizes_is_refused_by_name(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        found(wide(), settings)


def test_groups_that_do_not_divide_are_refused() -> None:
    with pytest.raises(InputError, match="don't divide into groups of 48"):
        found(wide(), {"quant_method": "awq", "bits": 4, "group_size": 48})


def test_a_dtype_that_no_weight_has_is_refused() -> None:
    with pytest.raises(InputError, match="torch_dtype"):
        storage({"torch_dtype": "auto"}, None, of(spec_of(wide())), "some")


def test_a_section_is_written_without_anchors() -> None:
    answer = found(wide(), BLOCKS, "deepseek_v3")
    assert "&" not in dumped({"storage": answer.section})
