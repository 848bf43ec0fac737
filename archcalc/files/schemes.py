"""Schemes: how one weight is stored, as data."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from archcalc.errors import InputError
from archcalc.section import Section, Size
from archcalc.tape import Stored, Weight, product

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


AnyScheme = Plain | PackQuantized | Fp8Block
Scheme = Annotated[AnyScheme, Field(discriminator="scheme")]
