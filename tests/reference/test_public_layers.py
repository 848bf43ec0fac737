"""Norms, their places, parallel steps and learned positions: the twin's weights in transformers' classes give the
same logits, prefilled and step by step."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from archcalc.reference.factory import Factory
from archcalc.reference.model import Model
from archcalc.reference.norm_kinds import NormKind
from archcalc.reference.norms import Norm
from tests.reference import tiny
from tests.reference.test_numbers import assert_same, decoded

pytestmark = pytest.mark.twin

SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 36,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
    "pad_token_id": None,
    "attn_implementation": "eager",
}
ROPE = {"rope_type": "default", "rope_theta": 50000.0}
TWO = {"num_hidden_layers": 2, "layers": [{"count": 2, "attention": "only", "ffn": "dense"}]}
PARALLEL = {
    "num_hidden_layers": 2,
    "layers": [
        {
            "count": 2,
            "steps": [
                {"attention": "only"},
                {"ffn": "dense", "arrangement": "parallel", "norm_placement": "none"},
            ],
        }
    ],
}


def named_alike(ours: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return ours


def olmo2() -> tuple[dict[str, Any], Any]:
    # hidden 40 = 4 heads of 10: the class has no head_dim of its own
    config = transformers.Olmo2Config(**SIZES, rms_norm_eps=1e-5, rope_parameters=ROPE)
    spec = tiny.text(tiny.GQA | {"qk_norm": "full"}, [tiny.DENSE], norm_placement="post", **TWO)
    return spec, transformers.Olmo2ForCausalLM(config)


def olmo() -> tuple[dict[str, Any], Any]:
    config = transformers.OlmoConfig(**SIZES, rope_parameters=ROPE)
    return tiny.text(tiny.GQA, [tiny.DENSE], norm="none", **TWO), transformers.OlmoForCausalLM(config)


def stablelm() -> tuple[dict[str, Any], Any]:
    more = {"use_parallel_residual": True, "layer_norm_eps": 1e-5, "hidden_act": "silu"}
    config = transformers.StableLmConfig(**SIZES, **more, rope_parameters=ROPE | {"partial_rotary_factor": 1.0})
    spec = tiny.text(tiny.GQA, [tiny.DENSE], norm="layer", layer_norm_eps=1e-5, **PARALLEL)
    return spec, transformers.StableLmForCausalLM(config)


def gpt2() -> tuple[dict[str, Any], Any]:
    sizes = {"vocab_size": 50, "n_embd": 40, "n_layer": 2, "n_head": 4, "n_inner": 36, "n_positions": 64}
    ids = {"bos_token_id": None, "eos_token_id": None, "tie_word_embeddings": False}
    config = transformers.GPT2Config(**sizes, **ids, attn_implementation="eager")
    heads = tiny.GQA | {"num_key_value_heads": 4, "attention_bias": True, "attention_out_bias": True}
    mlp = tiny.GELU | {"gated": False, "mlp_bias": True}
    more = {"norm": "layer", "layer_norm_eps": 1e-5, "rope_theta": None, "position_embeddings": 64, **TWO}
    return tiny.text(heads, [mlp], **more), transformers.GPT2LMHeadModel(config)


GPT2 = (
    (r"model\.embed_tokens\.", "transformer.wte."),
    (r"model\.embed_positions\.", "transformer.wpe."),
    (r"model\.norm\.", "transformer.ln_f."),
    (r"model\.layers\.(\d)\.input_layernorm\.", r"transformer.h.\1.ln_1."),
    (r"model\.layers\.(\d)\.post_attention_layernorm\.", r"transformer.h.\1.ln_2."),
    (r"model\.layers\.(\d)\.self_attn\.o_proj\.", r"transformer.h.\1.attn.c_proj."),
    (r"model\.layers\.(\d)\.mlp\.up_proj\.", r"transformer.h.\1.mlp.c_fc."),
    (r"model\.layers\.(\d)\.mlp\.down_proj\.", r"transformer.h.\1.mlp.c_proj."),
)


def as_gpt2(ours: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """GPT-2's names; its linears hold the transposed matrix, and queries, keys and values in one."""
    left, theirs = dict(ours), {}
    for layer in range(2):
        for part in ("weight", "bias"):
            names = [f"model.layers.{layer}.self_attn.{letter}_proj.{part}" for letter in "qkv"]
            joined = torch.cat([left.pop(name) for name in names])
            theirs[f"transformer.h.{layer}.attn.c_attn.{part}"] = joined.T if part == "weight" else joined
    for name, tensor in left.items():
        renamed = name
        for pattern, new in GPT2:
            renamed = re.sub(pattern, new, renamed)
        linear = re.search(r"\.(c_proj|c_fc)\.weight$", renamed)
        theirs[renamed] = tensor.T if linear else tensor
    return theirs


CASES = {
    "OLMo 2: norms behind the mixers": (olmo2, named_alike),
    "OLMo: norms without parameters": (olmo, named_alike),
    "StableLM 2: one norm for parallel attention and MLP": (stablelm, named_alike),
    "GPT-2: LayerNorm and learned positions": (gpt2, as_gpt2),
}


def both(made: Callable[[], tuple[dict[str, Any], Any]], renamed: Callable[..., Any]) -> tuple[Model, Any]:
    spec, theirs = made()
    twin = tiny.randomised(spec)
    missing, unexpected = theirs.load_state_dict(renamed(twin.state_dict()), strict=False)
    assert not missing
    assert not unexpected
    return twin, theirs.eval()


@pytest.mark.parametrize(("made", "renamed"), CASES.values(), ids=CASES.keys())
@torch.no_grad()
def test_logits_equal_transformers(made: Callable[[], Any], renamed: Callable[..., Any]) -> None:
    twin, theirs = both(made, renamed)
    ids = tiny.ids(2, 40)
    assert_same(twin(ids), theirs(input_ids=ids, use_cache=False).logits)
    assert_same(*decoded(twin, theirs, tiny.ids(2, 24)))


@pytest.mark.parametrize("kind", ["rms", "rms_zero_centered", "layer", "layer_no_bias", "none"])
@torch.no_grad()
def test_each_norm_is_the_public_one(kind: str) -> None:
    from transformers.models.cohere.modeling_cohere import CohereLayerNorm
    from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
    from transformers.models.llama.modeling_llama import LlamaRMSNorm
    from transformers.models.olmo.modeling_olmo import OlmoLayerNorm

    eps = 1e-5
    public: dict[str, nn.Module] = {
        "rms": LlamaRMSNorm(12, eps),
        "rms_zero_centered": Gemma3RMSNorm(12, eps),
        "layer": nn.LayerNorm(12, eps),
        "layer_no_bias": CohereLayerNorm(12, eps),
        "none": OlmoLayerNorm(12),
    }
    ours = Norm(NormKind(name=kind, eps=eps), 12, Factory(device=torch.device("cpu"), dtype=torch.float32))
    assert {name: weight.shape for name, weight in ours.named_parameters()} == {
        name: weight.shape for name, weight in public[kind].named_parameters()
    }
    for weight in ours.parameters():
        weight.copy_(torch.randn(12, generator=torch.Generator().manual_seed(3)))
    public[kind].load_state_dict(ours.state_dict())
    x = torch.randn(5, 12, generator=torch.Generator().manual_seed(4))
    assert torch.allclose(ours(x), public[kind](x), atol=1e-6)
    assert ours.bfloat16()(x.bfloat16()).dtype == torch.bfloat16


@torch.no_grad()
def test_a_norm_stands_behind_the_embedding_and_the_positions() -> None:
    more = {"norm": "layer", "layer_norm_eps": 1e-5, "embedding_norm": "layer_no_bias", "position_embeddings": 64}
    plain = tiny.randomised(tiny.text(tiny.GQA, [tiny.DENSE], **(more | {"embedding_norm": None})))
    normed = tiny.randomised(tiny.text(tiny.GQA, [tiny.DENSE], **more))
    names = {name for name, _ in normed.named_parameters()} - {name for name, _ in plain.named_parameters()}
    assert names == {"model.embed_norm.weight"}
    # the plain twin gives the same, if what it looks up is the sum that was normalised by hand
    state = dict(normed.state_dict())
    weight = state.pop("model.embed_norm.weight")
    plain.load_state_dict(state)
    ids = tiny.ids(1, 9)
    table, places = state["model.embed_tokens.weight"], state["model.embed_positions.weight"]
    summed = table[ids] + places[:9]
    by_hand = (summed - summed.mean(-1, keepdim=True)) / (summed.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    found: Any = plain
    found.model.embed_positions = None
    assert_same(normed(ids), found.lm_head(found.model(by_hand * weight, None, False)))
