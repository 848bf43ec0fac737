"""What a quantization config does not say of a release, by model type and method, each with its source."""

from __future__ import annotations

from typing import NamedTuple


class Fact(NamedTuple):
    """What is known of a family's releases under one quantization method.

    Attributes:
        source: where it is known from.
        scale: dtype of the scales of FP8 blocks.
        stays: globs of weights that are stored plain whatever the config says, each with a dtype; "" is the config's.
        assumed: what the source leaves open.
        copies: whether embedding and head are stored again in each multi-token-prediction module.
    """

    source: str
    scale: str | None = None
    stays: tuple[tuple[str, str], ...] = ()
    copies: bool = False
    assumed: tuple[str, ...] = ()


QWEN = Fact("Qwen/Qwen3-30B-A3B-Thinking-2507-FP8, header: 31,170,895,872 B", "bfloat16")
V3 = "deepseek-ai/DeepSeek-V3 README_WEIGHTS.md; header: 688,574,839,360 B"
V32 = "deepseek-ai/DeepSeek-V3.2, header: 689,471,107,200 B"
STATE = (("*.A_log", "float32"), ("*.dt_bias", "float32"))

FACTS: dict[tuple[str, str], Fact] = {
    ("deepseek_v3", "fp8"): Fact(V3, "float32", copies=True),
    ("deepseek_v32", "fp8"): Fact(V32, "float32", (("*norm", "float32"), ("*.indexer.weights_proj", "")), copies=True),
    ("deepseek_v4", "fp8"): Fact("deepseek-ai/DeepSeek-V4-Pro, header rows of 26 of 46 shards", "float8_e8m0fnu"),
    ("kimi_k2", "fp8"): Fact("moonshotai/Kimi-K2-Instruct, headers: 1,029,173,256,720 B", "float32"),
    ("kimi_k25", "compressed-tensors"): Fact("moonshotai/Kimi-K2.5, headers: 595,148,192,736 B"),
    ("kimi_k3", "compressed-tensors"): Fact(
        "moonshotai/Kimi-K3, header: 1,560,860,324,864 B",
        stays=(  # o_norm is inferred: no source names it, but without it 69 x 128 x 2 bytes are missing
            *STATE,
            ("*_conv1d", "float32"),
            ("*.o_norm", "float32"),
            ("*.routed_expert_*_proj", ""),
            ("*_res_proj", ""),
        ),
        assumed=("storage: o_norm in float32, inferred from the bytes of the release; no source names its dtype",),
    ),
    ("kimi_linear", "none"): Fact(
        "moonshotai/Kimi-Linear-48B-A3B-Instruct, header: 98,245,528,576 B",
        stays=(*STATE, ("*.e_score_correction_bias", "")),
    ),
    **{
        (family, "fp8"): QWEN
        for family in ("qwen3", "qwen3_moe", "qwen3_next", "qwen3_5", "qwen3_5_moe", "qwen3_vl", "qwen3_vl_moe")
    },
}
"""Families whose releases have been looked at."""

ASSUMED = Fact("no source", "float32")
"""Of any other: scales as DeepSeek-V3 has them."""
