"""How a release stores its weights: schemes by role, as data."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from archcalc.arch.block import Section, Size

StoredDtype = Literal["bfloat16", "float16", "float32", "float8_e4m3fn", "int8"]


class Plain(Section):
    """Each weight as it is, in one dtype."""

    scheme: Literal["plain"]
    dtype: StoredDtype


class PackQuantized(Section):
    """Packed integers with a scale for each group of inputs and the original shape beside them (compressed-tensors)."""

    scheme: Literal["pack-quantized"]
    num_bits: Literal[4, 8]
    group_size: Size
    scale_dtype: StoredDtype


class Fp8Block(Section):
    """FP8 with one inverse scale for each block of the matrix (DeepSeek-V3, arXiv:2412.19437, section 3.3)."""

    scheme: Literal["fp8-block"]
    block_size: Annotated[list[Size], Field(min_length=2, max_length=2)]
    scale_dtype: StoredDtype


Scheme = Annotated[Plain | PackQuantized | Fp8Block, Field(discriminator="scheme")]

StorageKey = Literal[
    "default",
    "embedding",
    "head",
    "norm",
    "attention",
    "dense_ffn",
    "router",
    "router_bias",
    "routed_expert",
    "shared_expert",
    "mtp",
    "vision",
    "projector",
]
