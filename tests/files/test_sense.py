"""What no forward pass can compute is refused by the file's own validation, at its place; what is odd is a warning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from archcalc.errors import AssumedSize, ImplausibleSize, SpecError
from archcalc.files.loader import load_spec, parse
from archcalc.files.model import Spec
from archcalc.hf.spec import config_text
from archcalc.section import PLAUSIBLE
from tests.families.bases import BASES
from tests.hf.configs import imported, spec_of
from tests.support import BUNDLED, answered, data, dumped, run, tiny, written

MLA: dict[str, Any] = {
    "kind": "mla",
    "num_attention_heads": 2,
    "q_lora_rank": 6,
    "kv_lora_rank": 5,
    "qk_nope_head_dim": 3,
    "qk_rope_head_dim": 2,
    "v_head_dim": 4,
    "attention_bias": False,
}
GQA: dict[str, Any] = {**tiny()["backbone"]["attention"]["gqa"], "head_dim": 4}
del GQA["rotary_dim"]
MOE: dict[str, Any] = tiny()["backbone"]["ffn"]["moe"] | {"n_routed_experts": 8}
DENSE: dict[str, Any] = tiny()["backbone"]["ffn"]["dense"]
YARN: dict[str, Any] = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3: dict[str, Any] = {**YARN, "type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}


def content(
    attention: Mapping[str, Any] = GQA,
    ffn: Mapping[str, Any] = DENSE,
    vision: Mapping[str, Any] | None = None,
    **top: Any,
) -> dict[str, Any]:
    """A model of one layer; with `vision`, below K2.5's tower with these changes."""
    layer = {"layers": [{"count": 1, "attention": "a", "ffn": "f"}], "num_hidden_layers": 1}
    whole = tiny(**layer, attention={"a": dict(attention)}, ffn={"f": dict(ffn)}, **top)
    if vision is not None:
        tower = data("k25")["vision"] | vision
        joined = {"mm_hidden_size": tower["vt_hidden_size"], "text_hidden_size": 8, "dtype": "bfloat16"}
        whole |= {"vision": tower, "projector": {**PROJECTOR, **joined}}
    return whole


PROJECTOR: dict[str, Any] = {
    "kind": "patch_merger",
    "projector_hidden_act": "gelu",
    "projector_ln_eps": 1e-5,
    "use_postshuffle_norm": False,
}

REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "an odd head": (content(GQA | {"head_dim": 5}), "head_dim: 5", "head_dim 5 is odd"),
    "an odd part of a head": (content(GQA | {"rotary_dim": 3}), "rotary_dim: 3", "rotary_dim 3 is odd"),
    "an odd rotary part of a latent's key": (
        content(MLA | {"qk_rope_head_dim": 3}),
        "qk_rope_head_dim: 3",
        "qk_rope_head_dim 3 is odd",
    ),
    "an odd head with an embedding of its own": (
        content(GQA | {"head_dim": 5, "rope_parameters": {"rope_theta": 1e4}}, rope_theta=None),
        "head_dim: 5",
        "head_dim 5 is odd",
    ),
    # 24 features over 4 heads are 6 each
    "heads of a tower that rows and columns can't share": (
        content(vision={"vt_hidden_size": 24, "vt_num_attention_heads": 4}),
        "vt_hidden_size: 24",
        "6 is no multiple of 4",
    ),
    "groups of one expert, ranked by two": (
        content(ffn=MOE | {"n_group": 8, "topk_group": 2}),
        "n_group: 8",
        "two best",
    ),
    # a group has 8 / 4 = 2 experts
    "more experts a token than its groups have": (
        content(ffn=MOE | {"n_group": 4, "topk_group": 1, "num_experts_per_tok": 3}),
        "num_experts_per_tok: 3",
        "more than the 2 experts of topk_group 1 groups, 2 in each",
    ),
    "the same of groups ranked by their best": (
        content(
            ffn=MOE | {"n_group": 8, "topk_group": 1, "num_experts_per_tok": 2, "topk_method": "group_limited_greedy"}
        ),
        "num_experts_per_tok: 2",
        "more than the 1 experts",
    ),
    "a scaling that shortens": (content(rope_scaling=YARN | {"factor": 0.5}), "factor: 0.5", "at least 1"),
    "a pretrained context past the longest": (
        content(rope_scaling=YARN | {"original_max_position_embeddings": 65}),
        "original_max_position_embeddings: 65",
        "more than max_position_embeddings 64",
    ),
    "the same of an attention's own": (
        content(
            GQA
            | {
                "rope_parameters": {
                    "rope_theta": 1e4,
                    "rope_scaling": YARN | {"original_max_position_embeddings": 65},
                }
            }
        ),
        "original_max_position_embeddings: 65",
        "more than max_position_embeddings 64",
    ),
    "a scaling without what it stretches": (
        content(rope_scaling={"type": "yarn", "factor": 4.0}),
        "type: yarn",
        "original_max_position_embeddings is missing",
    ),
    "a ramp that falls": (
        content(rope_scaling=LLAMA3 | {"low_freq_factor": 8.0}),
        "low_freq_factor: 8.0",
        "low_freq_factor 8.0 is more than high_freq_factor 4.0",
    ),
    "a ramp of YaRN that falls": (
        content(rope_scaling=YARN | {"beta_fast": 1.0, "beta_slow": 32.0}),
        "beta_slow: 32.0",
        "beta_slow 32.0 is more than beta_fast 1.0",
    ),
    "a key of another scaling": (
        content(rope_scaling={"type": "linear", "factor": 2.0, "beta_fast": 32.0}),
        "beta_fast: 32.0",
        "read by no scaling of type linear",
    ),
    "a base that turns nothing more slowly": (content(rope_theta=1.0), "rope_theta: 1.0", "greater than 1"),
}


@pytest.mark.parametrize("sort", REFUSED)
def test_what_no_forward_pass_can_compute_is_refused_at_its_place(sort: str) -> None:
    plain, line, says = REFUSED[sort]
    text = dumped(plain)
    with pytest.raises(SpecError, match=says) as caught:
        parse(text, "s.yaml", Spec)
    (problem,) = caught.value.problems
    assert problem.source == "s.yaml"
    assert (problem.snippet or "").strip() == line
    assert text.splitlines()[(problem.line or 0) - 1] == problem.snippet


@pytest.mark.parametrize(
    "plain",
    [
        content(GQA | {"head_dim": 5}, rope_theta=None),  # nothing turns
        content(GQA | {"head_dim": 5, "rope_parameters": {"rope_theta": None}}),
        content(GQA | {"head_dim": 5, "rotary_dim": 4}),
        content(MLA | {"qk_rope_head_dim": 3}, rope_theta=None),  # Kimi Linear's rotary features stay
        content(ffn=MOE | {"n_group": 8, "topk_method": "greedy"}),  # which reads no groups
        content(ffn=MOE | {"n_group": 8, "topk_group": 2, "topk_method": "group_limited_greedy"}),
        content(rope_scaling=YARN | {"original_max_position_embeddings": 64}),  # Qwen2.5's model card: the same twice
        content(rope_scaling=YARN | {"beta_fast": 1.0, "beta_slow": 1.0}),  # Kimi K2's config.json
        content(rope_scaling=LLAMA3 | {"high_freq_factor": 1.0}),  # Llama 4 Scout's
    ],
)
def test_what_only_looks_odd_is_valid(plain: dict[str, Any]) -> None:
    assert parse(dumped(plain), "s.yaml", Spec).name


# ------------------------------------------------------------------------------------------------------------- storage

FP8 = {"scheme": "fp8-block", "block_size": [128, 128], "scale_dtype": "float32"}


@pytest.mark.parametrize(
    ("role", "store", "key", "says"),
    [
        # down_proj of the dense layer has 20 inputs: two groups of 8 and half of one
        (
            "dense_ffn",
            {"scheme": "pack-quantized", "num_bits": 4, "group_size": 8, "scale_dtype": "bfloat16"},
            "group_size",
            r"model\.layers\.0\.mlp\.down_proj has 20 inputs, which don't divide into groups of 8",
        ),
        ("norm", FP8, "scheme", "norm has no matrix of a linear or an embedding"),
        ("router_bias", FP8, "scheme", "router_bias has no matrix"),
        (
            "embedding",
            {"scheme": "mlx-affine", "num_bits": 4, "group_size": 8, "scale_dtype": "bfloat16"},
            "group_size",
            "MLX quantizes groups of 32, 64, 128, not 8",
        ),
        (
            "attention",
            {"scheme": "bitsandbytes-4bit", "quant_type": "nf4", "block_size": 65, "dtype": "bfloat16"},
            "block_size",
            "bitsandbytes quantizes blocks of 32, 64, .*, not 65",
        ),
    ],
)
@pytest.mark.parametrize("form", ["mapping", "list"])
def test_a_scheme_that_can_not_store_its_role_is_refused_at_its_key(
    role: str, store: dict[str, Any], key: str, says: str, form: str
) -> None:
    default = {"scheme": "plain", "dtype": "bfloat16"}
    rules = [{"match": role, "store": store}, {"match": "default", "store": default}]
    storage: Any = {"default": default, role: store} if form == "mapping" else rules
    text = dumped(tiny() | {"storage": storage})
    with pytest.raises(SpecError, match=says) as caught:
        parse(text, "s.yaml", Spec)
    assert (caught.value.snippet or "").strip() == f"{key}: {store[key]}"
    assert "{" not in caught.value.message


def test_blocks_of_fp8_may_be_cut_short() -> None:
    parse(
        dumped(tiny() | {"storage": {"default": {"scheme": "plain", "dtype": "bfloat16"}, "attention": FP8}}), "s", Spec
    )


# ------------------------------------------------------------------------------------------------ sizes past any model


def test_a_size_past_any_that_a_model_has_is_a_warning_of_every_command(tmp_path: Any) -> None:
    plain = tiny(vocab_size=1 << 60)
    path = written(tmp_path, plain)
    line = next(n for n, text in enumerate(dumped(plain).splitlines(), 1) if "vocab_size" in text)
    for command in ("validate", "params", "kv"):
        ran = run(command, path)
        assert ran.code == 0
        assert ran.err == (
            f"warning: {path}:{line}:15: backbone.vocab_size 1,152,921,504,606,846,976 is past any that a model has:"
            " is it a slip?\n"
        )


def test_the_largest_plausible_size_is_silent() -> None:
    text = dumped(tiny(vocab_size=PLAUSIBLE))
    parse(text, "s", Spec)  # a warning is an error here
    with pytest.warns(ImplausibleSize, match="268,435,457"):
        parse(text.replace(str(PLAUSIBLE), str(PLAUSIBLE + 1)), "s", Spec)


@pytest.mark.parametrize("name", BUNDLED)
def test_no_bundled_spec_is_refused_or_warned_about(name: str) -> None:
    assert load_spec(name).name == data(name)["name"]


# --------------------------------------------------------------------------------------------------- release's configs


@pytest.mark.parametrize(
    ("base", "changes", "says"),
    [
        ("llama", {"head_dim": 9}, "head_dim 9 is odd"),
        ("deepseek_v3", {"qk_rope_head_dim": 7}, "qk_rope_head_dim 7 is odd"),
        ("deepseek_v3", {"n_group": 8}, "noaux_tc ranks a group by its two best"),
        ("deepseek_v3", {"num_experts_per_tok": 5}, "more than the 4 experts"),  # 8 experts in 2 groups, 1 chosen
        ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 0.5}}, "factor must be at least 1"),
        # Llama's class refuses it, whatever head_dim says (validate_architecture)
        ("llama", {"hidden_size": 49}, "hidden_size 49 does not divide into num_attention_heads 6"),
        # a head of 48 / 6 = 8 features has 4 pairs
        ("qwen2_vl", {"rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 1]}}, "mrope_section .* the 4 pairs"),
        ("qwen2_vl", {"rope_scaling": {"type": "mrope", "mrope_section": "x"}}, "mrope_section"),
    ],
)
def test_nonsense_of_a_config_is_told_at_its_key_there(base: str, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError, match=says) as caught:
        spec_of(BASES[base] | changes)
    assert caught.value.source == "config.json"
    inner = [*changes, *(key for value in changes.values() if isinstance(value, dict) for key in value)]
    assert any(f'"{key}"' in (caught.value.snippet or "") for key in inner)


def test_heads_of_a_configs_tower_turn_in_fours() -> None:
    config = BASES["qwen3_vl"]
    vision = config["vision_config"] | {"num_heads": 4}  # 24 / 4 = 6
    with pytest.raises(SpecError, match="head_dim 6 is no multiple of 4"):
        spec_of(config | {"vision_config": vision})


def test_sections_of_a_part_of_a_head_are_its_pairs() -> None:
    """A head of 10 features of which 0.4 turn has 2 pairs."""
    rope = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.4}
    config = BASES["qwen3_5_text"]
    assert spec_of(config | {"rope_parameters": rope | {"mrope_section": [1, 1, 0]}}).name
    with pytest.raises(SpecError, match="the 2 pairs of a head"):
        spec_of(config | {"rope_parameters": rope | {"mrope_section": [2, 2, 1]}})


def test_a_scaling_without_its_original_context_takes_the_longest_as_classes_do() -> None:
    scaling = {"rope_type": "yarn", "factor": 2.0, "low_freq_factor": 3.0}  # the last is read by no YaRN
    found = spec_of(BASES["llama"] | {"rope_scaling": scaling}).backbone.rope_scaling
    assert found is not None
    assert found.model_dump(exclude_none=True) == {
        "type": "yarn",
        "factor": 2.0,
        "original_max_position_embeddings": BASES["llama"]["max_position_embeddings"],
    }


PHI3 = b'{"model_type": "phi3", "hidden_size": 3072}'
SUPPLIED = (
    # transformers, Phi3Config
    "sizes that the config leaves out are defaults of Phi3Config: vocab_size 32064, num_hidden_layers 32,"
    " max_position_embeddings 4096, num_attention_heads 32, intermediate_size 8192"
)


def test_sizes_that_a_config_leaves_out_are_said_by_every_command(tmp_path: Any) -> None:
    path = tmp_path / "phi.json"
    path.write_bytes(PHI3)
    for arguments in (["validate"], ["import"], ["params"], ["flops"], ["kv"], ["weights"]):
        assert f"warning: {path}: {SUPPLIED}\n" in run(*arguments, str(path)).err
    spec = tmp_path / "phi.yaml"
    spec.write_text(run("import", str(path)).out)
    for arguments in (["params"], ["flops"], ["kv"], ["weights"], ["weights", "--as", "fp8"]):
        for source in (path, spec):  # and what is imported says so for good
            assert SUPPLIED in answered(arguments[0], str(source), *arguments[1:])["assumptions"]
    assert run("params", str(spec)).err == ""


def test_a_config_that_has_all_sizes_assumes_none() -> None:
    for base in ("llama", "deepseek_v3", "qwen3_vl", "gemma3_text"):
        assert imported(BASES[base]).supplied == (), base


def test_sizes_that_a_release_spells_in_its_own_way_are_not_left_out() -> None:
    """Kimi K2.5's vt_hidden_size and the like, which its class reads under other names, or has as defaults."""
    assert imported(BASES["kimi_k25 as released"]).supplied == ()


def test_the_warning_names_the_class_of_a_tower_too() -> None:
    config = BASES["qwen2_5_vl"]
    vision = {key: value for key, value in config["vision_config"].items() if key != "in_channels"}
    text = dumped_json({**config, "vision_config": vision})
    with pytest.warns(AssumedSize, match=r"defaults of Qwen2_5_VLVisionConfig: vision_config\.in_channels 3$"):
        config_text(text, "config.json")


def dumped_json(config: Any) -> bytes:
    import json

    return json.dumps(config).encode()
