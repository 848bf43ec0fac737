"""Attention residuals: the twin against a plain loop over a growing list of sources; what it counts and keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from archcalc.errors import InputError
from archcalc.reference.flops import flops
from archcalc.reference.model import build, new_cache
from archcalc.reference.saved import measure
from tests.reference import tiny
from tests.reference.test_numbers import assert_same

pytestmark = pytest.mark.twin

T, HIDDEN = 9, 40


def spec(size: int, layers: int = 5) -> dict[str, Any]:
    return tiny.text(tiny.GQA, [tiny.DENSE], attn_res_block_size=size, **depth(layers))


def depth(layers: int) -> dict[str, Any]:
    return {"num_hidden_layers": layers, "layers": [{"count": layers, "attention": "only", "ffn": "dense"}]}


def mixed(sources: list[Tensor], norm: Tensor, proj: Tensor) -> Tensor:
    """Each token's sum of its sources, weighted by a softmax of proj . RMSNorm(source)."""
    values = torch.stack(sources)
    unit = values * torch.rsqrt(values.pow(2).mean(-1, keepdim=True) + 1e-5) * norm
    return ((unit @ proj[0]).softmax(0)[..., None] * values).sum(0)


def by_hand(twin: Any, ids: Tensor, size: int) -> Tensor:
    """arXiv:2603.15031 with the modules of the twin: blocks are sealed before every `size`-th layer's attention."""
    model = twin.model
    now = model.now(model.embed_tokens(ids))
    blocks: list[Tensor] = []
    running: Tensor = model.embed_tokens(ids)
    for number, layer in enumerate(model.layers):
        given = mixed([*blocks, running], layer.self_attention_res_norm.weight, layer.self_attention_res_proj.weight)
        out = layer.self_attn(layer.input_layernorm(given), now.angles["only"], now, number)
        if number % size == 0:
            blocks.append(running)
            running = out
        else:
            running = running + out
        given = mixed([*blocks, running], layer.mlp_res_norm.weight, layer.mlp_res_proj.weight)
        running = running + layer.mlp(layer.post_attention_layernorm(given))
    last = mixed([*blocks, running], model.output_attn_res_norm.weight, model.output_attn_res_proj.weight)
    logits: Tensor = twin.lm_head(model.norm(last))
    return logits


@pytest.mark.parametrize("size", [1, 2, 3, 12])
@torch.no_grad()
def test_it_is_attention_over_blocks_and_the_running_sum(size: int) -> None:
    twin = tiny.randomised(spec(size))
    ids = tiny.ids(2, T)
    assert_same(twin(ids), by_hand(twin, ids, size))
    cache = new_cache(twin, 2, T)
    parts = [twin(ids[:, cut], cache=cache) for cut in (slice(0, 6), slice(6, 7), slice(7, T))]
    assert_same(torch.cat(parts, dim=1), twin(ids))


def test_a_site_multiplies_every_slot_twice() -> None:
    counted = flops(spec(2), seq=T, backward=True)
    sites = {path: both for path, both in counted.items() if "_res_proj" in path}
    assert len(sites) == 5 * 2 + 1
    forward = 2 * 2 * T * (3 + 1) * HIDDEN  # scores and sum, of three blocks of five layers and the running sum
    assert set(sites.values()) == {(forward, 2 * forward)}


@pytest.mark.parametrize("kernels", ["fused", "eager"])
def test_a_layer_keeps_its_running_sums_and_not_the_blocks(kernels: str) -> None:
    plain = tiny.text(tiny.GQA, [tiny.DENSE], **depth(5))
    kept = [measure(each, seq=T, kernels=kernels)["model.layers.0"] for each in (plain, spec(2))]
    # what is weighed takes the place of the norms' input, and both running sums are kept beside it
    assert kept[1] - kept[0] == 2 * T * HIDDEN * 2
    assert len({measure(spec(size), seq=T)["model.layers.0"] for size in (1, 2, 12)}) == 1


def test_no_prediction_module_and_no_parallel_step() -> None:
    with pytest.raises(InputError, match="what a prediction module reads isn't known"):
        build(spec(2) | {"backbone": spec(2)["backbone"] | {"num_nextn_predict_layers": 1}})
    steps = [{"attention": "only"}, {"ffn": "dense", "arrangement": "parallel", "norm_placement": "none"}]
    parallel = tiny.text(
        tiny.GQA, [tiny.DENSE], attn_res_block_size=1, num_hidden_layers=1, layers=[{"count": 1, "steps": steps}]
    )
    with pytest.raises(InputError, match="an attention, then a feed-forward"):
        build(parallel)
