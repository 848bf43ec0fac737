"""transformers' own classes, built on meta from the same mapping, agree with the twin row by row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from archcalc.errors import InputError
from archcalc.reference import hf, measure
from archcalc.reference.hf_config import choose
from archcalc.reference.hf_names import UNMAPPED, checkpoint_path, prediction_path
from archcalc.reference.measure import Row
from archcalc.reference.model import build
from tests.reference import tiny
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
    assert sorted(map(key, hf.parameters(spec))) == sorted(map(key, measure.parameters(build(spec))))


@pytest.mark.parametrize("spec", ALL.values(), ids=ALL.keys())
def test_flops_are_the_twins_with_the_experts_of_a_layer_together(spec: dict[str, Any]) -> None:
    twins: dict[str, int] = {}
    seq = 7  # no more than a window or an indexer of tiny.py leaves: transformers multiplies what it masks
    for path, (forward, _) in measure.flops(spec, seq=seq).items():
        joined = path.split(".experts.*.")[0] + ".experts.*" if ".experts.*." in path else path
        twins[joined] = twins.get(joined, 0) + forward
    assert hf.flops(spec, seq=seq) == twins


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
    theirs = {row["path"]: key(row) for row in hf.parameters(tiny.k25())}
    ours = {row["path"]: key(row) for row in measure.parameters(build(spec))}
    assert ours.keys() == theirs.keys()
    assert ours[path] != theirs[path]


def test_a_twin_without_its_router_has_rows_missing() -> None:
    twin = build(tiny.k25())
    layer: Any = twin.get_submodule("language_model.model.layers.1.mlp")
    del layer.gate
    missing = {row["path"] for row in hf.parameters(tiny.k25())} - {row["path"] for row in measure.parameters(twin)}
    prefix = "language_model.model.layers.1.mlp.gate"
    assert missing == {f"{prefix}.weight", f"{prefix}.e_score_correction_bias"}


def test_a_name_without_a_rule_is_kept_and_marked() -> None:
    for name in (
        "model.layers.0.self_attn.sink",
        "model.layers.0.mlp.experts.*.gate_proj.scale",
        "score.weight",
    ):
        assert checkpoint_path(name, multimodal=False) == UNMAPPED + name
    for name in ("model.vision_tower.layers.0.attn.rel.weight", "model.language_model.layers.0.extra.weight"):
        assert checkpoint_path(name, multimodal=True) == UNMAPPED + name
    assert prediction_path("layers.0.other.weight", 61) == UNMAPPED + "layers.0.other.weight"


def test_an_unknown_parameter_becomes_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    model, choice = hf.build(tiny.text(tiny.MLA, [tiny.MOE]))
    model.register_parameter("extra", torch.nn.Parameter(torch.empty(3, device="meta")))
    model.register_buffer("kept", torch.empty(4, device="meta"))
    monkeypatch.setattr(hf, "build", lambda spec: (model, choice))
    rows = {row["path"]: key(row) for row in hf.parameters(tiny.text(tiny.MLA, [tiny.MOE]))}
    assert rows["transformers:extra"] == ("transformers:extra", 1, 3, "params")
    assert rows["transformers:kept"] == ("transformers:kept", 1, 4, "buffers")


def test_ignored_buffers_are_listed() -> None:
    assert hf.ignored(tiny.k25()) == [
        "model.vision_tower.patch_embed.pos_emb.time_position_embeddings",
        "model.vision_tower.rotary_emb.inv_freq",
        "model.vision_tower.rotary_emb.original_inv_freq",
        "model.language_model.rotary_emb.inv_freq",
        "model.language_model.rotary_emb.original_inv_freq",
    ]


def test_k25s_class_is_told_that_its_head_is_not_tied() -> None:
    choice = choose(tiny.k25())
    assert choice.model == "Kimi_K25ForConditionalGeneration"
    assert choice.arguments["tie_word_embeddings"] is False  # the class's own default is True


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (tiny.text(tiny.GQA | {"qk_norm": "full"}, [tiny.DENSE]), "no class that the twin knows"),
        (tiny.text(tiny.GQA, [tiny.MOE]), "Qwen3MoeForCausalLM routes by plain softmax"),
        (tiny.text(tiny.MLA, [tiny.MOE, tiny.DENSE]), "dense layers first"),
        (tiny.text(tiny.MLA, [tiny.MOE | {"topk_method": "greedy"}]), "sigmoid scores with noaux_tc"),
        (tiny.text(tiny.GQA, [tiny.DENSE | {"gated": False}]), "gated MLPs only"),
        (tiny.text(tiny.GQA, [tiny.DENSE], norm="layer", layer_norm_eps=1e-5), "with norms layer, pre"),
        (tiny.text(tiny.GQA, [tiny.DENSE], norm_placement="post"), "with norms rms, post"),
        (tiny.text(tiny.GQA, [tiny.DENSE], position_embeddings=64), r"with spec\.backbone\.position_embeddings"),
        (tiny.text(tiny.GQA, [tiny.DENSE], embedding_norm="rms"), r"with spec\.backbone\.embedding_norm"),
        (tiny.text(tiny.GQA, [tiny.DENSE], lm_head_bias=True), r"with spec\.backbone\.lm_head_bias True"),
        (tiny.text(tiny.GQA, [tiny.DENSE | {"hidden_act": "situ"}]), "no activation situ"),
        (tiny.text(tiny.MLA, [tiny.MOE | {"shared_expert_gate": True}]), r"moe\.shared_expert_gate True"),
        (tiny.text(tiny.MLA, [tiny.MOE | {"router_bias": "trained"}]), r"moe\.router_bias trained"),
        (tiny.text(tiny.MLA, [tiny.MOE | {"routed_expert_hidden_size": 8}]), r"moe\.routed_expert_hidden_size"),
        (tiny.text(tiny.GQA, [tiny.DENSE], rope_theta=None), "without rotation"),
        (tiny.text(tiny.GQA | {"sliding_window": 7}, [tiny.DENSE]), r"only\.sliding_window"),
        (tiny.text(tiny.GQA | {"rope_parameters": {"rope_theta": None}}, [tiny.DENSE]), r"only\.rope_parameters"),
        (
            tiny.text(tiny.GQA, [tiny.DENSE], layers=[{"count": 1, "steps": [{"attention": "only"}]}]),
            "such steps in a layer",
        ),
        (
            tiny.text(
                tiny.GQA,
                [tiny.DENSE],
                layers=[{"count": 1, "steps": [{"attention": "only"}, {"ffn": "dense", "arrangement": "parallel"}]}],
            ),
            "such steps in a layer",
        ),
        (
            tiny.text(
                tiny.MLA,
                [tiny.DENSE, tiny.MOE],
                num_nextn_predict_layers=1,
                mtp_layer={"attention": "only", "ffn": "dense"},
            ),
            "have the last layer's kind",
        ),
        (tiny.text(tiny.SPARSE, [tiny.MOE], num_nextn_predict_layers=1), "no prediction modules in transformers"),
        (tiny.gemma(num_nextn_predict_layers=1), "Gemma3ForCausalLM has no prediction modules"),
        (
            tiny.gemma(attention={"local": tiny.LOCAL, "global": tiny.LOCAL}),
            "one attention section with a window and one without",
        ),
        (
            tiny.gemma(attention={"local": tiny.LOCAL, "global": tiny.GLOBAL | {"num_key_value_heads": 4}}),
            "differ by window and rope only",
        ),
        (
            tiny.gemma(
                attention={"local": tiny.LOCAL | {"rope_parameters": {"rope_theta": None}}, "global": tiny.GLOBAL}
            ),
            "rotates in every layer",
        ),
        (tiny.gemma(attention={"local": tiny.GQA | {"sliding_window": 7}, "global": tiny.GQA}), "head by head"),
        (tiny.gemma(ffn={"dense": tiny.GELU | {"gated": False}}), "gated and without biases"),
        (tiny.gemma(attention={"local": tiny.MLA, "global": tiny.GLOBAL}), "grouped-query attention"),
        (tiny.gemma(hidden_size=42), "a hidden size that 4 heads divide"),
        (tiny.k25() | {"projector": tiny.PROJECTOR | {"use_postshuffle_norm": True}}, "before the merge"),
    ],
)
def test_an_architecture_without_a_public_class_is_refused(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        choose(spec)
