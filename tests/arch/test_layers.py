"""Layers as residual steps: patterns, norms, arrangements, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from archcalc.calc.params import count
from archcalc.files.model import Spec
from archcalc.tape import Segment, Tape
from archcalc.workload import Workload
from tests.support import TINY, dumped, run, spec_of

H = 8
GQA = TINY["backbone"]["attention"]["gqa"]
DENSE = TINY["backbone"]["ffn"]["dense"]


def model(**backbone: Any) -> Spec:
    """The tiny model with one attention and one feed-forward, and changes to its backbone; None takes a key out."""
    plain = TINY["backbone"] | {"ffn": {"dense": DENSE}, "layers": [{"count": 3, "attention": "gqa", "ffn": "dense"}]}
    plain = {key: value for key, value in (plain | backbone).items() if value is not None or key in PLAIN_NULLS}
    return spec_of(TINY | {"backbone": plain})


PLAIN_NULLS = ("rope_theta", "rope_scaling")


def layer(spec: Spec, n: int = 0) -> Segment:
    return [s for s in spec.trace(Workload(phase="train", seq=4)).segments if s.indices and s.part == "backbone"][n]


def norms(segment: Segment) -> list[str]:
    return [op.path.rpartition(".")[2] for op in segment.ops if op.kind in ("rms_norm", "layer_norm")]


def names(tape: Tape) -> set[str]:
    return {f"{w.path}.{w.suffix}" for w in tape.weights()}


# ------------------------------------------------------------------------------------------------ patterns


def test_a_repeated_pattern_is_its_layers_written_out() -> None:
    other = GQA | {"head_dim": 4}
    short = {"count": 1, "attention": "other", "ffn": "dense"}
    pattern = [{"repeat": 2, "layers": [{"count": 2, "attention": "gqa", "ffn": "dense"}, short]}, short]
    both = {"gqa": GQA, "other": other}
    found = model(num_hidden_layers=7, layers=pattern, attention=both)
    assert list(found.backbone.runs().values()) == [(0, 1, 3, 4), (2, 5, 6)]
    long = [{"count": 2, "attention": "gqa", "ffn": "dense"}, short] * 2 + [short]
    assert found.backbone.runs() == model(num_hidden_layers=7, layers=long, attention=both).backbone.runs()


def test_the_short_form_is_two_steps() -> None:
    steps = [{"attention": "gqa"}, {"ffn": "dense"}]
    assert model(layers=[{"count": 3, "steps": steps}]).backbone.runs() == model().backbone.runs()


def test_layers_of_one_mixer_each_have_one_norm() -> None:
    # Nemotron-H: every layer is one mixer under `mixer`, after a norm named `norm`
    one = {"scope": "mixer", "input_norm": "norm"}
    pattern = [
        {"count": 2, "steps": [{"attention": "gqa"} | one]},
        {"count": 1, "steps": [{"ffn": "dense"} | one]},
    ]
    found = model(layers=pattern).trace(Workload())
    assert "model.layers.{i}.mixer.q_proj.weight" in names(found)
    assert "model.layers.{i}.mixer.up_proj.weight" in names(found)
    # embedding, head, final norm; q, k, v, o of 4 and 2 heads of 3; three matrices of 20; a norm a layer
    assert count(found).total == 2 * 32 * H + H + 2 * (2 * 12 * H + 2 * 6 * H) + 3 * 20 * H + 3 * H


# --------------------------------------------------------------------------------------------------- norms


@pytest.mark.parametrize(
    ("placement", "modules"),
    [
        ("pre", ["input_layernorm", "post_attention_layernorm"]),
        ("post", ["post_attention_layernorm", "post_feedforward_layernorm"]),  # OLMo 2
        (  # Gemma 2 and 3
            "sandwich",
            [
                "input_layernorm",
                "post_attention_layernorm",
                "pre_feedforward_layernorm",
                "post_feedforward_layernorm",
            ],
        ),
        ("none", []),
    ],
)
def test_norms_stand_where_the_placement_says_under_their_public_names(placement: str, modules: list[str]) -> None:
    assert norms(layer(model(norm_placement=placement))) == modules


@pytest.mark.parametrize(
    ("norm", "eps", "each"),
    [
        ("rms", "rms_norm_eps", H),
        ("rms_zero_centered", "rms_norm_eps", H),
        ("layer", "layer_norm_eps", 2 * H),
        ("layer_no_bias", "layer_norm_eps", H),
        ("none", "layer_norm_eps", 0),
    ],
)
def test_a_kind_of_norm_has_its_own_weights(norm: str, eps: str, each: int) -> None:
    found = model(norm=norm, **{"rms_norm_eps": None, eps: 1e-5}).trace(Workload())
    assert sum(w.elements for w in found.weights() if w.role == "norm") == 7 * each  # two a layer, and the last


def test_a_parallel_step_shares_the_norm_of_the_step_before_it() -> None:
    # phi: x + attention(norm x) + mlp(norm x), one norm
    steps = [{"attention": "gqa"}, {"ffn": "dense", "arrangement": "parallel", "norm_placement": "none"}]
    segment = layer(model(layers=[{"count": 3, "steps": steps}]))
    assert norms(segment) == ["input_layernorm"]
    normed = next(op.outputs[0] for op in segment.ops if op.kind == "rms_norm")
    readers = {op.path.rpartition(".")[2] for op in segment.ops if op.kind == "linear" and op.inputs[0] is normed}
    assert readers == {"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"}


def test_a_parallel_step_with_a_norm_of_its_own_reads_the_same_residual() -> None:
    # GPT-NeoX: x + attention(norm1 x) + mlp(norm2 x)
    steps = [{"attention": "gqa"}, {"ffn": "dense", "arrangement": "parallel"}]
    segment = layer(model(layers=[{"count": 3, "steps": steps}]))
    assert [op.inputs[0] for op in segment.ops if op.kind == "rms_norm"] == [segment.entry, segment.entry]
    in_turn = layer(model())
    assert [op.inputs[0] for op in in_turn.ops if op.kind == "rms_norm"][1] is not in_turn.entry


def test_a_parallel_step_without_a_norm_before_it_reads_what_came_in() -> None:
    # with a norm after its mixer alone a step mixes the residual itself, not the other's norm of it
    steps = [{"attention": "gqa"}, {"ffn": "dense", "arrangement": "parallel", "norm_placement": "post"}]
    segment = layer(model(layers=[{"count": 3, "steps": steps}]))
    assert {op.inputs[0] for op in segment.ops if op.path.endswith(("gate_proj", "up_proj"))} == {segment.entry}


# -------------------------------------------------------------------------------------- ends and prediction


def test_learned_positions_and_an_embedding_norm_are_weights_of_their_own() -> None:
    # GPT-2: wpe of n_positions x H; BLOOM: a LayerNorm of 2H behind the embedding
    gpt = {"rms_norm_eps": None, "layer_norm_eps": 1e-5, "norm": "layer", "rope_theta": None}
    found = model(**gpt, position_embeddings=64, embedding_norm="layer").trace(Workload(phase="train", seq=4))
    shapes = {f"{w.path}.{w.suffix}": w.shape for w in found.weights()}
    assert shapes["model.embed_positions.weight"] == (64, H)
    assert shapes["model.embed_norm.bias"] == (H,)
    assert not [op for s in found.segments for op in s.ops if op.kind == "rope"]
    counts = count(found)
    assert counts.active - counts.active_no_embedding == 32 * H + 64 * H  # both are looked up


def test_multi_token_prediction_may_run_another_kind_of_layer() -> None:
    # Qwen3-Next: the module has full attention where the last layer may not
    both = {"gqa": GQA, "last": GQA | {"head_dim": 4}}
    layers = [
        {"count": 1, "attention": "gqa", "ffn": "dense"},
        {"count": 2, "attention": "last", "ffn": "dense"},
    ]
    plain = model(attention=both, layers=layers, num_nextn_predict_layers=1)
    named = model(
        attention=both, layers=layers, num_nextn_predict_layers=1, mtp_layer={"attention": "gqa", "ffn": "dense"}
    )
    shapes = [
        next(w.shape for w in found.trace(Workload()).weights() if w.part == "mtp" and "q_proj" in w.path)
        for found in (named, plain)
    ]
    assert shapes == [(4 * 3, H), (4 * 4, H)]


# ---------------------------------------------------------------------------------------------- bad input

BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "no count": ({"layers": [{"attention": "gqa", "ffn": "dense"}]}, "count is missing", "attention"),
    "no feed-forward": ({"layers": [{"count": 3, "attention": "gqa"}]}, "ffn is missing", "count"),
    "steps beside a pair": (
        {"layers": [{"count": 3, "attention": "gqa", "steps": [{"ffn": "dense"}]}]},
        "steps and attention",
        "attention",
    ),
    "a repetition of nothing": ({"layers": [{"repeat": 3}]}, "layers is missing", "repeat"),
    "a count beside a repetition": (
        {"layers": [{"repeat": 3, "count": 1, "layers": [{"count": 1, "attention": "gqa", "ffn": "dense"}]}]},
        "count beside repeat",
        "count",
    ),
    "two mixers in a step": (
        {"layers": [{"count": 3, "steps": [{"attention": "gqa", "ffn": "dense"}]}]},
        "a step has one mixer",
        "attention",
    ),
    "no such mixer": (
        {"layers": [{"count": 3, "steps": [{"attention": "gqu"}, {"ffn": "dense"}]}]},
        "no attention is named gqu",
        "attention",
    ),
    "two modules of one name": (
        {"layers": [{"count": 3, "steps": [{"attention": "gqa"}, {"attention": "gqa"}, {"ffn": "dense"}]}]},
        "two modules of a layer are named self_attn",
        "attention",
    ),
    "a module inside another": (
        {"layers": [{"count": 3, "steps": [{"attention": "gqa", "input_norm": "self_attn.q_proj"}, {"ffn": "dense"}]}]},
        "two modules of a layer meet: self_attn and self_attn.q_proj",
        "attention",
    ),
    "a module that prediction has": (
        {
            "num_nextn_predict_layers": 1,
            "layers": [{"count": 3, "steps": [{"attention": "gqa", "scope": "shared_head"}, {"ffn": "dense"}]}],
        },
        "two modules of a layer meet: shared_head.norm and shared_head",
        "attention",
    ),
    "a kind of norm that is not there": (
        {
            "layers": [
                {"count": 3, "steps": [{"attention": "gqa", "norm": "rms", "norm_placement": "none"}, {"ffn": "dense"}]}
            ]
        },
        "norm names a norm that this step does not have",
        "norm",
    ),
    "fewer positions than context": (
        {"position_embeddings": 63},
        "position_embeddings 63 are fewer than max_position_embeddings 64",
        "position_embeddings",
    ),
    "a mixer without a name": (
        {"attention": {"": GQA}, "layers": [{"count": 3, "attention": "", "ffn": "dense"}]},
        "at least 1 character",
        "",
    ),
    "a norm that is not there": (
        {"layers": [{"count": 3, "steps": [{"attention": "gqa", "output_norm": "after"}, {"ffn": "dense"}]}]},
        "output_norm names a norm that this step does not have",
        "output_norm",
    ),
    "nothing to run beside": (
        {"layers": [{"count": 3, "steps": [{"attention": "gqa", "arrangement": "parallel"}, {"ffn": "dense"}]}]},
        "nothing to run in parallel with",
        "arrangement",
    ),
    "a name that is no module": (
        {"layers": [{"count": 3, "steps": [{"attention": "gqa", "scope": "a b"}, {"ffn": "dense"}]}]},
        "scope",
        "scope",
    ),
    "an eps that is missing": ({"norm": "layer"}, "layer_norm_eps is missing", "backbone"),
    "an eps that nothing reads": (
        {"layer_norm_eps": 1e-5},
        "no norm of the layers reads layer_norm_eps",
        "layer_norm_eps",
    ),
    "scaling of no rotation": (
        {"rope_theta": None, "rope_scaling": {"type": "linear", "factor": 2.0}},
        "rope_scaling without rope_theta",
        "rope_scaling",
    ),
    "a prediction layer of no module": (
        {"mtp_layer": {"attention": "gqa", "ffn": "dense"}},
        "mtp_layer without multi-token prediction",
        "mtp_layer",
    ),
    "a counted prediction layer": (
        {"num_nextn_predict_layers": 1, "mtp_layer": {"count": 2, "attention": "gqa", "ffn": "dense"}},
        "num_nextn_predict_layers says how many",
        "count",
    ),
    "far too many layers": (
        {"layers": [{"repeat": 10_000, "layers": [{"count": 10_000, "attention": "gqa", "ffn": "dense"}]}]},
        "add up to 100000000 layers",
        "layers",
    ),
}


@pytest.mark.parametrize("bad", BAD)
def test_what_no_layer_can_be_is_one_error_at_its_place(bad: str, tmp_path: Path) -> None:
    changes, message, key = BAD[bad]
    plain = TINY["backbone"] | {"ffn": {"dense": DENSE}, "layers": [{"count": 3, "attention": "gqa", "ffn": "dense"}]}
    path = tmp_path / "s.yaml"
    path.write_text(dumped(TINY | {"backbone": plain | changes}))
    ran = run("params", str(path))
    assert ran.code == 2
    assert ran.err.count("error:") == 1
    assert message in ran.err
    line = int(ran.err.removeprefix(f"{path}:").partition(":")[0])
    assert key in path.read_text().split("\n")[line - 1]
