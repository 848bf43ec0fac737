"""MoonViT-3D and the patch merger: exact tensors of the public checkpoint."""

from __future__ import annotations

from typing import Any

import pytest

from archcalc.calc.params import count, merged_hidden_size
from archcalc.workload import Workload
from tests.support import data, spec_of


def vision(**changes: Any) -> dict[str, int]:
    content = data("k25")
    content["vision"] |= changes
    tape = spec_of(content).trace(Workload())
    return {f"{w.path}.{w.suffix}": w.elements for w in tape.weights() if w.part == "vision"}


def projector(**changes: Any) -> dict[str, int]:
    content = data("k25")
    content["projector"] |= changes
    tape = spec_of(content).trace(Workload())
    found = {f"{w.path}.{w.suffix}": w.elements for w in tape.weights() if w.part == "projector"}
    return {name.removeprefix("mm_projector."): n for name, n in found.items()}


def test_the_tower_has_the_tensors_of_its_checkpoint() -> None:
    blocks, h, f = 27, 1152, 4304
    name = "vision_tower.encoder.blocks.{i}"
    assert vision() == {
        "vision_tower.patch_embed.proj.weight": h * 3 * 14 * 14,
        "vision_tower.patch_embed.proj.bias": h,
        "vision_tower.patch_embed.pos_emb.weight": 64 * 64 * h,  # the time table is fixed: no parameters
        f"{name}.norm0.weight": blocks * h,
        f"{name}.norm0.bias": blocks * h,
        f"{name}.wqkv.weight": blocks * 3 * h * h,
        f"{name}.wqkv.bias": blocks * 3 * h,
        f"{name}.wo.weight": blocks * h * h,
        f"{name}.wo.bias": blocks * h,
        f"{name}.norm1.weight": blocks * h,
        f"{name}.norm1.bias": blocks * h,
        f"{name}.mlp.fc0.weight": blocks * f * h,
        f"{name}.mlp.fc0.bias": blocks * f,
        f"{name}.mlp.fc1.weight": blocks * h * f,
        f"{name}.mlp.fc1.bias": blocks * h,
        "vision_tower.encoder.final_layernorm.weight": h,
        "vision_tower.encoder.final_layernorm.bias": h,
    }


def test_the_tower_adds_up_part_by_part() -> None:
    found = vision()
    embed = sum(n for name, n in found.items() if "patch_embed" in name)
    blocks = sum(n for name, n in found.items() if "blocks" in name)
    assert embed == 5_397_120  # 1152 x 588 + 1152 + 4096 x 1152
    assert blocks == 27 * 15_239_504
    assert sum(found.values()) == 416_866_032  # 5,397,120 + 27 x 15,239,504 + 2,304


def test_the_time_table_has_no_parameters() -> None:
    assert vision(init_pos_emb_time=8) == vision()


def test_the_projectors_norm_sees_single_patches_before_the_merge() -> None:
    assert projector() == {
        "pre_norm.weight": 1152,
        "pre_norm.bias": 1152,
        "proj.0.weight": 4608 * 4608,  # 4608 = 2 x 2 x 1152
        "proj.0.bias": 4608,
        "proj.2.weight": 7168 * 4608,
        "proj.2.bias": 7168,
    }
    # 2,304 + (21,233,664 + 4,608 = 21,238,272) + (33,030,144 + 7,168 = 33,037,312)
    assert sum(projector().values()) == 54_277_888


def test_a_norm_after_the_merge_would_be_four_times_as_long() -> None:
    after = projector(use_postshuffle_norm=True)
    assert after["pre_norm.weight"] + after["pre_norm.bias"] == 9_216  # 2 x 4608


@pytest.mark.parametrize(("kernel", "merged"), [([2, 2], 4608), ([1, 1], 1152), ([4, 2], 9216)])
def test_the_merged_width_is_the_window_times_the_patch_width(kernel: list[int], merged: int) -> None:
    content = data("k25")
    content["vision"]["merge_kernel_size"] = kernel
    assert merged_hidden_size(spec_of(content).trace(Workload())) == merged  # kh x kw x 1152


def test_images_change_no_parameter() -> None:
    spec = spec_of(data("k25"))
    assert count(spec.trace(Workload(images=((448, 448),)))) == count(spec.trace(Workload()))
