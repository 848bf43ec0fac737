"""The twin's ViT and merger against transformers' public classes: names, shapes, values, FLOPs, sizes of pictures."""

from __future__ import annotations

import ast
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from archcalc.arch.vision.processor import SmartResize
from archcalc.arch.vision.vit import ViT
from archcalc.errors import InputError
from archcalc.reference import pixels
from archcalc.reference.fields import Section
from archcalc.reference.flopcount import ModuleFlops
from archcalc.reference.model import MultimodalModel, build
from archcalc.workload import Workload
from tests.reference import tiny
from tests.towers import TOWERS, beside, small

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.twin

CLASSES = {
    "qwen2-vl-2b": ("Qwen2VLVisionConfig", "qwen2_vl.modeling_qwen2_vl", "Qwen2VisionTransformerPretrainedModel"),
    "qwen2.5-vl-3b": (
        "Qwen2_5_VLVisionConfig",
        "qwen2_5_vl.modeling_qwen2_5_vl",
        "Qwen2_5_VisionTransformerPretrainedModel",
    ),
    "qwen3-vl-8b": ("Qwen3VLVisionConfig", "qwen3_vl.modeling_qwen3_vl", "Qwen3VLVisionModel"),
    "qwen3.5-27b": ("Qwen3_5VisionConfig", "qwen3_5.modeling_qwen3_5", "Qwen3_5VisionModel"),
    "siglip-so400m": ("SiglipVisionConfig", "siglip.modeling_siglip", "SiglipVisionModel"),
    "clip-l-336": ("CLIPVisionConfig", "clip.modeling_clip", "CLIPVisionModel"),
}
QWENS = list(CLASSES)[:4]


def arguments(tower: dict[str, Any], projector: dict[str, Any]) -> dict[str, Any]:
    """The public config's own spelling of a tower."""
    found = {key: tower[key] for key in ("hidden_size", "intermediate_size", "hidden_act", "patch_size")}
    if tower["processor"]["kind"] == "fixed":
        found |= {key: tower[key] for key in ("num_hidden_layers", "num_attention_heads")}
        found |= {"image_size": tower["processor"]["image_size"], "layer_norm_eps": tower["norm_eps"]}
        return found | ({} if tower.get("class_token") else {"vision_use_head": False})
    found |= {key: tower[key] for key in ("in_channels", "spatial_merge_size", "temporal_patch_size")}
    found |= {"depth": tower["num_hidden_layers"], "num_heads": tower["num_attention_heads"]}
    optional = ("window_size", "fullatt_block_indexes", "num_position_embeddings", "deepstack_visual_indexes")
    found |= {key: tower[key] for key in optional if key in tower}
    if set(optional) & set(tower):
        return found | {"out_hidden_size": projector["text_hidden_size"]}
    ratio = found.pop("intermediate_size") // found["hidden_size"]  # Qwen2-VL, whose hidden_size is the text's
    return found | {"embed_dim": tower["hidden_size"], "mlp_ratio": ratio, "hidden_size": projector["text_hidden_size"]}


def public(name: str, tower: dict[str, Any], projector: dict[str, Any], device: str = "meta") -> Any:
    config_name, module, model = CLASSES[name]
    config = getattr(transformers, config_name)(**arguments(tower, projector))
    found = __import__(f"transformers.models.{module}", fromlist=[model])
    with torch.device(device):
        return getattr(found, model)._from_config(config, dtype=torch.float32, attn_implementation="eager").eval()


def twin(tower: dict[str, Any], projector: dict[str, Any], device: str = "meta") -> MultimodalModel:
    text = tiny.text(tiny.GQA, [tiny.DENSE, tiny.DENSE])
    text["backbone"]["hidden_size"] = projector["text_hidden_size"]
    made = build(text | {"vision": tower, "projector": projector}, device=device, dtype="float32")
    assert isinstance(made, MultimodalModel)
    return made


def of_pictures(model: MultimodalModel) -> dict[str, torch.Tensor]:
    """The state of tower and mergers by the public class's names."""
    prefix = f"{model.tower.path}."
    return {k.removeprefix(prefix): v for k, v in model.state_dict().items() if k.startswith(prefix)}


@pytest.mark.parametrize("name", CLASSES)
def test_every_weight_has_the_name_and_shape_of_the_public_class(name: str) -> None:
    tower, projector = TOWERS[name]
    theirs = {key: tuple(p.shape) for key, p in public(name, tower, projector).named_parameters()}
    if name in ("clip-l-336", "siglip-so400m"):
        theirs = {key.removeprefix("vision_model."): shape for key, shape in theirs.items()}
    assert {key: tuple(t.shape) for key, t in of_pictures(twin(tower, projector)).items()} == theirs


# ------------------------------------------------------------------------------------------------------------ values

GRIDS = {"one": [(1, 6, 10)], "several": [(1, 6, 10), (3, 4, 4), (1, 12, 2)]}


@pytest.mark.parametrize("grids", GRIDS)
@pytest.mark.parametrize("name", QWENS)
def test_merged_features_are_those_of_the_public_class(name: str, grids: str) -> None:
    tower, projector = small(name)
    theirs, ours = public(name, tower, projector, "cpu"), twin(tower, projector, "cpu")
    generator = torch.Generator().manual_seed(3)
    for parameter in theirs.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * (0.3 if parameter.dim() > 1 else 0.5)
    own = of_pictures(ours)
    for key, parameter in theirs.state_dict().items():
        if not key.endswith("inv_freq"):
            own[key].copy_(parameter)
    patches = sum(t * h * w for t, h, w in GRIDS[grids])
    seen = torch.randn(patches, 3, 2, 4, 4, generator=generator)
    with torch.no_grad():
        found = theirs(seen.flatten(1), grid_thw=torch.tensor(GRIDS[grids]))
        levels = ours.projector.project(ours.tower.levels(seen, GRIDS[grids]))
        levels = [ours.tower.in_order(level, GRIDS[grids]) for level in levels]
    wanted = [found.pooler_output, *(getattr(found, "deepstack_features", None) or [])]
    if name == "qwen3-vl-8b":
        wanted[1:] = [wanted[2], wanted[1]]  # they come in the order of layers, 0 and 2; the config says [2, 0]
    assert len(levels) == len(wanted) == (3 if name == "qwen3-vl-8b" else 1)
    for level, want in zip(levels, wanted, strict=True):
        torch.testing.assert_close(level, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["siglip-so400m", "clip-l-336"])
def test_last_features_of_a_square_are_those_of_the_public_class(name: str) -> None:
    tower, projector = small(name)
    theirs, ours = public(name, tower, projector, "cpu"), twin(tower, projector, "cpu")
    generator = torch.Generator().manual_seed(4)
    own = of_pictures(ours)
    for key, parameter in theirs.named_parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * (0.3 if parameter.dim() > 1 else 0.5)
        own[key.removeprefix("vision_model.")].copy_(parameter)
    images = torch.randn(2, 3, 24, 24, generator=generator)
    cut = images.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
    with torch.no_grad():
        found = theirs(images).last_hidden_state
        if name == "clip-l-336":  # CLIP normalises its class token alone; here all rows are
            found = theirs.get_submodule("post_layernorm")(found)[:, 1:]
        (level,) = ours.tower.levels(cut, [(1, 6, 6), (1, 6, 6)])
    torch.testing.assert_close(level.flatten(0, 1), found.flatten(0, 1), rtol=1e-4, atol=1e-4)


def test_features_of_earlier_layers_are_added_after_the_first_layers_at_the_pictures_tokens() -> None:
    tower, projector = small("qwen3-vl-8b")
    model = twin(tower, projector, "cpu")
    text, ids, places = model.text, tiny.ids(1, 7), torch.tensor([2, 3, 4])
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    vision = [torch.randn(3, 40) for _ in range(3)]
    seen: list[torch.Tensor] = []  # what goes in and out of each layer, and into the last norm
    for layer in text.model.layers:
        layer.register_forward_hook(lambda _m, args, out: seen.extend((args[0], out)))
    text.model.norm.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    with torch.no_grad():
        text(ids, vision=vision, places=places)
    assert torch.equal(seen[0][0, 2:5], vision[0])
    for out, into, level in ((seen[1], seen[2], vision[1]), (seen[3], seen[4], vision[2])):
        torch.testing.assert_close((into - out)[0, 2:5], level, rtol=1e-4, atol=1e-5)
        assert (into - out)[0, [0, 1, 5, 6]].abs().max() == 0


# ------------------------------------------------------------------------------------------------------------- FLOPs


@pytest.mark.parametrize("name", QWENS)
def test_flops_are_those_of_the_public_class(name: str) -> None:
    tower, projector = small(name)
    theirs, ours, grid = public(name, tower, projector, "cpu"), twin(tower, projector, "cpu"), [(1, 14, 10)]
    pixels_of = torch.zeros(140, 3, 2, 4, 4)
    with torch.no_grad(), ModuleFlops({theirs: "all"}) as wanted:
        theirs(pixels_of.flatten(1), grid_thw=torch.tensor(grid))
    with torch.no_grad(), ModuleFlops(dict.fromkeys(ours.modules(), "all")) as found:
        ours.projector.project(ours.tower.levels(pixels_of, grid))
    assert found.forward["all"] == wanted.forward["all"] > 0


# ------------------------------------------------------------------------------------------------- sizes of pictures

sides = st.integers(1, 5000)


def rule(family: str, file: str) -> Any:
    """`smart_resize` out of a public processor's file: the module itself needs torchvision."""
    path = Path(transformers.__file__).parent / "models" / family / f"{file}_processing_{family}.py"
    found = [node for node in ast.parse(path.read_text()).body if getattr(node, "name", "") == "smart_resize"]
    names: dict[str, Any] = {"math": math}
    exec(compile(ast.Module(found, []), path.name, "exec"), names)
    return names["smart_resize"]


IMAGE, FRAME, VIDEO = rule("qwen2_vl", "image"), rule("qwen2_vl", "video"), rule("qwen3_vl", "video")


@settings(deadline=None)
@given(height=sides, width=sides, factor=st.sampled_from([28, 32]), least=st.integers(1, 10**5), more=sides)
@example(height=1024, width=768, factor=28, least=3136, more=1 << 20)
@example(height=1, width=200, factor=28, least=3136, more=1 << 20)
@example(height=1, width=201, factor=28, least=3136, more=1 << 20)
def test_an_images_sides_are_those_of_the_public_processor(
    height: int, width: int, factor: int, least: int, more: int
) -> None:
    most = least + 100 * more
    bounds = {"min_pixels": least, "max_pixels": most, "video_min_pixels": 1, "video_max_pixels": 1}
    ours = SmartResize(kind="smart_resize", video_pixels="per_frame", **bounds)
    try:
        wanted = IMAGE(height, width, factor, least, most)
    except ValueError:
        for refusing in (
            lambda: pixels.smart_resize(height, width, factor, least, most),
            lambda: ours.image(height, width, factor),
        ):
            with pytest.raises(InputError, match="200 times"):
                refusing()
    else:
        assert pixels.smart_resize(height, width, factor, least, most) == wanted
        assert ours.image(height, width, factor) == wanted


@settings(deadline=None)
@given(frames=st.integers(1, 40), height=sides, width=sides)
@example(frames=1, height=100, width=100)
@example(frames=7, height=10, width=1999)
def test_a_videos_patches_are_those_of_the_public_processors(frames: int, height: int, width: int) -> None:
    for name in ("qwen2-vl-2b", "qwen3-vl-8b"):
        tower, _ = TOWERS[name]
        ours = ViT.model_validate(tower)
        bounds = tower["processor"]["video_min_pixels"], tower["processor"]["video_max_pixels"]
        patch, seen = tower["patch_size"], [(frames, height, width)]
        try:
            if name == "qwen2-vl-2b":
                down, across = FRAME(height, width, 2 * patch, *bounds)
            else:
                down, across = VIDEO(frames, height, width, 2, 2 * patch, *bounds)
        except ValueError:
            with pytest.raises(InputError):
                pixels.grids(Section(tower, "vision"), videos=seen)
            with pytest.raises(InputError):
                ours.groups(Workload(videos=tuple(seen)))
        else:
            layers = (frames + frames % 2) // 2  # frames are padded to whole pairs
            sides_of = (down // patch, across // patch)
            assert pixels.grids(Section(tower, "vision"), videos=seen) == [(layers, *sides_of)]
            assert ours.groups(Workload(videos=tuple(seen))) == [(1, *sides_of)] * layers


def test_a_tower_whose_heads_do_not_turn_in_fours_is_refused() -> None:
    tower, projector = small("qwen2-vl-2b", head_dim=6)
    with pytest.raises(InputError, match="in fours, and 6 of a head"):
        twin(tower, projector)


def test_a_tower_says_where_the_checkpoint_keeps_the_text() -> None:
    paths = {name: set(build(beside(_text(), name)).state_dict()) for name in ("qwen2-vl-2b", "qwen3-vl-8b", "kimi-k3")}
    assert {"model.layers.0.mlp.up_proj.weight", "lm_head.weight"} <= paths["qwen2-vl-2b"]
    assert {"model.language_model.layers.0.mlp.up_proj.weight", "lm_head.weight"} <= paths["qwen3-vl-8b"]
    assert "model.visual.deepstack_merger_list.2.linear_fc1.weight" in paths["qwen3-vl-8b"]
    assert {"language_model.model.norm.weight", "language_model.lm_head.weight"} <= paths["kimi-k3"]
    assert {"mm_projector.post_norm.weight", "mm_projector.proj.2.weight"} <= paths["kimi-k3"]


def _text() -> dict[str, Any]:
    return tiny.text(tiny.GQA, [tiny.DENSE])
