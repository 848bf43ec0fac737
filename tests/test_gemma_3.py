"""Gemma 3 27B, the first model whose layers see different parts of the sequence: counts by hand.

62 layers, every sixth of which sees all tokens (10) while the others see the last 1,024 (52). 32 heads and 16 key-value
heads of 128. That torch and transformers agree path by path is in test_crosscheck.py.
"""

from __future__ import annotations

import pytest

from tests.support import answered, quantities

W, LOCAL, GLOBAL = 1024, 52, 10
ENTRY = 2 * 16 * 128 * 2
"""Key and value of one token in one layer, bf16 [bytes]."""
PAIR = 2 * 32 * (128 + 128)
"""FLOPs of one pair of a query and a key in one layer."""
LAYER = 2 * 5376 * 32 * 128 + 2 * 5376 * 16 * 128 + 3 * 5376 * 21504
"""Weights of a layer's linears."""
NORMS = 4 * 5376 + 2 * 128
"""Of a layer: two before and two after a mixer, and those of queries and keys."""
EMBEDDING = 262_208 * 5376


def test_parameters_count_the_tied_embedding_once() -> None:
    found = quantities("params", "gemma-3-27b")
    assert found["params.total"] == 62 * (LAYER + NORMS) + EMBEDDING + 5376 == 27_009_346_304
    # "25,600M" without embedding: arXiv:2503.19786, Table 1
    assert found["params.active_no_embedding_no_head"] == 25_599_716_096


@pytest.mark.parametrize("tokens", [1, 1023, 1024, 1025, 8192, 131_072])
def test_the_cache_of_local_layers_ends_at_the_window(tokens: int) -> None:
    found = quantities("kv", "gemma-3-27b", "--context", str(tokens))
    assert found["kv.total_bytes"] == ENTRY * (GLOBAL * tokens + LOCAL * min(tokens, W))


def test_the_cache_at_128k_is_10_41_gib_and_not_62() -> None:
    found = quantities("kv", "gemma-3-27b", "--context", "128k")
    assert found["kv.total_bytes"] == found["kv.sequence_bytes_128k"] == 11_173_625_856
    assert found["kv.bytes_per_token"] == GLOBAL * ENTRY
    assert found["kv.fixed_bytes"] == LOCAL * W * ENTRY
    serving = quantities("serve", "gemma-3-27b", "--gpu", "h100", "--gpus", "1", "--context", "128k")
    # vLLM pages 10 layers of all tokens and 52 of windows as 1 + 6 groups of 10; a window holds 1023 + 8192 tokens of
    # a step, 9215 in 576 pages of 16, and a page more
    assert serving["serve.kv_bytes"] == ENTRY * (GLOBAL * 131_072 + 60 * 577 * 16)


def test_below_the_window_every_layer_grows() -> None:
    found = quantities("kv", "gemma-3-27b", "--context", "1000")
    assert (found["kv.bytes_per_token"], found["kv.fixed_bytes"]) == (62 * ENTRY, 0)


@pytest.mark.parametrize("tokens", [512, 1024, 4096, 131_072])
def test_flops_of_a_prefill_stop_growing_with_the_square_in_local_layers(tokens: int) -> None:
    found = quantities("flops", "gemma-3-27b", "--seq", str(tokens))
    # causal, by halves: tokens²/2 pairs; in a window 1024²/2 while it fills, then 1,024 a token
    halves = tokens * tokens if tokens <= W else W * W + 2 * (tokens - W) * W
    assert found["flops.attention_core"] == PAIR * (GLOBAL * tokens * tokens + LOCAL * halves) // 2
    assert found["flops.linear"] == 2 * tokens * (62 * LAYER + EMBEDDING)


def test_full_scores_are_a_window_for_every_token() -> None:
    found = quantities("flops", "gemma-3-27b", "--seq", "4096", "--attention", "full")
    assert found["flops.attention_core"] == PAIR * 4096 * (GLOBAL * 4096 + LOCAL * W)


@pytest.mark.parametrize("cached", [0, 1000, 1023, 1024, 100_000])
def test_a_decoded_token_scores_at_most_a_window_in_local_layers(cached: int) -> None:
    found = quantities("flops", "gemma-3-27b", "--phase", "decode", "--context", str(cached))
    assert found["flops.attention_core"] == PAIR * (GLOBAL * (cached + 1) + LOCAL * min(cached + 1, W))


def test_training_keeps_the_same_in_local_and_global_layers() -> None:
    """One device, fused kernels, no savers: every layer keeps, of each token,

    four norms: what goes in (2 B each) and rstd (4 B); what the linears keep of the two before a mixer;
    q, k, v, the norm of q and k and their rstd, their rotation, attention's output and its log-sum-exp;
    gate and up, and what down_proj multiplies.
    """
    h, q, kv, f = 5376, 32 * 128, 16 * 128, 21504
    norms = 4 * (2 * h + 4) + 2 * (2 * h)
    heads = 2 * (q + kv) + 4 * (32 + 16)  # q and k before their norm, an rstd a head
    core = 2 * (q + kv) + 2 * kv + 2 * q + 4 * 32  # rotated q and k, v, out, log-sum-exp
    attention = heads + core  # o_proj keeps attention's output, which stands there already
    mlp = 2 * 2 * f + 2 * f
    last = 8 + (2 * h + 4 + 2 * h)  # ids of the embedding; the last norm; a chunked loss keeps no logits
    sets = ["world=1", "pp=1", "vpp=1", "ep=1", "zero=0"]
    flags = [f"parallel.{each}" for each in sets] + [
        "schedule.kind=1f1b",
        "schedule.extra_warmup=0",
        "batch.global_tokens=4096",
        "activations.recompute=[]",
        "activations.fp8=[]",
        "activations.offload=none",
        "activations.cross_entropy=chunked",
    ]
    found = quantities("train", "gemma-3-27b", "--plan", "k2-pretrain", *(w for f in flags for w in ("--set", f)))
    assert found["train.activation_bytes"] == 4096 * (62 * (norms + attention + mlp) + last)


def test_conventions_name_the_window() -> None:
    said = " ".join(answered("flops", "gemma-3-27b")["conventions"])
    assert "Layers that see the last w = 1,024 tokens" in said
    assert "Layers that see all tokens" in said
