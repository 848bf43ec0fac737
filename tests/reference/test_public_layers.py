"""Norms, their places, parallel steps and learned positions: the twin's weights in transformers' classes give the
same logits, prefilled and step by step."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from math import prod
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from archcalc.reference import measure
from archcalc.reference.factory import Factory
from archcalc.reference.model import Model, build
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


def stablelm_partial() -> tuple[dict[str, Any], Any]:
    more = {"use_parallel_residual": False, "layer_norm_eps": 1e-5, "hidden_act": "silu"}
    config = transformers.StableLmConfig(**SIZES, **more, rope_parameters=ROPE | {"partial_rotary_factor": 0.4})
    spec = tiny.text(tiny.GQA | {"rotary_dim": 4}, [tiny.DENSE], norm="layer", layer_norm_eps=1e-5, **TWO)
    return spec, transformers.StableLmForCausalLM(config)


def qwen3_next() -> tuple[dict[str, Any], Any]:
    layers = {"layer_types": ["full_attention"] * 2, "mlp_only_layers": [0, 1]}
    rope = {"rope_parameters": ROPE | {"partial_rotary_factor": 0.4}}
    config = transformers.Qwen3NextConfig(**SIZES, **layers, **rope, head_dim=10, rms_norm_eps=1e-5)
    heads = tiny.GQA | {"qk_norm": "per_head", "output_gate": "elementwise", "rotary_dim": 4}
    spec = tiny.text(heads, [tiny.DENSE], norm="rms_zero_centered", **TWO)
    return spec, transformers.Qwen3NextForCausalLM(config)


class WithHead(nn.Module):
    """A head on a public model that has none of its own."""

    def __init__(self, model: Any, config: Any) -> None:
        super().__init__()
        self.model, self.lm_head = model, nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(self, **given: Any) -> SimpleNamespace:
        out = self.model(**given)
        return SimpleNamespace(logits=self.lm_head(out.last_hidden_state), cache=getattr(out, "cache", None))


def step3p7() -> tuple[dict[str, Any], Any]:
    from transformers.models.step3p7.modeling_step3p7 import Step3p7TextModel

    more = {"rope_theta": 50000.0, "partial_rotary_factors": [0.4, 0.4], "sliding_window": 64}  # of no layer here
    config = transformers.Step3p7TextConfig(**SIZES | {"pad_token_id": 0}, **more, head_dim=10, rms_norm_eps=1e-5)
    heads = tiny.GQA | {"qk_norm": "per_head", "output_gate": "per_head", "rotary_dim": 4}
    spec = tiny.text(heads, [tiny.DENSE], norm="rms_zero_centered", **TWO)
    return spec, WithHead(Step3p7TextModel(config), config)


def kimi_linear() -> tuple[dict[str, Any], Any]:
    latent = {key: tiny.MLA[key] for key in LATENT}
    layers = {"layer_types": ["full_attention"] * 2, "mlp_layer_types": ["dense"] * 2}
    sizes = SIZES | {"num_key_value_heads": 4}
    config = transformers.KimiLinearConfig(**sizes, **layers, **latent, rms_norm_eps=1e-5)
    return tiny.text(tiny.MLA, [tiny.DENSE], rope_theta=None, **TWO), transformers.KimiLinearForCausalLM(config)


LATENT = ("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
TYPES = ["full", "shared", "shared", "full", "shared"]


def glm_moe_dsa() -> tuple[dict[str, Any], Any]:
    latent = {key: tiny.MLA[key] for key in LATENT}
    layers = {"num_hidden_layers": 5, "indexer_types": TYPES, "mlp_layer_types": ["dense"] * 5}
    sizes = SIZES | layers | {"num_key_value_heads": 4}
    config = transformers.GlmMoeDsaConfig(**sizes, **latent, **tiny.INDEXER, rms_norm_eps=1e-5, rope_parameters=ROPE)
    spec = tiny.text(
        tiny.MLA,
        [tiny.DENSE],
        num_hidden_layers=5,
        layers=[{"count": 1, "attention": name, "ffn": "dense"} for name in TYPES],
        attention={"full": tiny.SPARSE, "shared": tiny.MLA | {"index_topk": tiny.INDEXER["index_topk"]}},
    )
    return spec, transformers.GlmMoeDsaForCausalLM(config)


def as_glm(ours: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """GLM-5's indexer turns neighbours, where DeepSeek's turns halves: its features in that order."""
    turned, features = tiny.MLA["qk_rope_head_dim"], tiny.INDEXER["index_head_dim"]
    order = [*torch.arange(turned).view(2, -1).T.flatten().tolist(), *range(turned, features)]
    theirs = dict(ours)
    for name, tensor in ours.items():
        if ".indexer." in name and "weights_proj" not in name:
            theirs[name] = tensor.unflatten(0, (-1, features))[:, order].flatten(0, 1)
    return theirs


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
    "StableLM 2: some features of a head turn": (stablelm_partial, named_alike),
    "GPT-2: LayerNorm and learned positions": (gpt2, as_gpt2),
    "Qwen3-Next: a gate for each feature, of which some turn": (qwen3_next, named_alike),
    "Step-3.7: a gate for each head": (step3p7, named_alike),
    "Kimi Linear: latents that nothing turns": (kimi_linear, named_alike),
    "GLM-5: layers that share a choice of keys": (glm_moe_dsa, as_glm),
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


@torch.no_grad()
def test_the_cache_of_shared_choices_is_transformers() -> None:
    spec, theirs = glm_moe_dsa()
    held = theirs.eval()(input_ids=tiny.ids(2, 24), use_cache=True).cache.layers
    names = ("keys", "values", "indexer_keys")
    rows = [[getattr(layer, name, None) for name in names] for layer in held]
    theirs_elements = [sum(each.numel() for each in row if each is not None) for row in rows]
    ours: dict[int, int] = {}
    for path, nbytes in measure.kv_bytes(spec, batch=2, context=24).items():
        layer = int(path.split(".")[2])
        ours[layer] = ours.get(layer, 0) + nbytes // 2
    assert list(ours.values()) == theirs_elements == [2 * 24 * (20 + (10 if kind == "full" else 0)) for kind in TYPES]


def public_attention(name: str, layer: int, **config: Any) -> dict[str, tuple[int, ...]]:
    """Shapes of the weights of a layer's attention in transformers, on meta at its real size."""
    model_type, config_class, module = ATTENTIONS[name]
    modeling = import_module(f"transformers.models.{model_type}.modeling_{model_type}")
    with torch.device("meta"):
        made = getattr(modeling, module)(getattr(transformers, config_class)(**config), layer)
    return {path: tuple(weight.shape) for path, weight in made.named_parameters()}


ATTENTIONS = {
    "Qwen3-Next": ("qwen3_next", "Qwen3NextConfig", "Qwen3NextAttention"),
    "Kimi Linear": ("kimi_linear", "KimiLinearConfig", "KimiLinearAttention"),
    "GLM-5": ("glm_moe_dsa", "GlmMoeDsaConfig", "GlmMoeDsaAttention"),
    "DeepSeek-V3.2": ("deepseek_v32", "DeepseekV32Config", "DeepseekV32Attention"),
    "Step-3.7": ("step3p7", "Step3p7TextConfig", "Step3p7Attention"),
}
KIMI = {"kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}
GLM = KIMI | {"num_attention_heads": 64, "q_lora_rank": 2048, "qk_nope_head_dim": 192, "v_head_dim": 256}
TOP = {"index_head_dim": 128, "index_topk": 2048}
NORMED = tiny.GQA | {"qk_norm": "per_head", "num_key_value_heads": 2, "num_attention_heads": 16, "head_dim": 256}
GLM_PLAIN = (2048 + 576) * 6144 + 2048 + 512 + 2048 * 64 * 256 + 512 * 64 * 448 + 64 * 256 * 6144
"""GLM-5's latent attention without its indexer: down, norms, q_b, kv_b of 192 + 256, o."""
SHARING = {"indexer_types": ["full", "shared"], "num_hidden_layers": 2, "mlp_layer_types": ["dense"] * 2}
REAL = {
    # name, layer, config beside the class's defaults; section, hidden size; parameters
    "Qwen3-Next": ("Qwen3-Next", 3, {}, NORMED | {"output_gate": "elementwise"}, 2048, 27_263_488),
    "Step-3.7": (
        "Step-3.7",
        0,
        {},
        NORMED | {"output_gate": "per_head", "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128},
        4096,
        2 * 64 * 128 * 4096 + 2 * 8 * 128 * 4096 + 2 * 128 + 64 * 4096,  # q, o; k, v; norms; gates
    ),
    "Kimi Linear": (
        "Kimi Linear",
        3,
        {},
        tiny.MLA | KIMI | {"num_attention_heads": 32, "q_lora_rank": None},
        2304,
        29_114_880,
    ),
    "DeepSeek-V3.2": (
        "DeepSeek-V3.2",
        0,
        {},
        tiny.MLA | KIMI | {"num_attention_heads": 128, "q_lora_rank": 1536, "indexer": TOP | {"index_n_heads": 64}},
        7168,
        187_107_328 + 1536 * 64 * 128 + 7168 * 128 + 2 * 128 + 7168 * 64,  # DeepSeek-V3's and the indexer
    ),
    "GLM-5, an indexer": (
        "GLM-5",
        0,
        SHARING,
        tiny.MLA | GLM | {"indexer": TOP | {"index_n_heads": 32}},
        6144,
        GLM_PLAIN + 2048 * 32 * 128 + 6144 * 128 + 2 * 128 + 6144 * 32,
    ),
    "GLM-5, another's choice": ("GLM-5", 1, SHARING, tiny.MLA | GLM | {"index_topk": 2048}, 6144, GLM_PLAIN),
}


@pytest.mark.parametrize("case", REAL.values(), ids=REAL.keys())
def test_an_attention_at_its_real_size_has_the_public_weights(case: Any) -> None:
    name, layer, config, section, hidden, parameters = case
    spec = tiny.text(section, [tiny.DENSE], hidden_size=hidden)
    prefix = "model.layers.0.self_attn."
    ours = {path: tuple(tensor.shape) for path, tensor in build(spec).state_dict().items() if path.startswith(prefix)}
    theirs = public_attention(name, layer, **config)
    assert {path.removeprefix(prefix): shape for path, shape in ours.items()} == theirs
    assert sum(map(prod, theirs.values())) == parameters


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
