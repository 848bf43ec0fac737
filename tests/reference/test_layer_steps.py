"""Layers written step by step: names, norms, order, parallel steps, prediction layers, kinds of attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from archcalc.errors import InputError
from archcalc.reference import measure
from archcalc.reference.fields import Section
from archcalc.reference.flops import flops
from archcalc.reference.gqa import GQA
from archcalc.reference.kinds import ATTENTIONS, add_attention
from archcalc.reference.model import build, new_cache
from archcalc.reference.patterns import layer_kinds, plain_kind
from archcalc.reference.saved import measure as kept
from tests.reference import tiny

pytestmark = pytest.mark.twin

SHORT = {"attention": "only", "ffn": "dense"}
STEPS = [{"attention": "only"}, {"ffn": "dense"}]


def spec_of(*layers: dict[str, Any], depth: int = 1, **more: Any) -> dict[str, Any]:
    return tiny.text(tiny.GQA, [tiny.DENSE], layers=list(layers), num_hidden_layers=depth, **more)


def kinds_of(*layers: dict[str, Any], depth: int, **more: Any) -> Any:
    return layer_kinds(Section(spec_of(*layers, depth=depth, **more)["backbone"], "backbone"))


def norms_of(spec: dict[str, Any]) -> dict[str, int]:
    """Elements of all parameters of norms, by path inside layer 0."""
    rows = measure.parameters(build(spec))
    prefix = "model.layers.0."
    return {row["path"].removeprefix(prefix): row["elements"] for row in rows if "norm" in row["path"]}


@pytest.mark.parametrize(
    ("placement", "names"),
    [
        ("pre", ["input_layernorm", "post_attention_layernorm"]),
        ("post", ["post_attention_layernorm", "post_feedforward_layernorm"]),
        (
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
def test_norms_have_the_public_names_of_their_placement(placement: str, names: list[str]) -> None:
    for layer in (SHORT, {"steps": STEPS}):
        found = norms_of(spec_of(layer | {"count": 1}, norm_placement=placement))
        assert found == {f"{name}.weight": 40 for name in names} | {"model.norm.weight": 40}


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        ("rms", ["weight"]),
        ("rms_zero_centered", ["weight"]),
        ("layer", ["weight", "bias"]),
        ("layer_no_bias", ["weight"]),
        ("none", []),
    ],
)
def test_every_norm_of_a_backbone_is_of_its_kind_but_for_those_of_latents(kind: str, parts: list[str]) -> None:
    spec = tiny.text(tiny.GQA | {"qk_norm": "per_head"}, [tiny.DENSE], norm=kind, layer_norm_eps=1e-5)
    sizes = {"input_layernorm": 40, "post_attention_layernorm": 40, "model.norm": 40}
    sizes |= {"self_attn.q_norm": 10, "self_attn.k_norm": 10}
    assert norms_of(spec) == {f"{name}.{part}": size for name, size in sizes.items() for part in parts}
    latent = norms_of(tiny.text(tiny.MLA, [tiny.DENSE], norm=kind, layer_norm_eps=1e-5))
    inside = {path: size for path, size in latent.items() if path.startswith("self_attn.")}
    assert inside == {"self_attn.q_a_layernorm.weight": 24, "self_attn.kv_a_layernorm.weight": 16}


def test_an_epsilon_is_needed_for_the_kinds_that_are_there() -> None:
    build(tiny.text(tiny.GQA, [tiny.DENSE], norm="layer", layer_norm_eps=1e-5, rms_norm_eps=None))
    build(tiny.text(tiny.GQA, [tiny.DENSE], norm="none", rms_norm_eps=None))
    build(tiny.text(tiny.MLA, [tiny.DENSE], norm="layer_no_bias", layer_norm_eps=1e-5, rms_norm_eps=None))
    with pytest.raises(InputError, match="layer_norm_eps is missing"):
        build(tiny.text(tiny.GQA, [tiny.DENSE], norm="layer"))
    with pytest.raises(InputError, match="rms_norm_eps"):
        build(tiny.text(tiny.GQA, [tiny.DENSE], norm="rms_zero_centered", rms_norm_eps=None))


def test_one_step_may_have_a_norm_of_its_own() -> None:
    steps = [{"attention": "only", "norm": "layer"}, {"ffn": "dense", "norm_placement": "sandwich"}]
    found = norms_of(spec_of({"count": 1, "steps": steps}, layer_norm_eps=1e-5))
    assert found == dict.fromkeys(
        (
            "input_layernorm.weight",
            "input_layernorm.bias",
            "pre_feedforward_layernorm.weight",
            "post_feedforward_layernorm.weight",
            "model.norm.weight",
        ),
        40,
    )


def test_a_short_layer_is_two_steps_and_lists_repeat() -> None:
    short, long = SHORT | {"count": 2}, {"count": 1, "steps": STEPS}
    kinds = kinds_of({"repeat": 3, "layers": [short, long]}, short, depth=11)
    assert kinds == [plain_kind(Section(spec_of()["backbone"], "backbone"), "only", "dense")] * 11
    turns = [{"count": 2, "steps": STEPS[:1]}, {"count": 1, "steps": STEPS[1:]}]
    sides = [[step.side for step in kind] for kind in kinds_of({"repeat": 2, "layers": turns}, depth=6)]
    assert sides == [["attention"], ["attention"], ["ffn"]] * 2


def test_a_repeated_pattern_may_hold_repeated_ones() -> None:
    lone, fed = ({"count": 1, "steps": STEPS[n : n + 1]} for n in (0, 1))
    inner = {"repeat": 3, "layers": [lone]}
    sides = [kind[0].side for kind in kinds_of({"repeat": 2, "layers": [inner, fed]}, lone, depth=9)]
    assert sides == [*(["attention"] * 3 + ["ffn"]) * 2, "attention"]


def test_mixers_and_norms_may_be_called_otherwise() -> None:
    steps = [
        {"attention": "only", "scope": "mixer", "input_norm": "norm"},
        {"ffn": "dense", "scope": "feed", "norm_placement": "sandwich", "input_norm": "ln", "output_norm": "after"},
    ]
    rows = measure.parameters(build(spec_of({"count": 1, "steps": steps})))
    parts = [row["path"].split(".")[3] for row in rows if ".layers." in row["path"]]
    assert list(dict.fromkeys(parts)) == ["norm", "mixer", "ln", "feed", "after"]
    assert "model.layers.0.mixer.core" in flops(spec_of({"count": 1, "steps": steps}), seq=3)


@torch.no_grad()
@pytest.mark.parametrize("shared", [False, True])
def test_a_parallel_step_reads_what_the_step_before_it_read(shared: bool) -> None:
    beside = {"ffn": "dense", "arrangement": "parallel"} | ({"norm_placement": "none"} if shared else {})
    twin = tiny.randomised(spec_of({"count": 1, "steps": [{"attention": "only"}, beside]}))
    seen: dict[str, list[Tensor]] = {}
    layer: Any = twin.get_submodule("model.layers.0")
    for name, part in layer.named_children():
        part.register_forward_hook(lambda _m, given, out, name=name: seen.update({name: [given[0], out]}))
    layer.register_forward_hook(lambda _m, given, out: seen.update({"": [given[0], out]}))
    twin(tiny.ids(1, 6))
    x, out = seen[""]
    assert torch.equal(seen["input_layernorm"][0], x)
    assert torch.equal(out, x + seen["self_attn"][1] + seen["mlp"][1])
    if shared:
        assert "post_attention_layernorm" not in seen
        assert torch.equal(seen["mlp"][0], seen["input_layernorm"][1])
    else:
        assert torch.equal(seen["post_attention_layernorm"][0], x)
        assert torch.equal(seen["mlp"][0], seen["post_attention_layernorm"][1])


@torch.no_grad()
def test_two_attentions_in_a_layer_have_two_places_in_the_cache() -> None:
    steps = [
        {"attention": "near", "norm_placement": "sandwich", "output_norm": "behind"},
        {"ffn": "dense"},
        {"attention": "far", "scope": "cross", "input_norm": "before", "norm_placement": "pre"},
    ]
    sections = {"near": tiny.LOCAL, "far": tiny.MLA}
    spec = spec_of({"count": 2, "steps": steps}, depth=2, attention=sections)
    twin, ids = tiny.randomised(spec), tiny.ids(2, 12)
    cache = new_cache(twin, 2, 12)
    stepped = torch.cat([twin(ids[:, :9], cache=cache), *(twin(ids[:, [row]], cache=cache) for row in (9, 10, 11))], 1)
    assert (stepped - twin(ids)).abs().max() < 1e-5 * stepped.abs().max()
    held = measure.kv_bytes(spec, batch=1, context=12)
    near, far = 7 * 2 * 2 * 10 * 2, 12 * (16 + 4) * 2
    assert held == {
        f"model.layers.{layer}.{scope}": size
        for layer in (0, 1)
        for scope, size in (("self_attn", near), ("cross", far))
    }


def test_a_layer_of_one_step_is_a_layer() -> None:
    spec = spec_of({"count": 1, "steps": STEPS[:1]}, {"count": 2, "steps": STEPS[1:]}, depth=3)
    assert list(measure.kv_bytes(spec, batch=1, context=4)) == ["model.layers.0.self_attn"]
    assert [path for path in flops(spec, seq=4) if "up_proj" in path] == [
        f"model.layers.{n}.mlp.up_proj" for n in (1, 2)
    ]


@pytest.mark.parametrize("layer", [{"attention": "only", "ffn": "dense"}, {"steps": STEPS}])
def test_prediction_modules_may_have_a_layer_of_their_own(layer: dict[str, Any]) -> None:
    more = {"num_nextn_predict_layers": 1, "mtp_layer": layer}
    spec = tiny.text(tiny.GQA, [tiny.DENSE, tiny.MOE], **more)
    rows = {row["path"]: row["kind"] for row in measure.parameters(build(spec)) if ".layers.2." in row["path"]}
    assert set(rows.values()) == {"mtp"}
    assert "model.layers.2.mlp.down_proj.weight" in rows
    assert not [path for path in rows if "experts" in path]
    counted = flops(spec, seq=5, mtp=True, backward=True)
    assert counted["model.layers.2.mlp.down_proj"] == (2 * 5 * 36 * 40, 4 * 5 * 36 * 40)


def test_a_prediction_module_has_norms_of_the_backbones_kind() -> None:
    more = {"num_nextn_predict_layers": 1, "norm": "layer", "layer_norm_eps": 1e-5}
    rows = [row["path"] for row in measure.parameters(build(tiny.text(tiny.GQA, [tiny.DENSE], **more)))]
    for name in ("enorm", "hnorm", "shared_head.norm", "input_layernorm"):
        assert f"model.layers.1.{name}.bias" in rows


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ({"count": 1, "steps": [{"attention": "only", "ffn": "dense"}]}, r"steps\[0\] must name either"),
        ({"count": 1, "steps": [{"scope": "x"}]}, r"steps\[0\] must name either"),
        ({"count": 1, "steps": [{"ffn": "dense", "arrangement": "parallel"}]}, "no step to be parallel to"),
        ({"count": 1, "steps": [*STEPS, {"ffn": "dense"}]}, "two parts of one layer are called post_attention"),
        ({"count": 1, "steps": [*STEPS[:1], {"ffn": "dense", "scope": "self_attn"}]}, "are called self_attn"),
        ({"count": 1, "steps": [{"ffn": "dense", "scope": "a.b"}]}, "can't be called 'a.b'"),
        ({"count": 1, "steps": [{"ffn": "dense", "scope": "forward"}]}, "can't be called 'forward'"),
        ({"count": 1, "steps": [{"ffn": "dense", "output_norm": "x"}]}, r"steps\[0\]\.output_norm is unknown"),
        ({"count": 1, "steps": [{"ffn": "dense", "norm_placement": "front"}]}, "one of pre, post, sandwich, none"),
        ({"count": 1, "steps": [{"ffn": "dense", "norm": "batch"}]}, "one of rms, rms_zero_centered, layer"),
        ({"count": 1, "steps": [{"ffn": "dense", "arrangement": "beside"}]}, "one of sequential, parallel"),
        ({"count": 1, "steps": STEPS, "attention": "only"}, r"layers\[0\]\.attention is unknown"),
        ({"count": 1, **SHORT, "window": 3}, r"layers\[0\]\.window is unknown"),
        ({"repeat": 1, "layers": [SHORT | {"count": 1}], "count": 1}, r"layers\[0\]\.count is unknown"),
        ({"repeat": 0, "layers": [SHORT | {"count": 1}]}, "repeat must be at least 1"),
        ({"count": 0, **SHORT}, "count must be at least 1"),
        ({"repeat": 2, "layers": [SHORT | {"count": 1}]}, "num_hidden_layers is 1, but the rest makes it 2"),
    ],
)
def test_a_layer_that_says_too_little_or_too_much_is_refused(layer: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(spec_of(layer))


def test_a_key_of_the_prediction_layer_that_nobody_reads_is_refused() -> None:
    with pytest.raises(InputError, match=r"mtp_layer\.count is unknown"):
        build(spec_of(SHORT | {"count": 1}, mtp_layer=SHORT | {"count": 1}))


def test_a_kind_of_attention_can_be_added_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("archcalc.reference.kinds.ATTENTIONS", dict(ATTENTIONS))

    class Doubled(GQA):
        """Twice the attention."""

        def forward(self, *given: Any) -> Tensor:
            return 2 * super().forward(*given)

    with pytest.raises(InputError, match="must be one of mla, gqa"):
        build(tiny.text(tiny.GQA | {"kind": "doubled"}, [tiny.DENSE]))
    add_attention("doubled", Doubled)
    spec, plain = (tiny.text(tiny.GQA | {"kind": kind}, [tiny.DENSE]) for kind in ("doubled", "gqa"))
    assert flops(spec, seq=4) == flops(plain, seq=4)
    assert measure.kv_bytes(spec, batch=1, context=4) == measure.kv_bytes(plain, batch=1, context=4)
    assert kept(spec, seq=4) == kept(plain, seq=4)  # a factor keeps nothing
    with pytest.raises(InputError, match="doubled is Doubled already"):
        add_attention("doubled", GQA)
    with pytest.raises(InputError, match="gqa is GQA already"):
        add_attention("gqa", GQA)
