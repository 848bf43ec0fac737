"""transformers' own classes, built on meta from the same mapping, agree with the twin row by row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from archcalc.errors import InputError
from archcalc.hf.backward import config_of
from archcalc.reference import hf, hf_flops, measure
from archcalc.reference.hf_names import UNMAPPED, checkpoint_path, prediction_path
from archcalc.reference.measure import Row
from archcalc.reference.model import build
from tests.reference import tiny
from tests.reference.publicly import built, spec_of
from tests.reference.test_numbers import CASES

pytestmark = pytest.mark.twin

ALL = CASES | {
    "Kimi K2.5": tiny.k25(),
    "a prediction module": tiny.text(tiny.MLA, [tiny.DENSE, tiny.MOE], num_nextn_predict_layers=1),
}


def key(row: Row) -> tuple[str, int, int, str]:
    return (row["path"], row["count"], row["elements"], row["kind"])


@pytest.mark.parametrize("spec", ALL.values(), ids=ALL.keys())
def test_rows_are_the_twins(spec: dict[str, Any]) -> None:
    assert sorted(map(key, hf.parameters(built(spec)))) == sorted(map(key, measure.parameters(build(spec))))


@pytest.mark.parametrize("spec", ALL.values(), ids=ALL.keys())
def test_flops_are_the_twins_with_the_experts_of_a_layer_together(spec: dict[str, Any]) -> None:
    twins: dict[str, int] = {}
    seq = 7  # no more than a window or an indexer of tiny.py leaves: transformers multiplies what it masks
    for path, (forward, _) in measure.flops(spec, seq=seq).items():
        joined = path.split(".experts.*.")[0] + ".experts.*" if ".experts.*." in path else path
        twins[joined] = twins.get(joined, 0) + forward
    assert hf_flops.flops(built(spec), seq=seq) == twins


def change(section: str, name: str, key_: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def apply(spec: dict[str, Any]) -> None:
        spec["backbone"][section][name][key_] = value

    return apply


@pytest.mark.parametrize(
    ("wrong", "path"),
    [
        (
            change("attention", "only", "v_head_dim", 7),
            "language_model.model.layers.0.self_attn.o_proj.weight",
        ),
        (change("ffn", "moe", "n_routed_experts", 9), "language_model.model.layers.1.mlp.gate.weight"),
        (
            change("ffn", "moe", "n_shared_experts", 2),
            "language_model.model.layers.2.mlp.shared_experts.up_proj.weight",
        ),
        (
            lambda spec: spec["vision"].update(vt_intermediate_size=45),
            "vision_tower.encoder.blocks.0.mlp.fc0.bias",
        ),
    ],
)
def test_a_wrong_size_shows_on_its_path(wrong: Callable[[dict[str, Any]], None], path: str) -> None:
    spec = tiny.k25()
    wrong(spec)
    theirs = {row["path"]: key(row) for row in hf.parameters(built(tiny.k25()))}
    ours = {row["path"]: key(row) for row in measure.parameters(build(spec))}
    assert ours.keys() == theirs.keys()
    assert ours[path] != theirs[path]


def test_a_twin_without_its_router_has_rows_missing() -> None:
    twin = build(tiny.k25())
    layer: Any = twin.get_submodule("language_model.model.layers.1.mlp")
    del layer.gate
    missing = {row["path"] for row in hf.parameters(built(tiny.k25()))} - {
        row["path"] for row in measure.parameters(twin)
    }
    prefix = "language_model.model.layers.1.mlp.gate"
    assert missing == {f"{prefix}.weight", f"{prefix}.e_score_correction_bias"}


def test_a_name_without_a_rule_is_kept_and_marked() -> None:
    for name in (
        "model.layers.0.self_attn.sink",
        "model.layers.0.mlp.experts.*.gate_proj.scale",
        "model.visual.blocks.0.attn.qkv.weight",
        "score.weight",
    ):
        assert checkpoint_path(name, "deepseek_v3") == UNMAPPED + name
    for name in ("model.vision_tower.layers.0.attn.rel.weight", "model.language_model.layers.0.extra.weight"):
        assert checkpoint_path(name, "kimi_k25") == UNMAPPED + name
    for model_type in ("qwen2_vl", "qwen3_vl", "qwen3_5_moe"):
        for name in ("model.visual.blocks.0.attn.rel.weight", "model.visual.merger.bias"):
            assert checkpoint_path(name, model_type) == UNMAPPED + name
    assert prediction_path("layers.0.other.weight", 61) == UNMAPPED + "layers.0.other.weight"


def test_an_unknown_parameter_becomes_a_row() -> None:
    import torch

    public = built(tiny.text(tiny.MLA, [tiny.MOE]))
    public.model.register_parameter("extra", torch.nn.Parameter(torch.empty(3, device="meta")))
    public.model.register_buffer("kept", torch.empty(4, device="meta"))
    rows = {row["path"]: key(row) for row in hf.parameters(public)}
    assert rows["transformers:extra"] == ("transformers:extra", 1, 3, "params")
    assert rows["transformers:kept"] == ("transformers:kept", 1, 4, "buffers")


def test_ignored_buffers_are_listed() -> None:
    assert hf.ignored(built(tiny.k25())) == [
        "model.vision_tower.patch_embed.pos_emb.time_position_embeddings",
        "model.vision_tower.rotary_emb.inv_freq",
        "model.vision_tower.rotary_emb.original_inv_freq",
        "model.language_model.rotary_emb.inv_freq",
        "model.language_model.rotary_emb.original_inv_freq",
    ]


def test_k25s_class_is_told_that_its_head_is_not_tied() -> None:
    config = config_of(spec_of(tiny.k25()))
    assert config["model_type"] == "kimi_k25"
    assert config["tie_word_embeddings"] is False  # the class's own default is True


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            tiny.text(tiny.GQA | {"qk_norm": "per_head"}, [tiny.MOE, tiny.DENSE]),
            r'has backbone\.layers "dense in layer 1": the nearest, Glm4MoeForCausalLM, has "moe in layer 1"',
        ),
        (
            tiny.text(tiny.MLA, [tiny.MOE | {"scoring_func": "softmax"}]),
            r'has backbone\.ffn\.moe\.scoring_func "softmax"',
        ),
        (
            tiny.text(tiny.GQA, [tiny.DENSE], norm="layer", layer_norm_eps=1e-5, rms_norm_eps=None),
            r"has backbone\.layer_norm_eps 1e-05",
        ),
        (tiny.text(tiny.GQA, [tiny.DENSE], position_embeddings=512), r"has backbone\.position_embeddings 512"),
        (tiny.text(tiny.GQA, [tiny.DENSE], embedding_norm="rms"), r'has backbone\.embedding_norm "rms"'),
        (tiny.text(tiny.GQA, [tiny.DENSE], rope_theta=None), r"has backbone\.rope_theta null"),
        (
            tiny.text(
                tiny.GQA,
                [tiny.DENSE],
                layers=[
                    {
                        "count": 1,
                        "steps": [
                            {"attention": "only"},
                            {"ffn": "dense"},
                            {"ffn": "dense", "scope": "more", "input_norm": "more_norm"},
                        ],
                    }
                ],
            ),
            'has backbone.layers "steps of their own"',
        ),
        (
            tiny.text(
                tiny.GQA,
                [tiny.DENSE],
                layers=[{"count": 1, "steps": [{"attention": "only"}, {"ffn": "dense", "arrangement": "parallel"}]}],
            ),
            'has backbone.layers "steps of their own"',
        ),
        (tiny.gemma(num_nextn_predict_layers=1), r"has backbone\.num_nextn_predict_layers 1: .*Gemma3ForCausalLM"),
        (
            tiny.gemma(attention={"local": tiny.LOCAL, "global": tiny.GLOBAL | {"num_key_value_heads": 4}}),
            r"attention\.global\.num_key_value_heads 4: .* has 2",
        ),
        (
            tiny.gemma(
                attention={"local": tiny.LOCAL | {"rope_parameters": {"rope_theta": None}}, "global": tiny.GLOBAL}
            ),
            r"attention\.local\.rope_parameters\.rope_theta null",
        ),
        (
            tiny.k25() | {"projector": tiny.PROJECTOR | {"use_postshuffle_norm": True}},
            r"projector\.use_postshuffle_norm true: the nearest, Kimi_K25ForConditionalGeneration, has false",
        ),
    ],
)
def test_an_architecture_without_a_public_class_is_refused(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        config_of(spec_of(spec))


def test_a_config_that_its_class_refuses_is_an_input_error() -> None:
    # Gemma3TextConfig wants a hidden size that its heads divide, whatever head_dim says
    with pytest.raises(InputError, match="transformers' class for gemma3_text refuses the config"):
        hf.build({"model_type": "gemma3_text", "hidden_size": 42, "num_attention_heads": 4})


@pytest.mark.parametrize("model_type", ["mimo", "kimi_k3", "klingon"])
def test_a_type_without_a_class_is_an_input_error(model_type: str) -> None:
    with pytest.raises(InputError, match=f"transformers has no class for model_type {model_type}"):
        hf.build({"model_type": model_type})
