"""Configs full of nonsense: a spec, or one error of the config's own place; never another exception, never long."""

from __future__ import annotations

import copy
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from archcalc.documents.weights import weights
from archcalc.errors import ImplausibleSize, InputError
from archcalc.files.loader import parse, validate
from archcalc.files.model import Spec
from archcalc.hf import json_file
from archcalc.hf.reader import read
from archcalc.hf.source import Source
from tests.hf.configs import CLASSES, imported
from tests.hf.test_reader import LLAMA, small
from tests.support import run

GONE = ...
"""The key is left out."""

NONSENSE: list[Any] = [
    *(
        GONE,
        None,
        True,
        False,
        -1,
        0,
        1,
        7,
        10**6,
        2**62,
        -(2**63),
        1.5,
        64.0,
        float("nan"),
        float("inf"),
        -float("inf"),
    ),
    *("", "x", "64", "::add-mask::\x1b\n#", [], [None], [1, 2], ["full_attention"], [[[]]], [10**18] * 3),
    *({}, {"a": 1}, {"\n": "\r"}),
]

ENDLESS = [
    *(
        "re:(a*)*b",
        "re:(a+)+$",
        "re:[",
        r"re:(?P<n>a)(?P=n)",
        "re:a{1000000000}",
        "re:((((((a",
        "re:" + ".*." * 8 + "x",
    ),
    *("(x+x+)+y", "re:" + "(a?)" * 30 + "a" * 30, "re:" + ".?" * 40 + "zz", "re:" + "(.|.)" * 40 + "zz", "re:\\", "["),
    *("*" * 200, "*[!]*", "re:" + "a|" * 20_000, "\n::error::", "", "{e}", "{i}", "re:(?i)LM_HEAD"),
    f"model.layers.0.mlp.experts.{'9' * 5000}.up_proj",
]

MOE = {
    "model_type": "qwen3_moe",
    "hidden_size": 256,
    "intermediate_size": 256,
    "moe_intermediate_size": 128,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "head_dim": 64,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "mlp_only_layers": [0],
    "torch_dtype": "bfloat16",
}

EMPTY = {"model_type": "qwen3_vl", "text_config": {}, "vision_config": {}}
INTS = {"num_bits": 4, "type": "int", "symmetric": True, "group_size": 32, "strategy": "group", "dynamic": False}
METHODS: dict[str, dict[str, Any]] = {
    "fp8": {
        "quant_method": "fp8",
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "weight_block_size": [128, 128],
        "modules_to_not_convert": ["lm_head"],
        "quantized_layers": {"lm_head": {"quant_algo": "FP8"}},
    },
    "mxfp4": {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]},
    "awq": {
        "quant_method": "awq",
        "bits": 4,
        "group_size": 32,
        "version": "gemm",
        "zero_point": True,
        "modules_to_not_convert": ["gate"],
    },
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": -1, "desc_act": False, "sym": True, "lm_head": False},
    "auto-round": {"quant_method": "auto-round", "bits": 4, "group_size": 32, "packing_format": "auto_round:auto_gptq"},
    "bitsandbytes": {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "llm_int8_skip_modules": ["lm_head"],
    },
    "compressed-tensors": {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "sparsity_config": {"format": "dense"},
        "ignore": ["lm_head", "re:.*self_attn.*"],
        "config_groups": {"g": {"targets": ["Linear"], "weights": INTS, "input_activations": {"dynamic": True}}},
    },
    "modelopt": {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16, "exclude_modules": ["lm_head*"]},
    "modelopt map": {
        "quant_method": "modelopt",
        "quant_algo": "MIXED_PRECISION",
        "quantized_layers": {"lm_head": {"quant_algo": "NVFP4", "group_size": 16}},
    },
    "mlx": {
        "bits": 4,
        "group_size": 32,
        "mode": "affine",
        "lm_head": False,
        "model.norm": {"bits": 8, "group_size": 64},
    },
}


LISTS = [
    *(("fp8", "modules_to_not_convert"), ("awq", "modules_to_not_convert"), ("compressed-tensors", "ignore")),
    *(("modelopt", "exclude_modules"), ("bitsandbytes", "llm_int8_skip_modules"), ("mxfp4", "modules_to_not_convert")),
]
"""Keys that list modules."""


def paths(data: dict[str, Any], inside: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every key."""
    for key, value in data.items():
        yield (*inside, key)
        if isinstance(value, dict):
            yield from paths(value, (*inside, key))


def changed(data: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """The same with another value at a path."""
    data = copy.deepcopy(data)
    inner = data
    for key in path[:-1]:
        inner = inner[key]
    if value is GONE:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return data


def attempt(source: Source) -> InputError | None:
    """The error of a release, or None where its printed spec says the same."""
    try:
        found = read(source)
        spec = validate(found.data, found, Spec)
    except InputError as error:
        return error
    weights(spec)
    assert parse(found.text, "printed.yaml", Spec).model_dump() == spec.model_dump()
    return None


def outcome(config: dict[str, Any], quant: Any = None, index: Any = None) -> InputError | None:
    """The error of a release; None where it is read, to a spec that is the printed one. Fails for anything else."""
    files = {name: json_file.load(json.dumps(data), name) for name, data in (("q", quant), ("i", index)) if data}
    document = json_file.load(json.dumps(config), "config.json")
    source = Source(config=document, quant=files.get("q"), index=files.get("i"), name="m", where="config.json")
    start = time.perf_counter()
    error = attempt(source)
    assert time.perf_counter() - start < 10
    if error is None:
        return None
    assert all(problem.line for problem in error.problems)
    lines = error.render().splitlines()
    assert "".join(lines).isprintable()
    assert max(map(len, lines)) < 800
    return error


@pytest.mark.filterwarnings("ignore::archcalc.errors.FileWarning")  # 2^62 is told, and taken
@pytest.mark.parametrize("model_type", CLASSES)
def test_any_value_of_any_key_is_read_or_refused_at_its_place(model_type: str) -> None:
    config = small(model_type)
    seeded = random.Random(model_type)
    for path in paths(config):
        for value in seeded.sample(NONSENSE, 2):
            outcome(changed(config, path, value))


def test_a_head_size_of_nonsense_is_refused_where_a_part_of_it_turns() -> None:
    for value in NONSENSE:
        if value is not GONE and value is not None and (type(value) is not int or value < 1):
            error = outcome(small("glm4") | {"head_dim": value})
            assert error is not None
            assert "head_dim" in error.message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_none_is_harmless_where_a_float_is_and_refused_by_name_as_a_size(value: float) -> None:
    assert outcome(LLAMA | {"initializer_range": value, "time_step_limit": value}) is None
    for key in LLAMA.keys() - {"model_type"} | {"rms_norm_eps", "rope_theta", "head_dim", "num_key_value_heads"}:
        error = outcome(LLAMA | {key: value})
        assert error is not None
        assert key in error.message
        assert error.column == json.dumps(LLAMA | {key: value}).index(f'"{key}"') + len(f'"{key}": ') + 1


def test_a_file_with_infinity_is_refused_for_its_type_by_name() -> None:
    error = outcome({"model_type": "nemotron_h", "time_step_limit": [0.0, float("inf")]})
    assert error is not None
    assert error.message.startswith('model_type "nemotron_h" is not read')


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_type": "mixtral", "num_local_experts": 1.5}, "num_local_experts: n_routed_experts must be an integer"),
        ({"num_attention_heads": 65}, "hidden_size 64 is less than num_attention_heads 65"),
        ({"model_type": "qwen3_vl", "text_config": []}, "text_config must be a mapping, not []"),
        (None, "default of Qwen3VLVisionConfig: 3584"),
        ({"depth": 7}, "`depth` 7 could change a size"),
        ({"": 7}, "`` 7 could change a size"),
        ({"k" * 10_000: 7}, "`kkkkkkkkkk"),
        ({"a\nb: 1 # c": 7}, r"`a\nb: 1 # c` 7 could"),
        ({"model_type": "mamba"}, 'model_type "mamba" is not read'),
        ({"model_type": "::add-mask::\n\x1b[31m"}, r'model_type "::add-mask::\n\u001b[31m" is not read'),
        ({"tool": "archcalc", "model_type": None}, "this is a saved report of archcalc"),
        ({"num_key_value_heads": [2]}, "num_key_value_heads must be an integer, not a list"),
    ],
)
def test_every_refusal_names_the_key_or_the_type_as_the_file_spells_it(
    changes: dict[str, Any] | None, says: str
) -> None:
    error = outcome(EMPTY if changes is None else LLAMA | changes)
    assert error is not None
    assert says in error.render()


# --------------------------------------------------------------------------------------------------- quantization


@pytest.mark.parametrize("method", METHODS)
def test_any_value_in_a_quantization_config_is_read_or_refused(method: str) -> None:
    settings = METHODS[method]
    seeded = random.Random(method)
    lists: list[Any] = [*([entry] for entry in ENDLESS), *({entry: {"quant_algo": "FP8"}} for entry in ENDLESS)]
    for path in (*paths(settings), ("more",)):
        for value in [*seeded.sample(NONSENSE, 8), *seeded.sample(lists, 6)]:
            if value is GONE and path == ("more",):
                continue
            config = changed(settings, path, value)
            outcome(MOE | {"quantization_config": config})
            outcome(MOE, {"producer": {"name": "modelopt"}, "quantization": config})


@pytest.mark.parametrize("value", NONSENSE[1:])
def test_files_of_nonsense_beside_a_config_are_read_or_refused(value: Any) -> None:
    deep = small("deepseek_v3") | {"num_nextn_predict_layers": 1, "n_group": 1, "topk_group": 1}
    deep |= {"num_hidden_layers": 4, "n_routed_experts": 8}
    for key in ("quantization_config", "compression_config", "quantization", "expert_dtype", "torch_dtype", "dtype"):
        outcome(MOE | {key: value})
    outcome(MOE, {"quantization": value})
    error = outcome(deep, None, {"weight_map": value})
    if not isinstance(value, dict | None):
        assert error is not None
        assert (error.source, error.column) == ("i", 16)


def test_an_error_about_a_file_beside_a_config_has_its_place_there() -> None:
    error = outcome(MOE, {"quantization": {"quant_algo": "FP8", "rotation": {"a": 1}}})
    assert error is not None
    assert (error.source, error.column) == ("q", 40)
    assert error.message == "quantization.rotation: this key is not known, and might change sizes"
    settings = changed(METHODS["compressed-tensors"], ("config_groups", "g", "weights", "num_bits"), 3)
    error = outcome(MOE | {"quantization_config": settings})
    assert error is not None
    text = json.dumps(MOE | {"quantization_config": settings})
    assert (error.source, error.column) == ("config.json", text.index('"num_bits"') + 1)


@pytest.mark.parametrize("entry", ["model.layers.{}.x", "*layers.{}.*x*", "re:.*layers.{}.*x", "re:(a|b){}.*x"])
@pytest.mark.parametrize(("method", "key"), LISTS)
def test_lists_of_22000_entries_take_no_time(method: str, key: str, entry: str) -> None:
    settings = METHODS[method] | {key: [entry.format(n) for n in range(22_000)]}
    outcome(MOE | {"quantization_config": settings})


@pytest.mark.parametrize("entry", ENDLESS, ids=lambda entry: ascii(entry[:20]))
def test_no_name_in_a_list_or_a_map_takes_long_or_upsets_anything(entry: str) -> None:
    for method, key in LISTS:
        outcome(MOE | {"quantization_config": METHODS[method] | {key: [entry]}})
    for method in ("fp8", "modelopt map"):
        outcome(MOE | {"quantization_config": METHODS[method] | {"quantized_layers": {entry: {"quant_algo": "FP8"}}}})


def test_patterns_do_not_look_at_more_experts_than_anybody_has() -> None:
    settings = METHODS["compressed-tensors"] | {"ignore": ["re:.*experts.1[.].*"]}
    with pytest.warns(ImplausibleSize):
        error = outcome(MOE | {"num_experts": 2**60, "quantization_config": settings})
    assert error is not None
    assert "at most 65,536 are looked at" in error.message


@pytest.mark.parametrize("kind", [[], ["default"], {}, 7, True])
def test_a_kind_of_scaling_that_is_no_word_is_refused_at_its_place(kind: Any) -> None:
    error = outcome(LLAMA | {"rope_scaling": {"type": kind, "factor": 2.0}})
    assert error is not None
    assert "its kind is" in error.message


# ------------------------------------------------------------------------------------------------- printed specs

NAMES = [
    *(
        "a b",
        "a\nb",
        "a\n# x: 1\nb",
        'q"q',
        "q'q",
        "back\\slash",
        "ünï",
        "модель",
        "😀",
        "a#b",
        "# a",
        "a: b",
        "{a}",
        "[a]",
    ),
    *("&a", "*a", "!a", "%a", "@a", "`a`", "|", "a\tb", "\x1b[31mred", "\u202eevil", "\u2028line", "\x85nel", "\u200b"),
    *(
        "null",
        "true",
        "1.5",
        "~",
        "...",
        "::add-mask::x",
        "<script>",
        "$(x)",
        "x" * 250,
        "\udcff\udcfe",
        "\ufeffb",
        "\ufffe",
    ),
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_folder_of_any_name_prints_a_spec_that_is_read_again(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / name
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA))
    ran = run("import", f"./{name}", "-o", "s.yaml")
    assert ran.code == 0, ran.err
    text = (tmp_path / "s.yaml").read_text(encoding="utf-8")
    assert text.replace("\n", "").isprintable()
    assert len(text.splitlines()) == 1 + len(imported(LLAMA).text.splitlines())  # which schema it has
    read, asked = run("params", "s.yaml"), run("params", f"./{name}")  # the config warns of what its class gave it
    assert (read.code, read.out) == (asked.code, asked.out)
    assert run("diff", "s.yaml", f"./{name}", "--exit-code").code == 0


def test_notes_and_comments_stay_one_line() -> None:
    text = imported(LLAMA | {"rope_scaling": {"rope_type": "a\n- b: \u2028c\x85\x1b[31m # d"}}).text
    assert "\n- b" not in text
    assert text.replace("\n", "").isprintable()
    assert parse(text, "s.yaml", Spec).backbone.hidden_size == 64
