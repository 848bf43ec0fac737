"""How a release stores its weights: schemes by role, as data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Literal

from pydantic import Field

from archcalc.arch.block import Section, Size
from archcalc.errors import InputError
from archcalc.tape import Stored, Tape, Weight, product

StoredDtype = Literal["bfloat16", "float16", "float32", "float8_e4m3fn", "int8"]


class Plain(Section):
    """Each weight as it is, in one dtype."""

    scheme: Literal["plain"]
    dtype: StoredDtype

    def stored(self, w: Weight) -> tuple[Stored, ...]:
        """The weight itself, in this dtype."""
        return (Stored(w.suffix, self.dtype, w.shape),)


class PackQuantized(Section):
    """Packed integers, a scale for each group of inputs, and the original shape (compressed-tensors)."""

    scheme: Literal["pack-quantized"]
    num_bits: Literal[4, 8]
    group_size: Size
    scale_dtype: StoredDtype

    def stored(self, w: Weight) -> tuple[Stored, ...]:
        """Values packed into int32 words along the inputs, a scale a group, and the shape as two int32."""
        rows, columns = product(w.out), product(w.into)
        if columns % self.group_size:
            raise InputError(
                f"{w.path} has {columns} inputs, which don't divide into groups of {self.group_size}",
                value=self.group_size,
            )
        return (
            Stored(f"{w.suffix}_packed", "int32", (rows, -(-columns * self.num_bits // 32))),
            Stored(f"{w.suffix}_scale", self.scale_dtype, (rows, columns // self.group_size)),
            Stored(f"{w.suffix}_shape", "int32", (2,)),
        )


class Fp8Block(Section):
    """FP8 with one inverse scale for each block of a matrix (DeepSeek-V3, arXiv:2412.19437, section 3.3)."""

    scheme: Literal["fp8-block"]
    block_size: Annotated[list[Size], Field(min_length=2, max_length=2)]
    scale_dtype: StoredDtype

    def stored(self, w: Weight) -> tuple[Stored, ...]:
        """The matrix in FP8 and one inverse scale a block, the last blocks cut short."""
        rows, columns = product(w.out), product(w.into)
        blocks = (-(-rows // self.block_size[0]), -(-columns // self.block_size[1]))
        return (
            Stored(w.suffix, "float8_e4m3fn", (rows, columns)),
            Stored(f"{w.suffix}_scale_inv", self.scale_dtype, blocks),
        )


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
    "mtp_embedding",
    "mtp_head",
    "vision",
    "projector",
]
"""Roles, and two keys of their own: `mtp_embedding` and `mtp_head` say that the release stores embedding and
head again with each multi-token-prediction module, and how."""
Storage = Mapping[StorageKey, Plain | PackQuantized | Fp8Block]
"""A spec's storage section: schemes by role; `default` is for all others."""


def release(storage: Storage) -> Callable[[Weight], tuple[Stored, ...]]:
    """The scheme of a whole release: each weight by its role, else by the default.

    Only matrices are quantized: a norm or a bias under a quantized role is stored by the default scheme.
    """
    default = storage["default"]

    def stored(w: Weight) -> tuple[Stored, ...]:
        scheme = storage.get(_key(w, storage), default)
        return (scheme if w.into or isinstance(scheme, Plain) else default).stored(w)

    return stored


def second_copies(storage: Storage, tape: Tape) -> list[Weight]:
    """What a release stores twice: embedding and head, at their paths in each multi-token-prediction module.

    They are equal to the main model's (DeepSeek-V3 README_WEIGHTS.md), so no parameter count holds them.
    """
    copies = []
    for segment in tape.segments:
        for w in tape.weights() if segment.part == "mtp" else ():
            name = {"embedding": "embed_tokens", "head": "shared_head.head"}.get(w.role)
            if name is None or f"mtp_{w.role}" not in storage:
                continue
            copies.append(w.replace(path=f"{segment.path}.{name}", part="mtp", indices=segment.indices))
    return copies


def _key(w: Weight, storage: Storage) -> StorageKey:
    """The entry of a storage section that a weight is stored by."""
    if w.part == "mtp":
        if w.role == "embedding":
            return "mtp_embedding"
        if w.role == "head":
            return "mtp_head"
        if "mtp" in storage:
            return "mtp"
    return w.role
