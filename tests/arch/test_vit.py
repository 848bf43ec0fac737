"""The generic vision transformer and its merger: exact tensors, patches, pairs and tokens of public towers."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from pydantic import ValidationError

from archcalc.arch.vision.tower import Group
from archcalc.calc.params import count, merged_hidden_size
from archcalc.documents.flops import flops_quantities
from archcalc.errors import InputError
from archcalc.files.model import Spec
from archcalc.tape import Tape
from archcalc.workload import Workload
from tests.support import data, dumped, run, spec_of
from tests.towers import LLAVA, TOWERS, beside


def spec(name: str, /, **vision: Any) -> Spec:
    return spec_of(beside(data("llama-3.1-70b"), name, **vision) | {"claims": []})


def groups(name: str, workload: Workload) -> list[Group]:
    tower = spec(name).vision
    assert tower is not None
    return tower.groups(workload)


def weights(name: str, part: str, /, **vision: Any) -> dict[str, int]:
    """Elements by name below the tower's or projector's own prefix."""
    prefix = TOWERS[name][0].get("prefix", "vision_tower")
    found: Counter[str] = Counter()
    for w in spec(name, **vision).trace(Workload()).weights():
        if w.part == part:  # layers of two kinds have weights of one name
            found[f"{w.path}.{w.suffix}".removeprefix(f"{prefix}.")] += w.elements
    return found


# ------------------------------------------------------------------------------------------------------- parameters


@pytest.mark.parametrize(
    ("name", "vision", "projector"),
    [
        # totals of the public classes of transformers 5.24, built from the config.json of each release
        ("qwen2-vl-2b", 631_183_360, 34_087_936),
        ("qwen2.5-vl-3b", 631_975_680, 36_708_608),
        ("qwen3-vl-8b", 415_891_440, 160_496_896),
        ("qwen3.5-27b", 415_891_440, 44_838_656),
        # CLIPVisionModel and SiglipVisionModel without its head, of the same; LLaVA-1.5's two linears
        ("clip-l-336", 303_507_456, 1024 * 4096 + 4096 + 4096 * 4096 + 4096),
        ("siglip-so400m", 678_528 + 839_808 + 27 * 15_239_504 + 2_304, 1152 * 4096 + 4096 + 4096 * 4096 + 4096),
        # header of the released files: 27 x 14,682,112 + 4,797,440, and 4096² + 4096·7168 + 7168
        ("kimi-k3", 401_214_464, 46_144_512),
    ],
)
def test_totals_are_those_of_the_public_classes(name: str, vision: int, projector: int) -> None:
    found = count(spec(name).trace(Workload()))
    assert (found.vision, found.projector) == (vision, projector)


def test_qwen2s_tower_adds_up_part_by_part() -> None:
    h, f, n = 1280, 5120, 32
    assert weights("qwen2-vl-2b", "vision") == {
        "patch_embed.proj.weight": h * 3 * 2 * 14 * 14,  # two frames deep, no bias
        "blocks.{i}.norm1.weight": n * h,
        "blocks.{i}.norm1.bias": n * h,
        "blocks.{i}.attn.qkv.weight": n * 3 * h * h,
        "blocks.{i}.attn.qkv.bias": n * 3 * h,
        "blocks.{i}.attn.proj.weight": n * h * h,
        "blocks.{i}.attn.proj.bias": n * h,
        "blocks.{i}.norm2.weight": n * h,
        "blocks.{i}.norm2.bias": n * h,
        "blocks.{i}.mlp.fc1.weight": n * f * h,
        "blocks.{i}.mlp.fc1.bias": n * f,
        "blocks.{i}.mlp.fc2.weight": n * h * f,
        "blocks.{i}.mlp.fc2.bias": n * h,
    }
    assert weights("qwen2-vl-2b", "projector") == {
        "merger.ln_q.weight": h,
        "merger.ln_q.bias": h,
        "merger.mlp.0.weight": 4 * h * 4 * h,
        "merger.mlp.0.bias": 4 * h,
        "merger.mlp.2.weight": 1536 * 4 * h,
        "merger.mlp.2.bias": 1536,
    }


def test_a_gated_tower_with_rmsnorm_has_a_third_matrix_and_no_shift() -> None:
    found = weights("qwen2.5-vl-3b", "vision")
    inside = {key.removeprefix("blocks.{i}.") for key in found if key.startswith("blocks")}
    matrices = {f"mlp.{name}_proj.{what}" for name in ("gate", "up", "down") for what in ("weight", "bias")}
    assert matrices | {"norm1.weight", "norm2.weight"} <= inside
    assert not {"norm1.bias", "norm2.bias"} & inside


def test_windows_change_no_parameter() -> None:
    for full in ([], [7, 15, 23, 31], list(range(32))):
        assert sum(weights("qwen2.5-vl-3b", "vision", fullatt_block_indexes=full).values()) == 631_975_680


def test_earlier_layers_have_mergers_that_normalise_merged_patches() -> None:
    found = weights("qwen3-vl-8b", "projector")
    one, three = ({k: n for k, n in found.items() if k.startswith(p)} for p in ("merger.", "deepstack_merger_list."))
    linears = 4608 * 4608 + 4608 + 4096 * 4608 + 4096
    assert sum(one.values()) == 2 * 1152 + linears
    assert three["deepstack_merger_list.{i}.norm.weight"] == 3 * 4608
    assert sum(three.values()) == 3 * (2 * 4608 + linears)
    assert sum(weights("qwen3-vl-8b", "projector", deepstack_visual_indexes=[5]).values()) == 2 * linears + 2 * 5760


def test_k3s_heads_are_wider_together_than_its_residual_stream() -> None:
    found = weights("kimi-k3", "vision")
    assert found["encoder.blocks.{i}.wqkv.weight"] == 27 * 3 * 1536 * 1024
    assert found["encoder.blocks.{i}.wo.weight"] == 27 * 1024 * 1536
    assert not [key for key in found if key.endswith("bias")]
    paths = {w.path for w in spec("kimi-k3").trace(Workload()).weights() if w.part == "projector"}
    assert paths == {"mm_projector.proj.0", "mm_projector.proj.2", "mm_projector.post_norm"}


def test_clips_class_token_is_a_bare_parameter_with_a_position_of_its_own() -> None:
    found = weights("clip-l-336", "vision")
    assert found["embeddings.class_embedding"] == 1024
    assert found["embeddings.position_embedding.weight"] == (24 * 24 + 1) * 1024
    assert {"pre_layrnorm.bias", "post_layernorm.bias", "encoder.layers.{i}.self_attn.q_proj.bias"} <= set(found)


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("qwen2-vl-2b", {"model.embed_tokens", "model.norm", "lm_head"}),
        ("qwen3-vl-8b", {"model.language_model.embed_tokens", "model.language_model.norm", "lm_head"}),
        ("clip-l-336", {"language_model.model.norm", "language_model.lm_head"}),
        ("kimi-k3", {"language_model.model.norm", "language_model.lm_head"}),
    ],
)
def test_the_text_stands_where_the_release_keeps_it(name: str, paths: set[str]) -> None:
    found = {w.path for w in spec(name).trace(Workload()).weights() if w.part == "backbone"}
    assert paths <= found
    assert all(path.startswith(("model.", "lm_head", "language_model.")) for path in found)


@pytest.mark.parametrize(("name", "merged"), [("qwen2-vl-2b", 5120), ("qwen3-vl-8b", 4608), ("clip-l-336", 1024)])
def test_the_merged_width_is_the_window_times_the_patch_width(name: str, merged: int) -> None:
    assert merged_hidden_size(spec(name).trace(Workload())) == merged


# ------------------------------------------------------------------------------------------------- patches and pairs


@pytest.mark.parametrize(
    ("name", "picture", "patches"),
    [
        # rounded to 37 x 27 merge windows of 28 px; 32 x 24 of 32 px
        ("qwen2-vl-2b", (1024, 768), (74, 54)),
        ("qwen3-vl-8b", (1024, 768), (64, 48)),
        # 1 x 1: scaled up to 3136 = 56 x 56 px, to 65,536 = 256 x 256 px
        ("qwen2-vl-2b", (1, 1), (4, 4)),
        ("qwen3-vl-8b", (1, 1), (16, 16)),
        # 8192²: scaled down by sqrt(8192² / 12,845,056) = 2.2857 to 3584 = 128 x 28 px
        ("qwen2-vl-2b", (8192, 8192), (256, 256)),
        ("qwen3-vl-8b", (8192, 8192), (256, 256)),  # 16,777,216 = 4096² px
        ("clip-l-336", (1, 2000), (24, 24)),  # a square whatever comes
        ("siglip-so400m", (600, 800), (27, 27)),  # 384 / 14 = 27.4
    ],
)
def test_patches_of_an_image(name: str, picture: tuple[int, int], patches: tuple[int, int]) -> None:
    assert groups(name, Workload(images=(picture,))) == [Group(1, *patches)]


def test_a_video_is_a_group_for_each_pair_of_frames() -> None:
    # 5 frames are padded to 6. Qwen2-VL: a frame of 448 x 672 stays within 100,352 and 602,112 px
    assert groups("qwen2-vl-2b", Workload(videos=((5, 448, 672),))) == [Group(1, 32, 48)] * 3
    # Qwen3-VL: round(5 / 2) = 2 pairs of 448 x 672 px are within 4,096 and 25,165,824 px
    assert groups("qwen3-vl-8b", Workload(videos=((5, 448, 672),))) == [Group(1, 28, 42)] * 3


def test_the_bounds_of_a_video_are_of_a_frame_or_of_all_frames() -> None:
    # 64 frames of 1280 x 1280. A frame: 602,112 px are 775² px, 27 x 27 windows of 28 px, two patches a side
    frames = groups("qwen2-vl-2b", Workload(videos=((64, 1280, 1280),)))
    assert frames == [Group(1, 54, 54)] * 32
    # all: 25,165,824 / 64 = 393,216 px are 627² px, 19 x 19 windows of 32 px
    frames = groups("qwen3-vl-8b", Workload(videos=((64, 1280, 1280),)))
    assert frames == [Group(1, 38, 38)] * 32


def test_tokens_are_merge_windows() -> None:
    assert flops_quantities(spec("qwen2-vl-2b"), Workload(images=((1024, 768),)))["vision.tokens"] == 37 * 27
    assert flops_quantities(spec("clip-l-336"), Workload(images=((1024, 768),)))["vision.tokens"] == 24 * 24


def test_cached_pictures_are_not_run_again() -> None:
    assert groups("qwen2-vl-2b", Workload(phase="decode", context=99, images=((100, 100),))) == []


def pairs(tape: Tape) -> dict[int, int]:
    """Pairs that a layer scores, by the number of such layers: FLOPs over 2 (a multiply-add) · 2 (scores, values)."""
    found = {}
    for segment in tape.segments:
        for op in segment.ops if segment.part == "vision" else ():
            if op.kind == "attention":
                heads_by_dim = op.flops[0].dims[-2].size * op.flops[0].dims[-1].size
                found[segment.count] = sum(term.value for term in op.flops) // (4 * heads_by_dim)
    return found


def test_windows_score_the_pairs_inside_them() -> None:
    # 74 x 54 patches. Windows are 112 / 2 / 14 = 4 merge windows, 8 patches a side: 9 of 8 and one of 2, 6 of 8 and one
    # of 6; the sum over windows of (a·b)² is (9·64 + 4)·(6·64 + 36)
    tape = spec("qwen2.5-vl-3b").trace(Workload(images=((1024, 768),)))
    assert pairs(tape) == {28: 580 * 420, 4: (74 * 54) ** 2}


def test_a_windows_side_is_cut_down_to_whole_merge_windows() -> None:
    # 100 px are 3 merge windows of 28 px, 6 patches: 74 = 12·6 + 2, 54 = 9·6
    tape = spec("qwen2.5-vl-3b", window_size=100).trace(Workload(images=((1024, 768),)))
    assert pairs(tape)[28] == (12 * 36 + 4) * (9 * 36)


def test_a_frame_attends_to_itself_alone() -> None:
    tape = spec("qwen2-vl-2b").trace(Workload(videos=((4, 448, 672),), images=((448, 672),)))
    assert pairs(tape) == {32: 3 * (32 * 48) ** 2}


def test_a_class_token_attends_too() -> None:
    tape = spec("clip-l-336").trace(Workload(images=((448, 672),) * 2))
    assert pairs(tape) == {24: 2 * 577**2}
    assert flops_quantities(spec("clip-l-336"), Workload(images=((9, 9),)))["vision.patches"] == 576


@pytest.mark.parametrize(
    ("name", "video", "says"),
    [
        ("qwen2-vl-2b", (4, 10, 2001), "200 times as long as wide"),
        ("qwen3-vl-8b", (1, 100, 100), "2 frames or more, not 1"),
    ],
)
def test_what_the_processor_refuses_is_refused(name: str, video: tuple[int, int, int], says: str) -> None:
    with pytest.raises(InputError, match=says):
        groups(name, Workload(videos=(video,)))


# --------------------------------------------------------------------------------------------- what fits, what doesn't


@pytest.mark.parametrize(
    ("name", "changed", "says"),
    [
        ("qwen2.5-vl-3b", {"fullatt_block_indexes": None}, "belong together"),
        ("qwen2.5-vl-3b", {"fullatt_block_indexes": [32]}, "no layer 32: num_hidden_layers is 32"),
        ("qwen2.5-vl-3b", {"window_size": 27}, "holds no merge window of 28 pixels"),
        ("qwen3-vl-8b", {"deepstack_visual_indexes": [3, 3]}, "names a layer twice"),
        ("qwen3-vl-8b", {"post_norm": True}, "beside features of earlier layers"),
        ("qwen3-vl-8b", {"interpolate_pos_encoding": False}, "pictures of any size"),
        ("qwen2-vl-2b", {"interpolate_pos_encoding": True}, "there are no positions"),
        ("qwen2-vl-2b", {"class_token": True}, "only pictures of one size"),
        ("clip-l-336", {"rope_theta": 10000.0}, "only pictures of one size"),
        ("clip-l-336", {"num_position_embeddings": 576}, "576 for 577 rows"),
        ("clip-l-336", {"spatial_merge_size": 5}, "24 patches a side do not divide"),
        ("siglip-so400m", {"processor": {"kind": "fixed", "image_size": 13}}, "0 patches a side"),
        ("kimi-k3", {"qkv_hidden_size": 1535}, "qkv_hidden_size 1535 does not divide"),
    ],
)
def test_a_tower_that_does_not_fit_is_refused(name: str, changed: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        spec(name, **changed)


def test_bounds_of_pixels_stand_in_order() -> None:
    bounds = TOWERS["qwen2-vl-2b"][0]["processor"] | {"min_pixels": 12845057}
    with pytest.raises(ValidationError, match="min_pixels 12845057 is more than max_pixels 12845056"):
        spec("qwen2-vl-2b", processor=bounds)


@pytest.mark.parametrize(
    ("name", "projector", "says"),
    [
        ("qwen3-vl-8b", {"kind": "patch_merger", "use_postshuffle_norm": False}, "the last layer's features alone"),
        ("qwen2-vl-2b", {"norm": None}, "projector_ln_eps belongs to a norm"),
        ("kimi-k3", {"use_postshuffle_norm": True}, "no norm before its linears"),
    ],
)
def test_a_projector_that_does_not_fit_is_refused(name: str, projector: dict[str, Any], says: str) -> None:
    content = beside(data("llama-3.1-70b"), name)
    merger = content["projector"] | projector
    if merger["kind"] == "patch_merger":
        keys = ("kind", "mm_projector_type", "mm_hidden_size", "text_hidden_size", "projector_hidden_act")
        merger = {k: merger[k] for k in (*keys, "projector_ln_eps", "use_postshuffle_norm", "dtype") if k in merger}
    with pytest.raises(ValidationError, match=says):
        spec_of(content | {"projector": merger})


def test_more_earlier_layers_than_the_backbone_has_are_refused() -> None:
    content = beside(data("llama-3.1-70b"), "qwen3-vl-8b")
    content["backbone"] |= {"num_hidden_layers": 2, "layers": [{"count": 2, "attention": "gqa", "ffn": "dense"}]}
    with pytest.raises(ValidationError, match="3 layers hand on their features"):
        spec_of(content)


def test_llavas_projector_has_neither_norm_nor_merge() -> None:
    assert set(weights("clip-l-336", "projector")) == {
        f"{LLAVA['prefix']}.linear_{n}.{what}" for n in (1, 2) for what in ("weight", "bias")
    }


@pytest.mark.parametrize("name", TOWERS)
def test_every_command_answers(name: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "seen.yaml").write_text(dumped(beside(data("llama-3.1-70b"), name) | {"claims": []}))
    below = "encoder.layers.3.mlp" if TOWERS[name][0].get("names") == "clip" else "blocks.3.mlp"
    for command in (
        "validate seen.yaml",
        f"params seen.yaml --explain {below}",
        "flops seen.yaml --image 640x480 --phase train",
        "weights seen.yaml",
        "serve seen.yaml --gpu h200 --tp 4",
    ):
        ran = run(*command.split())
        assert ran.code == 0, ran.err
