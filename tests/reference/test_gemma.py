"""Gemma 3 27B and DeepSeek-V3.2 at full size: the twin against transformers' classes and counts by hand."""

from __future__ import annotations

from typing import Any

import pytest

from archcalc.reference import hf, measure
from archcalc.reference.measure import Row
from archcalc.reference.model import build
from archcalc.reference.saved import measure as measure_saved
from tests.reference.publicly import built as public_class

pytestmark = pytest.mark.twin

HEADS: dict[str, Any] = {
    "kind": "gqa",
    "num_attention_heads": 32,
    "num_key_value_heads": 16,
    "head_dim": 128,
    "qk_norm": "per_head",
    "attention_bias": False,
    "attention_out_bias": False,
}
LOCAL = HEADS | {"sliding_window": 1024, "rope_parameters": {"rope_theta": 10000.0, "rope_scaling": None}}
GEMMA: dict[str, Any] = {
    "backbone": {
        "hidden_size": 5376,
        "vocab_size": 262208,
        "num_hidden_layers": 62,
        "max_position_embeddings": 131072,
        "tie_word_embeddings": True,
        "num_nextn_predict_layers": 0,
        "rms_norm_eps": 1e-6,
        "dtype": "bfloat16",
        "rope_theta": 1000000.0,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        "norm": "rms_zero_centered",
        "norm_placement": "sandwich",
        "layers": [
            {
                "repeat": 10,
                "layers": [
                    {"count": 5, "attention": "local", "ffn": "dense"},
                    {"count": 1, "attention": "global", "ffn": "dense"},
                ],
            },
            {"count": 2, "attention": "local", "ffn": "dense"},
        ],
        "attention": {"local": LOCAL, "global": HEADS},
        "ffn": {
            "dense": {
                "kind": "dense",
                "intermediate_size": 21504,
                "hidden_act": "gelu_pytorch_tanh",
                "gated": True,
                "mlp_bias": False,
            }
        },
    }
}
V32: dict[str, Any] = {
    "backbone": {
        "hidden_size": 7168,
        "vocab_size": 129280,
        "num_hidden_layers": 61,
        "max_position_embeddings": 163840,
        "tie_word_embeddings": False,
        "num_nextn_predict_layers": 0,
        "rms_norm_eps": 1e-6,
        "dtype": "bfloat16",
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "layers": [{"count": 3, "attention": "mla", "ffn": "dense"}, {"count": 58, "attention": "mla", "ffn": "moe"}],
        "attention": {
            "mla": {
                "kind": "mla",
                "num_attention_heads": 128,
                "q_lora_rank": 1536,
                "kv_lora_rank": 512,
                "qk_nope_head_dim": 128,
                "qk_rope_head_dim": 64,
                "v_head_dim": 128,
                "attention_bias": False,
                "indexer": {"index_n_heads": 64, "index_head_dim": 128, "index_topk": 2048},
            }
        },
        "ffn": {
            "dense": {
                "kind": "dense",
                "intermediate_size": 18432,
                "hidden_act": "silu",
                "gated": True,
                "mlp_bias": False,
            },
            "moe": {
                "kind": "moe",
                "n_routed_experts": 256,
                "num_experts_per_tok": 8,
                "n_shared_experts": 1,
                "moe_intermediate_size": 2048,
                "hidden_act": "silu",
                "scoring_func": "sigmoid",
                "topk_method": "noaux_tc",
                "n_group": 8,
                "topk_group": 4,
                "norm_topk_prob": True,
                "routed_scaling_factor": 2.5,
            },
        },
    }
}


def key(row: Row) -> tuple[str, int, int, str]:
    return (row["path"], row["count"], row["elements"], row["kind"])


@pytest.mark.parametrize("spec", [GEMMA, V32], ids=["Gemma 3 27B", "DeepSeek-V3.2"])
def test_parameters_are_transformers_path_by_path(spec: dict[str, Any]) -> None:
    assert sorted(map(key, hf.parameters(public_class(spec)))) == sorted(map(key, measure.parameters(build(spec))))


def test_gemma_3_27b_has_27009346304_parameters_in_its_text_model() -> None:
    # queries and output 2 x 5376 x 4096, keys and values 2 x 5376 x 2048, norms of a head 2 x 128, MLP of
    # 3 x 5376 x 21504, four norms of 5376: 412,898,560 a layer; the technical report (arXiv:2503.19786, table 1)
    # prints 25,600 M without the embedding
    layer = 2 * 5376 * 4096 + 2 * 5376 * 2048 + 2 * 128 + 3 * 5376 * 21504 + 4 * 5376
    assert layer == 412_898_560
    assert 62 * layer + 5376 == 25_599_716_096
    rows = measure.parameters(build(GEMMA))
    assert sum(row["elements"] for row in rows) == 25_599_716_096 + 262208 * 5376 == 27_009_346_304


def test_deepseek_v32_has_671877929216_parameters_without_its_prediction_module() -> None:
    # q_a, its norm, q_b; kv_a, its norm, kv_b; o_proj; then wq_b, wk, weights_proj, weight and bias of k_norm
    latent = 7168 * 1536 + 1536 + 1536 * 128 * 192 + 7168 * 576 + 512 + 512 * 128 * 256 + 128 * 128 * 7168
    indexer = 1536 * 64 * 128 + 7168 * 128 + 7168 * 64 + 2 * 128
    dense, moe = 3 * 7168 * 18432, 256 * 7168 + 257 * 3 * 7168 * 2048
    layers = 61 * (latent + indexer + 2 * 7168) + 3 * dense + 58 * moe
    assert layers + 2 * 129280 * 7168 + 7168 == 671_877_929_216
    rows = measure.parameters(build(V32))
    assert sum(row["count"] * row["elements"] for row in rows if row["kind"] == "params") == 671_877_929_216


def test_transformers_is_told_the_types_of_gemmas_layers_and_both_ropes() -> None:
    public = public_class(GEMMA)
    assert type(public.model).__name__ == "Gemma3ForCausalLM"
    types = public.model.config.layer_types
    assert types[:6] == ["sliding_attention"] * 5 + ["full_attention"]
    assert (len(types), types.count("full_attention"), types[-2:]) == (62, 10, ["sliding_attention"] * 2)
    assert public.model.config.rope_parameters == {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        "full_attention": {"rope_type": "linear", "rope_theta": 1000000.0, "factor": 8.0},
    }


def test_a_local_layer_of_gemma_scores_1024_keys_a_query_and_a_global_one_all() -> None:
    counted = measure.flops(GEMMA, seq=4096, backward=True)
    local, whole = (2 * 4096 * keys * 32 * (128 + 128) for keys in (1024, 4096))
    assert counted["model.layers.0.self_attn.core"] == (local, 2 * local)
    assert counted["model.layers.5.self_attn.core"] == (whole, 2 * whole)


def test_gemmas_cache_stops_growing_in_52_of_62_layers() -> None:
    held = measure.kv_bytes(GEMMA, batch=1, context=32768)
    each = 2 * 16 * 128 * 2  # keys and values of 16 heads in bf16
    assert (held["model.layers.0.self_attn"], held["model.layers.5.self_attn"]) == (1024 * each, 32768 * each)
    assert sum(held.values()) == (52 * 1024 + 10 * 32768) * each


def test_a_kept_layer_is_reported_once_a_kind() -> None:
    kept = measure_saved(GEMMA, seq=2048)
    assert list(kept) == ["model.embed_tokens", "model.layers.0", "model.layers.5", "lm_head"]
    assert kept["model.layers.0"] == kept["model.layers.5"]  # a window keeps what all keys keep
    assert list(measure_saved(V32, seq=64)) == ["model.embed_tokens", "model.layers.0", "model.layers.3", "lm_head"]
