"""The twin computes what the public modeling code computes: the same weights give transformers' logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from archcalc.reference.fields import Section
from archcalc.reference.kernels.options import Options
from archcalc.reference.model import Model, MultimodalModel, TextModel, factory, new_cache, places_of
from tests.reference import tiny
from tests.reference.theirs import with_weights_of

pytestmark = pytest.mark.twin

DEEPSEEK = {
    "q_lora, yarn": tiny.text(tiny.MLA, [tiny.DENSE, tiny.MOE], tiny.YARN),
    "no q_lora, two shared experts": tiny.text(
        tiny.MLA | {"q_lora_rank": None}, [tiny.DENSE, tiny.MOE | {"n_shared_experts": 2}]
    ),
    "expert groups": tiny.text(
        tiny.MLA,
        [tiny.MOE | {"n_routed_experts": 16, "n_group": 4, "topk_group": 2}, tiny.MOE | {}],
        tiny.YARN,
    ),
    "attention bias, weights not normalised": tiny.text(
        tiny.MLA | {"attention_bias": True}, [tiny.MOE | {"norm_topk_prob": False}]
    ),
    "sparse attention": tiny.text(tiny.SPARSE, [tiny.DENSE, tiny.MOE], tiny.YARN),
    "yarn without mscale": tiny.text(
        tiny.MLA, [tiny.MOE], {k: v for k, v in tiny.YARN.items() if not k.startswith("mscale")}
    ),
}
GROUPED = {
    "Llama": tiny.text(tiny.GQA, [tiny.DENSE, tiny.DENSE]),
    "Llama 3.1 rope": tiny.text(tiny.GQA | {"head_dim": 16}, [tiny.DENSE, tiny.DENSE], tiny.LLAMA3),
    "Llama, linear rope": tiny.text(tiny.GQA, [tiny.DENSE], {"type": "linear", "factor": 4.0}),
    "Llama with biases": tiny.text(
        tiny.GQA | {"attention_bias": True, "attention_out_bias": True}, [tiny.DENSE | {"mlp_bias": True}]
    ),
    "Llama, one key head a query head, tied": tiny.text(
        tiny.GQA | {"num_key_value_heads": 4}, [tiny.DENSE], tie_word_embeddings=True
    ),
    "Qwen2": tiny.text(tiny.GQA | {"attention_bias": True, "head_dim": 12}, [tiny.DENSE, tiny.DENSE]),
    "Qwen3": tiny.text(tiny.GQA | {"qk_norm": "per_head"}, [tiny.DENSE, tiny.DENSE]),
    "Qwen3-MoE": tiny.text(
        tiny.GQA | {"qk_norm": "per_head"},
        [
            tiny.MOE
            | {
                "n_shared_experts": 0,
                "scoring_func": "softmax",
                "topk_method": "greedy",
                "routed_scaling_factor": 1.0,
            }
        ],
    ),
}
GEMMA = {
    "Gemma 3": tiny.gemma(),
    "Gemma 3, a window only": tiny.gemma(
        layers=[{"count": 3, "attention": "local", "ffn": "dense"}], num_hidden_layers=3, tie_word_embeddings=False
    ),
}
CASES = DEEPSEEK | GROUPED | GEMMA


def assert_same(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert ours.shape == theirs.shape
    difference, largest = (ours - theirs).abs().max().item(), theirs.abs().max().item()
    assert difference <= 1e-5 * largest, f"{difference} of {largest}"
    assert largest > 0.1, "logits too small to tell anything"


@pytest.mark.parametrize("spec", CASES.values(), ids=CASES.keys())
@torch.no_grad()
def test_prefill_logits_equal_transformers(spec: dict[str, Any]) -> None:
    twin = tiny.randomised(spec)
    theirs = with_weights_of(twin, spec)
    ids = tiny.ids(2, 40)
    assert_same(twin(ids), theirs(input_ids=ids, use_cache=False).logits)


@pytest.mark.parametrize("spec", CASES.values(), ids=CASES.keys())
@torch.no_grad()
def test_cached_decode_logits_equal_transformers(spec: dict[str, Any]) -> None:
    twin = tiny.randomised(spec)
    theirs = with_weights_of(twin, spec)
    assert_same(*decoded(twin, theirs, tiny.ids(2, 24)))


@pytest.mark.parametrize("spec", DEEPSEEK.values(), ids=DEEPSEEK.keys())
@torch.no_grad()
def test_absorbed_equals_expanded(spec: dict[str, Any]) -> None:
    twin = tiny.randomised(spec)
    ids = tiny.ids(2, 24)
    assert_same(twin(ids, absorbed=True), twin(ids))
    cache = new_cache(twin, 2, 24)
    twin(ids[:, :20], cache=cache)
    steps = [twin(ids[:, row : row + 1], cache=cache, absorbed=True) for row in range(20, 24)]
    assert_same(torch.cat(steps, dim=1), twin(ids)[:, 20:])


@pytest.mark.parametrize("spec", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize(
    "options",
    [
        Options(kernels="eager", core="unfused", router_probs="out"),
        Options(kernels="fused", core="flash", router_probs="out"),
        Options(kernels="fused", core="flash", router_probs="act"),
    ],
    ids=["eager, unfused", "fused, flash", "probabilities inside"],
)
@torch.no_grad()
def test_all_kernels_give_these_logits(options: Options, spec: dict[str, Any]) -> None:
    twin, section = tiny.randomised(spec), Section(spec["backbone"], "backbone")
    other = TextModel(section, factory(section, "cpu", "float32", options))
    other.load_state_dict(twin.state_dict())
    assert_same(other(tiny.ids(2, 40)), twin(tiny.ids(2, 40)))


def decoded(twin: Model, theirs: Any, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of a prefill but for the last three rows, and of those one at a time, from both."""
    rows = ids.shape[1]
    cuts = [slice(0, rows - 3), *(slice(row, row + 1) for row in range(rows - 3, rows))]
    cache, held, ours, others = new_cache(twin, len(ids), rows), None, [], []
    for cut in cuts:
        ours.append(twin(ids[:, cut], cache=cache))
        output = theirs(input_ids=ids[:, cut], cache=held, use_cache=True)
        held = output.cache
        others.append(output.logits)
    assert cache.length == rows
    return torch.cat(ours, dim=1), torch.cat(others, dim=1)


@torch.no_grad()
def test_k25_text_logits_equal_transformers() -> None:
    spec = tiny.k25()
    twin = tiny.randomised(spec)
    theirs = with_weights_of(twin, spec)
    ids = tiny.ids(2, 40)
    assert_same(twin(ids), theirs(input_ids=ids, use_cache=False).logits)
    assert_same(*decoded(twin, theirs, ids))


GRIDS = {
    "an image": ([(1, 4, 6)], tiny.IMAGE),
    "an image of the position table's own size": ([(1, 8, 8)], tiny.IMAGE),
    "three images of two sizes": ([(1, 2, 4), (1, 4, 2), (1, 6, 10)], tiny.IMAGE),
    "a video of one chunk": ([(4, 4, 6)], tiny.VIDEO),
    "a video of two full chunks and a shorter one": ([(4, 4, 4), (4, 4, 4), (2, 4, 4)], tiny.VIDEO),
}


def with_vision(grids: list[tuple[int, int, int]], placeholder: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids with the placeholders in their middle, and random patches."""
    tokens = sum((height // 2) * (width // 2) for _, height, width in grids)
    ids = tiny.ids(1, 20)
    ids = torch.cat((ids[:, :9], torch.full((1, tokens), placeholder), ids[:, 9:]), dim=1)
    patches = sum(frames * height * width for frames, height, width in grids)
    return ids, torch.randn(patches, 3, 4, 4, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(("grids", "placeholder"), GRIDS.values(), ids=GRIDS.keys())
@torch.no_grad()
def test_k25_vision_logits_equal_transformers(grids: list[tuple[int, int, int]], placeholder: int) -> None:
    spec = tiny.k25()
    twin = tiny.randomised(spec)
    theirs = with_weights_of(twin, spec)
    ids, pixels = with_vision(grids, placeholder)
    ours = twin(ids, pixels=pixels, grids=grids, places=places_of(ids, placeholder))
    names = (
        ("pixel_values", "image_grid_thw") if placeholder == tiny.IMAGE else ("pixel_values_videos", "video_grid_thw")
    )
    given = dict(zip(names, (pixels, torch.tensor(grids)), strict=True))
    assert_same(ours, theirs(input_ids=ids, use_cache=False, **given).logits)
    assert (ours - twin(ids.clamp(max=49))).abs().max() > 0.01, "the pixels changed nothing"


@torch.no_grad()
def test_frames_of_a_chunk_see_each_other_and_chunks_do_not() -> None:
    spec = tiny.k25()
    twin = tiny.randomised(spec)
    assert isinstance(twin, MultimodalModel)
    pixels = torch.randn(32, 3, 4, 4, generator=torch.Generator().manual_seed(3))
    changed = pixels.clone()
    changed[16:] += 1.0  # the second frame, or the second image
    one = [twin.vision_tower(p, [(2, 4, 4)]) for p in (pixels, changed)]
    two = [twin.vision_tower(p, [(1, 4, 4), (1, 4, 4)]) for p in (pixels, changed)]
    assert (one[0] - one[1]).abs().max() > 0.01
    assert torch.equal(two[0][:4], two[1][:4])
    assert (two[0][4:] - two[1][4:]).abs().max() > 0.01


@torch.no_grad()
def test_a_norm_after_the_merge_spans_the_merged_features() -> None:
    spec = tiny.k25()
    spec["projector"]["use_postshuffle_norm"] = True
    twin = tiny.randomised(spec)
    assert isinstance(twin, MultimodalModel)
    assert twin.state_dict()["mm_projector.pre_norm.weight"].shape == (4 * 32,)
    assert twin.mm_projector(torch.randn(5, 4, 32)).shape == (5, 40)


@torch.no_grad()
def test_prediction_module_equals_transformers() -> None:
    from transformers.modeling_layers import MtpModel

    spec = tiny.text(tiny.MLA, [tiny.DENSE, tiny.MOE], tiny.YARN, num_nextn_predict_layers=1)
    twin = tiny.randomised(spec)
    plain = tiny.randomised(tiny.text(tiny.MLA, [tiny.DENSE, tiny.MOE], tiny.YARN))
    plain.load_state_dict({k: v for k, v in twin.state_dict().items() if ".layers.2." not in k})
    main = with_weights_of(plain, spec | {"backbone": spec["backbone"] | {"num_nextn_predict_layers": 0}})
    main.config.num_nextn_predict_layers = 1
    theirs = MtpModel(main, 1).eval()
    ours = {k.removeprefix("model.layers.2."): v for k, v in twin.state_dict().items() if ".layers.2." in k}
    stacks = {half: ours.pop(f"mlp.experts.{half}_proj.weight") for half in ("gate", "up", "down")}
    ours["mlp.experts.gate_up_proj"] = torch.cat((stacks["gate"], stacks["up"]), dim=1)
    ours["mlp.experts.down_proj"] = stacks["down"]
    ours["post_norm.weight"] = ours.pop("shared_head.norm.weight")
    beside = ("enorm", "hnorm", "eh_proj", "post_norm")
    renamed = {k if k.startswith(beside) else f"mtp_block.{k}": v for k, v in ours.items()}
    missing, unexpected = theirs.layers[0].load_state_dict(renamed)
    assert not missing
    assert not unexpected
    ids = tiny.ids(2, 12)
    hidden = torch.randn(2, 12, 40, generator=torch.Generator().manual_seed(5))
    rows = torch.arange(12)[None]
    expected = theirs.forward_layer(0, hidden, rows, None, input_ids=ids)
    assert_same(twin.predict(0, hidden, ids), main.lm_head(expected))


def test_a_wrong_router_or_size_is_noticed() -> None:
    """What the comparisons above rest on: each of these mistakes moves the logits far past the tolerance."""
    spec = tiny.k25()
    twin = tiny.randomised(spec)
    ids = tiny.ids(2, 40)
    with torch.no_grad():
        right = twin(ids)
        for path, change in {
            "language_model.model.layers.1.mlp.gate.weight": lambda t: t.zero_(),
            "language_model.model.layers.1.mlp.gate.e_score_correction_bias": lambda t: t.zero_(),
            "language_model.model.layers.2.mlp.experts.up_proj.weight": lambda t: t.mul_(1.001),
            "language_model.model.layers.0.self_attn.kv_a_layernorm.weight": lambda t: t.add_(0.001),
        }.items():
            tensor = twin.state_dict()[path]
            kept = tensor.clone()
            change(tensor)
            with pytest.raises(AssertionError):
                assert_same(twin(ids), right)
            tensor.copy_(kept)
        assert_same(twin(ids), right)
    narrow = tiny.k25()
    narrow["backbone"]["ffn"]["moe"]["moe_intermediate_size"] = 23
    with pytest.raises(RuntimeError, match="shape"):
        with_weights_of(tiny.randomised(narrow), spec)
