"""The toy's spec, and what it comes to, worked out by hand from its sizes.

Legend: H hidden 64, n heads 4, g key-value heads 2, d head 8, w window 16, r stride 4, c latent 9, K kernel 4, C = n·d
channels 32, I feed-forward 48, V vocabulary 96, L layers 3, T tokens.
"""

from __future__ import annotations

from typing import Any

PLAIN: dict[str, Any] = {
    "kind": "spec",
    "name": "toy",
    "title": "Toy",
    "sources": {},
    "backbone": {
        "hidden_size": 64,
        "vocab_size": 96,
        "num_hidden_layers": 3,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": False,
        "num_nextn_predict_layers": 0,
        "rms_norm_eps": 1e-6,
        "dtype": "bfloat16",
        "rope_theta": None,
        "rope_scaling": None,
        "layers": [{"count": 3, "attention": "toy", "ffn": "dense"}],
        "attention": {
            "toy": {
                "kind": "toy",
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "head_dim": 8,
                "window": 16,
                "stride": 4,
                "latent": 9,
                "conv_kernel": 4,
            }
        },
        "ffn": {
            "dense": {"kind": "dense", "intermediate_size": 48, "hidden_act": "silu", "gated": True, "mlp_bias": False}
        },
    },
    "storage": {"default": {"scheme": "plain", "dtype": "bfloat16"}},
}

LINEAR = 64 * (4 * 8 + 2 * 8 + 2 * 8 + 4 * 9 + 9 + 32) + (8 + 9 + 8) * 4 * 64 + 3 * 64 * 48
"""Weights of a layer's linears: q, k, v, far_q, compress, scan_in; o over n·(d + c + d); gate, up, down."""

LAYER = LINEAR + 4 + 32 * 4 + 2 * 64
"""With n sinks, C·K of the convolution and two norms."""

TOTAL = 3 * LAYER + 2 * 96 * 64 + 64
"""With embedding, head and final norm."""


def cache(tokens: int) -> int:
    """One sequence [bytes]: keys and values of the last 16 tokens, a latent for 4 tokens, a conv and an fp32 state."""
    window = min(tokens, 16) * 2 * (2 * 8) * 2
    latents = -(-tokens // 4) * 9 * 2
    return 3 * (window + latents + 32 * 4 * 2 + 4 * 8 * 8 * 4)


def near_pairs(tokens: int) -> int:
    """Twice the pairs of a causal prefill within the window: 16²/2 while it fills, then 16 a token."""
    return 16 * 16 + 2 * (tokens - 16) * 16 if tokens > 16 else tokens * tokens


def far_pairs(tokens: int) -> int:
    """Twice the pairs with one entry for 4 tokens, half of the new ones seen."""
    return tokens * (tokens // 4)


def saved(tokens: int) -> int:
    """What a layer keeps for backward under fused kernels [bytes], storage by storage."""
    norms = 2 * (2 * 64 + 4 + 2 * 64)  # both norms: input, rstd, and the result that the linears keep
    near = 2 * (32 + 16 + 16 + 32) + 4 * 4  # q, k, v, out; log-sum-exp in fp32
    far = 2 * (36 + 9 + 36) + 4 * 4  # q, the latents once as keys and values, out; log-sum-exp
    scan = 2 * 32 + 2 * 32 + 4 * 4  # the convolution's input and its result; the gates that the kernel keeps, in fp32
    joined = 2 * 4 * 25  # what o_proj multiplies
    glu = 2 * 2 * 48 + 2 * 48  # gate and up; what down_proj multiplies
    return tokens * (norms + near + far + scan + joined + glu)
