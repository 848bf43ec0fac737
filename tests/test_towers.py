"""Every vision tower against the torch twin: parameters, FLOPs, saved tensors, whatever the picture."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from archcalc.proof import ours
from archcalc.proof.check import crosscheck
from archcalc.workload import Workload
from tests.reference import tiny as tiny_specs
from tests.support import spec_of
from tests.test_varied_specs import SMALL_KINDS, different, our_shapes, sizes, their_shapes
from tests.towers import TOWERS, beside, small

pytestmark = [pytest.mark.twin, pytest.mark.skipif(find_spec("torch") is None, reason="needs the extra torch")]

TEXT = tiny_specs.text(tiny_specs.GQA, [tiny_specs.DENSE] * 4, num_nextn_predict_layers=1) | {
    "title": "Seen",
    "sources": {},
    "storage": {"default": {"scheme": "plain", "dtype": "bfloat16"}},
}


def narrow(name: str, /, **vision: Any) -> dict[str, Any]:
    tower, projector = small(name, **vision)
    return TEXT | {"vision": tower, "projector": projector}


@pytest.mark.parametrize("name", TOWERS)
def test_a_public_tower_agrees_with_the_twin(name: str) -> None:
    report = crosscheck(spec_of(beside(TEXT, name)), only=SMALL_KINDS)
    assert different(report) == []
    seen = {f["path"] for f in report.findings if f["kind"] == "activations"}
    projector = TOWERS[name][1].get("prefix", "mm_projector")
    assert projector in seen
    if name == "qwen2.5-vl-3b":
        assert {"visual.blocks.0", "visual.blocks.7"} <= seen
    if name == "qwen3-vl-8b":
        assert "model.visual.deepstack_merger_list.0" in seen


MANY: dict[str, Any] = {
    "images": ((40, 57), (9, 200), (300, 40)),
    "videos": ((6, 40, 90), (3, 130, 30)),
    "seq": 2,
    "batch": 2,
}


@pytest.mark.parametrize("name", [name for name in TOWERS if name != "kimi-k3"])
def test_flops_agree_whatever_the_pictures(name: str) -> None:
    from archcalc.reference.flops import flops

    spec = spec_of(narrow(name))
    tape = spec.trace(Workload(phase="prefill", attention="full", **MANY))
    theirs = {path: forward for path, (forward, _) in flops(spec.model_dump(), **MANY).items()}
    assert {path: n for (path, _), (_, n) in ours.forward_flops(tape, "").items()} == theirs
    assert sum(n for path, n in theirs.items() if ".core" in path and "vis" in path) > 0


@st.composite
def towers(draw: st.DrawFn) -> dict[str, Any]:
    """A small tower of any family with sizes that no release has."""
    merge, depth, heads = draw(st.integers(1, 3)), draw(st.integers(2, 4)), draw(st.integers(1, 3))
    some = st.lists(st.integers(0, depth - 1), unique=True, max_size=depth)
    gated, patch = draw(st.booleans()), draw(st.integers(2, 5))
    acts = ["gelu", "gelu_pytorch_tanh", "silu", "quick_gelu"]
    square = draw(st.booleans())
    side = merge * draw(st.integers(1, 3))
    clip = square and draw(st.booleans())
    windows = not square and draw(st.booleans())
    table = draw(st.booleans())
    tower: dict[str, Any] = {
        "names": draw(st.sampled_from(["qwen2_vl", "qwen3_vl", "clip"])),
        "hidden_size": draw(st.integers(1, 20)),
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "head_dim": 4 * draw(st.integers(1, 3)),
        "intermediate_size": draw(st.integers(1, 30)),
        "hidden_act": draw(st.sampled_from(acts)),
        "gated": gated,
        "attention_bias": draw(st.booleans()),
        "mlp_bias": draw(st.booleans()),
        "norm": draw(st.sampled_from(["layer", "rms"])),
        "in_channels": draw(st.integers(1, 3)),
        "patch_size": patch,
        "temporal_patch_size": draw(st.integers(1, 3)),
        "patch_embed_bias": draw(st.booleans()),
        "rope_theta": None if clip else draw(st.sampled_from([None, 10000.0])),
        "spatial_merge_size": merge,
        "dtype": draw(st.sampled_from(["bfloat16", "float32"])),
        "class_token": clip,
        "pre_norm": draw(st.booleans()),
    }
    if square:
        tower |= {"processor": {"kind": "fixed", "image_size": side * patch}, "post_norm": draw(st.booleans())}
        tower |= {"num_position_embeddings": side**2 + clip if table or clip else None}
    else:
        tower |= {"interpolate_pos_encoding": table, "num_position_embeddings": 49 if table else None}
        tower |= {"deepstack_visual_indexes": draw(some)}
    if windows:
        tower |= {"window_size": patch * merge * draw(st.integers(1, 3)), "fullatt_block_indexes": draw(some)}
    return tower


@pytest.mark.parametrize("part", range(2))
def test_any_tower_agrees(part: int) -> None:
    pictures = st.tuples(st.integers(3, 90), st.integers(3, 90))
    quietly = settings(
        max_examples=8,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    norms = st.sampled_from([None, "layer", "rms"])
    families = st.sampled_from(["qwen2_vl", "qwen3_vl", "llava"])
    every = given(vision=towers(), picture=pictures, norm=norms, names=families, bias=st.booleans())
    seed(part)(quietly(every(agrees)))()


def agrees(vision: dict[str, Any], picture: tuple[int, int], norm: str | None, names: str, bias: bool) -> None:
    content = narrow("qwen2-vl-2b", **vision)
    width = {"mm_hidden_size": vision["hidden_size"], "projector_bias": bias}
    content["projector"] |= width | {"names": names, "norm": norm, "projector_ln_eps": None if norm is None else 1e-6}
    spec = spec_of(content)
    with sizes(3, picture):
        assert different(crosscheck(spec, only=SMALL_KINDS)) == []
    assert our_shapes(spec) == their_shapes(spec)
