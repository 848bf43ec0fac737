"""FLOPs that torch counts while the twin runs, part by part, against products written out by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from archcalc.errors import InputError
from archcalc.reference.flopcount import ModuleFlops
from archcalc.reference.flops import flops
from archcalc.reference.guards import TwinError
from archcalc.reference.kernels.counted import balanced
from archcalc.reference.model import build
from tests.reference import tiny

pytestmark = pytest.mark.twin

# tiny.py: W hidden 40, vocabulary 50, H 4 heads, D 8 + R 4 query features, V 6 value features,
# latent ranks 24 and 16, dense width 36, E 8 experts of width 24, K 3 of them a token
T = 2 * 10  # tokens: batch 2, 10 rows


def test_every_text_part_counts_two_flops_a_multiply_add() -> None:
    counted = flops(tiny.text(tiny.MLA, [tiny.DENSE, tiny.MOE]), seq=10, batch=2)
    attention = {
        "q_a_proj": 2 * T * 40 * 24,
        "q_b_proj": 2 * T * 24 * 4 * (8 + 4),
        "kv_a_proj_with_mqa": 2 * T * 40 * (16 + 4),
        "kv_b_proj": 2 * T * 16 * 4 * (8 + 6),
        "core": 2 * (2 * 10 * 10) * 4 * (8 + 4 + 6),  # full scores: 10 x 10 pairs a sequence
        "o_proj": 2 * T * 4 * 6 * 40,
    }
    dense = dict.fromkeys(("gate_proj", "up_proj", "down_proj"), 2 * T * 40 * 36)
    one = 2 * T * 40 * 24
    experts = {
        "gate": 2 * T * 40 * 8,
        **{f"experts.*.{name}": 3 * one for name in ("gate_proj", "up_proj", "down_proj")},
        **{f"shared_experts.{name}": one for name in ("gate_proj", "up_proj", "down_proj")},
    }
    expected = {f"model.layers.{layer}.self_attn.{name}": n for layer in (0, 1) for name, n in attention.items()}
    expected |= {f"model.layers.0.mlp.{name}": n for name, n in dense.items()}
    expected |= {f"model.layers.1.mlp.{name}": n for name, n in experts.items()}
    expected["lm_head"] = 2 * T * 40 * 50
    assert {path: forward for path, (forward, _) in counted.items()} == expected


def test_grouped_query_attention_counts_query_heads() -> None:
    counted = flops(tiny.text(tiny.GQA, [tiny.DENSE]), seq=10, batch=2)
    path = "model.layers.0.self_attn"
    assert counted[f"{path}.core"][0] == 2 * (2 * 10 * 10) * 4 * (10 + 10)  # 4 query heads share 2 key heads
    assert counted[f"{path}.k_proj"][0] == counted[f"{path}.v_proj"][0] == 2 * T * 40 * 2 * 10


def test_backward_is_twice_the_forward_but_for_the_patch_convolution() -> None:
    counted = flops(tiny.k25(), seq=10, images=[(16, 24)], videos=[(3, 16, 16)], backward=True)
    ratios = {path: backward / forward for path, (forward, backward) in counted.items()}
    assert ratios.pop("vision_tower.patch_embed.proj") == 1  # pixels need no gradient: weight gradient only
    assert set(ratios.values()) == {2}
    assert "language_model.model.layers.1.mlp.gate" in ratios


def test_vision_parts_count_patches_and_pairs_inside_a_chunk() -> None:
    # a 16 x 24 px image has 4 x 6 patches of 4 px; 6 frames of 16 x 16 px are chunks of 4 and 2 frames
    counted = flops(tiny.k25(), seq=10, images=[(16, 24)], videos=[(6, 16, 16)], batch=2)
    patches, pairs = 24 + 64 + 32, 24**2 + 64**2 + 32**2
    tokens = 6 + 4 + 4  # one a 2 x 2 group and chunk, whatever the frames
    block = "vision_tower.encoder.blocks.1"
    expected = {
        "vision_tower.patch_embed.proj": 2 * patches * 3 * 4 * 4 * 32,
        f"{block}.wqkv": 2 * patches * 32 * 3 * 32,
        f"{block}.core": 2 * pairs * 2 * (16 + 16),
        f"{block}.wo": 2 * patches * 32 * 32,
        f"{block}.mlp.fc0": 2 * patches * 32 * 44,
        f"{block}.mlp.fc1": 2 * patches * 44 * 32,
        "mm_projector.proj.0": 2 * tokens * (4 * 32) * (4 * 32),
        "mm_projector.proj.2": 2 * tokens * (4 * 32) * 40,
        "language_model.lm_head": 2 * (tokens + 10) * 40 * 50,
    }
    assert {path: counted[path][0] // 2 for path in expected} == expected


@pytest.mark.parametrize(("batch", "seq"), [(1, 1), (1, 3), (2, 10), (1, 8), (1, 37)])
def test_experts_count_every_routed_row_once_whatever_the_split(batch: int, seq: int) -> None:
    counted = flops(tiny.text(tiny.MLA, [tiny.MOE]), seq=seq, batch=batch, backward=True)
    rows = batch * seq * 3  # fewer rows than experts, uneven and even loads among the cases
    for name in ("gate_proj", "up_proj", "down_proj"):
        assert counted[f"model.layers.0.mlp.experts.*.{name}"] == (2 * rows * 40 * 24, 4 * rows * 40 * 24)


def test_balanced_loads_add_up_and_differ_by_one_at_most() -> None:
    for rows in (0, 1, 7, 8, 9, 32768):
        loads = balanced(rows, 384)
        assert (len(loads), sum(loads)) == (384, rows)
        assert max(loads) - min(loads) <= 1


def test_a_step_on_cached_rows_scores_them_too() -> None:
    counted = flops(tiny.text(tiny.MLA, [tiny.MOE]), seq=2, batch=3, context=30)
    path = "model.layers.0.self_attn"
    assert counted[f"{path}.core"][0] == 2 * (3 * 2 * 32) * 4 * (8 + 4 + 6)
    assert counted[f"{path}.q_b_proj"][0] == 2 * (3 * 2) * 24 * 4 * (8 + 4)
    assert counted[f"{path}.kv_b_proj"][0] == 2 * (3 * 32) * 16 * 4 * (8 + 6)  # cached latents are expanded again


def test_an_absorbed_step_works_on_latents() -> None:
    counted = flops(tiny.text(tiny.MLA, [tiny.MOE]), seq=1, batch=3, context=30, mla="absorbed")
    path = "model.layers.0.self_attn"
    assert counted[f"{path}.core"][0] == 2 * (3 * 31) * 4 * ((16 + 4) + 16)  # keys of rank 16 + 4, values of rank 16
    assert counted[f"{path}.kv_b_proj"][0] == 2 * 3 * 4 * 16 * (8 + 6)  # queries in, values out, new rows only


def test_logits_of_the_last_row_only() -> None:
    counted = flops(tiny.text(tiny.MLA, [tiny.MOE]), seq=10, batch=3, logits="last")
    assert counted["lm_head"][0] == 2 * 3 * 40 * 50


def test_prediction_modules_run_only_when_asked_for() -> None:
    spec = tiny.text(tiny.MLA, [tiny.DENSE, tiny.MOE], num_nextn_predict_layers=1)
    path = "model.layers.2.eh_proj"
    assert path not in flops(spec, seq=10)
    with_prediction = flops(spec, seq=10, mtp=True, backward=True)
    assert with_prediction[path] == (2 * 10 * (2 * 40) * 40, 4 * 10 * (2 * 40) * 40)
    assert with_prediction["lm_head"][0] == 2 * (2 * 10 * 40 * 50)


@pytest.mark.parametrize("spec", [tiny.text(tiny.MLA, [tiny.DENSE, tiny.MOE]), tiny.text(tiny.GQA, [tiny.DENSE])])
def test_the_parts_add_up_to_what_torchs_own_counter_says(spec: dict[str, Any]) -> None:
    model = build(spec)
    ids = torch.empty(2, 10, dtype=torch.long, device="meta")
    with FlopCounterMode(display=False) as whole:
        model(ids).sum().backward()
    counted = flops(spec, seq=10, batch=2, backward=True)
    assert sum(forward + backward for forward, backward in counted.values()) == whole.get_total_flops()


class Siblings(nn.Module):
    """Two projections of one input, one followed by a third."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8, bias=False)
        self.low, self.high = nn.Linear(8, 4, bias=False), nn.Linear(4, 6, bias=False)
        self.beside = nn.Linear(8, 6, bias=False)

    def forward(self, x: Any) -> Any:
        x = self.first(x)
        return self.high(self.low(x)) + self.beside(x)


def test_backward_is_booked_on_the_right_sibling_where_torchs_table_is_not() -> None:
    model, x = Siblings(), torch.randn(3, 8)
    forward = {"first": 2 * 3 * 8 * 8, "low": 2 * 3 * 8 * 4, "high": 2 * 3 * 4 * 6, "beside": 2 * 3 * 8 * 6}
    with ModuleFlops({module: name for name, module in model.named_children()}) as ours:
        model(x).sum().backward()
    assert ours.forward == forward
    assert ours.backward == {"first": forward["first"]} | {n: 2 * forward[n] for n in ("low", "high", "beside")}
    with FlopCounterMode(display=False) as torchs:
        model(x).sum().backward()
    table = {name: sum(torchs.get_flop_counts()[f"Siblings.{name}"].values()) for name in forward}
    assert table["beside"] > 3 * forward["beside"], "torch's own table is right now: it could be used"


def test_flops_outside_all_parts_are_an_error() -> None:
    model = Siblings()
    with pytest.raises(TwinError, match="outside every part"), ModuleFlops({model.first: "first"}):
        model(torch.randn(3, 8))


def test_hooks_are_gone_after_a_count() -> None:
    model = Siblings()
    with ModuleFlops({model.first: "first"}) as counted:
        model.first(torch.randn(3, 8))
    before = dict(counted.forward)
    model.first(torch.randn(3, 8))
    assert counted.forward == before
    assert not model.first._forward_hooks
    assert not model.first._forward_pre_hooks


def test_there_is_no_backward_through_a_cache() -> None:
    with pytest.raises(ValueError, match="cached context"):
        flops(tiny.text(tiny.MLA, [tiny.MOE]), seq=1, context=5, backward=True)


def test_an_image_needs_a_vision_section() -> None:
    with pytest.raises(InputError, match=r"spec\.vision"):
        flops(tiny.text(tiny.MLA, [tiny.MOE]), seq=1, images=[(16, 16)])
