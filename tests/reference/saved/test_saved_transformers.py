"""The eager profile against layers of Hugging Face `transformers`, on meta with torch's math attention."""

from typing import Any

import pytest
import torch

from archcalc.reference.saved import measure
from archcalc.reference.storages import saved_bytes
from tests.reference.saved.tiny import layer_bytes

pytestmark = pytest.mark.twin

transformers = pytest.importorskip("transformers")

META = torch.device("meta")
BATCH, ROWS = 2, 12
T = BATCH * ROWS
h, f, k = 64, 32, 2
SIZES = {"hidden_size": h, "intermediate_size": 96, "num_attention_heads": 4}
MLA = {"q_lora_rank": 32, "kv_lora_rank": 16, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 24}
MOE = {"n_routed_experts": 8, "num_experts_per_tok": k, "n_shared_experts": 1, "moe_intermediate_size": f}
GQA = {"num_key_value_heads": 2, "head_dim": 16}
BACKBONE: dict[str, Any] = {
    "hidden_size": h,
    "vocab_size": 128,
    "dtype": "bfloat16",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "attention": {
        "mla": {"kind": "mla", "num_attention_heads": 4, **MLA},
        "gqa": {"kind": "gqa", "num_attention_heads": 4, **GQA},
        "gqa_norm": {"kind": "gqa", "num_attention_heads": 4, **GQA, "qk_norm": "per_head"},
    },
    "ffn": {
        "dense": {"kind": "dense", "intermediate_size": 96, "hidden_act": "silu", "gated": True},
        "moe": {
            "kind": "moe",
            **MOE,
            "hidden_act": "silu",
            "scoring_func": "sigmoid",
            "topk_method": "noaux_tc",
            "norm_topk_prob": True,
            "routed_scaling_factor": 2.5,
        },
    },
}


def theirs(layer_class, config, index, rotated):
    config._attn_implementation, config._experts_implementation = "sdpa", "grouped_mm"
    with META:
        layer = layer_class(config, index).to(torch.bfloat16)
    x = torch.empty(BATCH, ROWS, h, device=META, dtype=torch.bfloat16, requires_grad=True)
    tables = [torch.empty(BATCH, ROWS, rotated, device=META, dtype=torch.bfloat16) for _ in range(2)]

    def run():
        out = layer(x, position_embeddings=tuple(tables), attention_mask=None)
        return out[0] if isinstance(out, tuple) else out

    return saved_bytes(run, [*layer.parameters(), *layer.buffers(), *tables])


def ours(attention, ffn):
    return layer_bytes(
        BACKBONE,
        attention=attention,
        ffn=ffn,
        tokens=T,
        batch=BATCH,
        kernels="eager",
        core="unfused",
        router_probs="out",
    )


def deepseek(index):
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3DecoderLayer

    more = {"num_key_value_heads": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}
    config = transformers.DeepseekV3Config(**SIZES, **MLA, **MOE, **more)
    return theirs(DeepseekV3DecoderLayer, config, index, 8)


def test_a_dense_layer_with_latent_attention_keeps_the_same_bytes():
    assert ours("mla", "dense") == deepseek(0)


def test_a_mixture_keeps_the_same_bytes_but_for_how_rows_are_summed_up():
    # They sum a token's rows as k views: no index_add source [R,h] bf16, but the inverse row map [R] int64;
    # and they multiply with fp32 probabilities, 2 bytes a row more. R = k T.
    rows = k * T
    assert deepseek(1) == ours("mla", "moe") - 2 * rows * h + 8 * rows + 2 * rows


def test_a_llama_layer_keeps_the_same_bytes():
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    config = transformers.LlamaConfig(**SIZES, **GQA)
    assert ours("gqa", "dense") == theirs(LlamaDecoderLayer, config, 0, 16)


def test_a_qwen3_layer_with_norms_of_queries_and_keys_keeps_the_same_bytes():
    from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer

    config = transformers.Qwen3Config(**SIZES, **GQA)
    assert ours("gqa_norm", "dense") == theirs(Qwen3DecoderLayer, config, 0, 16)


def kind_bytes(attention, act, **more):
    """One layer of attention and ffn, eager, with torch's math attention."""
    ffn = BACKBONE["ffn"]["dense"] | {"hidden_act": act}
    spec = {**BACKBONE, "ffn": {"dense": ffn}, "attention": {"gqa": attention}, "num_hidden_layers": 1, **more}
    how: dict[str, Any] = {"kernels": "eager", "core": "unfused", "router_probs": "out"}
    return measure({"backbone": spec}, seq=ROWS, batch=BATCH, **how)["model.layers.0"]


@pytest.mark.parametrize("index", [0, 1], ids=["local", "global"])
def test_a_gemma_layer_with_norms_around_both_mixers_keeps_the_same_bytes(index):
    from transformers.models.gemma3.modeling_gemma3 import Gemma3DecoderLayer

    types = ["sliding_attention", "full_attention"]
    config = transformers.Gemma3TextConfig(**SIZES, **GQA, sliding_window=5, layer_types=types, num_hidden_layers=2)
    heads = BACKBONE["attention"]["gqa_norm"] | ({} if index else {"sliding_window": 5})
    layers = [{"count": 1, "attention": "gqa", "ffn": "dense"}]
    more = {"norm": "rms_zero_centered", "norm_placement": "sandwich", "layers": layers}
    assert kind_bytes(heads, "gelu_pytorch_tanh", **more) == theirs(Gemma3DecoderLayer, config, index, 16)


@pytest.mark.parametrize("parallel", [False, True])
def test_a_stablelm_layer_with_layer_norm_keeps_the_same_bytes(parallel):
    from transformers.models.stablelm.modeling_stablelm import StableLmDecoderLayer

    rope = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0}
    given = {"hidden_act": "silu", "use_parallel_residual": parallel, "rope_parameters": rope}
    config = transformers.StableLmConfig(**SIZES, num_key_value_heads=2, **given)
    beside = {"arrangement": "parallel", "norm_placement": "none"} if parallel else {}
    layers = [{"count": 1, "steps": [{"attention": "gqa"}, {"ffn": "dense", **beside}]}]
    more = {"norm": "layer", "layer_norm_eps": 1e-5, "layers": layers}
    assert kind_bytes(BACKBONE["attention"]["gqa"], "silu", **more) == theirs(StableLmDecoderLayer, config, 0, 16)
