"""Schemes that keep floating-point numbers of eight or four bits."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from archcalc.files.scheme import Quantized, ScaleDtype, ceil, groups, sizes
from archcalc.section import About, Size
from archcalc.tape import Stored, Weight

MX_GROUP = 32
"""Numbers that share a scale of a power of two (OCP Microscaling Formats 1.0, section 5.2)."""


class Fp8Block(Quantized):
    """FP8 with one inverse scale for each block of a matrix (DeepSeek-V3, arXiv:2412.19437, section 3.3).

    Proven to the byte: float32 scales with DeepSeek-V3.2, bfloat16 ones with Qwen3-30B-A3B-Thinking-2507-FP8.
    """

    about = About(
        "FP8 with one inverse scale for each block of a matrix (DeepSeek-V3, arXiv:2412.19437, section 3.3)",
        scheme="Which scheme this is",
        block_size="Sides of the block that shares a scale, outputs and inputs [elements]",
        scale_dtype="Dtype of a scale",
    )

    scheme: Literal["fp8-block"]
    block_size: Annotated[list[Size], Field(min_length=2, max_length=2)]
    scale_dtype: ScaleDtype

    @property
    def unproven(self) -> str:
        """Scales of other dtypes have been met in no release whose bytes are known."""
        known = self.scale_dtype in ("float32", "bfloat16")
        return "" if known else f"no published byte total shows {self.scale_dtype} scales"

    def stored(self, w: Weight) -> tuple[Stored, ...]:
        """The matrix in FP8 and one inverse scale a block, the last blocks cut short."""
        rows, columns = sizes(w)
        blocks = (ceil(rows, self.block_size[0]), ceil(columns, self.block_size[1]))
        return (
            Stored(w.suffix, "float8_e4m3fn", (rows, columns)),
            Stored(f"{w.suffix}_scale_inv", self.scale_dtype, blocks),
        )


class Scaled(Quantized):
    """Eight bits with one scale a row (`channel`) or a matrix (`tensor`): compressed-tensors' float-quantized and
    int-quantized, and FP8 of NVIDIA's ModelOpt, which adds a static scale of the inputs. Unproven.
    """

    about = About(
        (
            "Eight bits with one scale a row or a matrix: compressed-tensors' float-quantized and int-quantized, and "
            "FP8 of NVIDIA's ModelOpt"
        ),
        scheme="`float-quantized`: FP8. `int-quantized`: int8",
        strategy="`channel`: a scale for each row. `tensor`: one for the matrix",
        scale_dtype="Dtype of a scale",
        input_scale="Whether a static scale of the inputs is stored",
    )
    missing: ClassVar[str] = "no published byte total"

    scheme: Literal["float-quantized", "int-quantized"]
    strategy: Literal["channel", "tensor"]
    scale_dtype: ScaleDtype
    input_scale: bool = False

    def stored(self, w: Weight) -> tuple[Stored, ...]:
        """The matrix, its scale or scales, and the scale of its inputs where that is static."""
        rows, columns = sizes(w)
        return (
            Stored(w.suffix, "float8_e4m3fn" if self.scheme == "float-quantized" else "int8", (rows, columns)),
            Stored(f"{w.suffix}_scale", self.scale_dtype, (rows, 1) if self.strategy == "channel" else (1,)),
            *((Stored("input_scale", self.scale_dtype, (1,)),) if self.input_scale else ()),
        )


class Mxfp8(Quantized):
    """FP8 in groups of 32 with a scale of a power of two. Proven to the byte with MiniMax-M3-MXFP8, which no
    test here repeats.
    """

    about = About(
        "FP8 in groups of 32 with a scale of a power of two",
        scheme="Which scheme this is",
    )

    scheme: Literal["mxfp8"]

    def stored(self, w: Weight) -> tuple[Stored, ...]:
        """The matrix in FP8, and a byte for 32 inputs."""
        rows, columns = sizes(w)
        return (
            Stored(w.suffix, "float8_e4m3fn", (rows, columns)),
            Stored(f"{w.suffix}_scale_inv", "uint8", (rows, groups(w, MX_GROUP))),
        )


class Mxfp4(Quantized):
    """FP4 in groups of 32 with a scale of a power of two, two numbers a byte.

    Proven to the byte with gpt-oss-20b (`mxfp4`: experts in one tensor, of 16 bytes a group) and Kimi K3
    (`mxfp4-pack-quantized`, compressed-tensors; its o_norm has to be float32, which no source says). The bytes are the
    same.
    """

    about = About(
        "FP4 in groups of 32 with a scale of a power of two, two numbers a byte",
        scheme=(
            "`mxfp4`: experts in one tensor (gpt-oss). `mxfp4-pack-quantized`: compressed-tensors (Kimi K3). The "
            "bytes are the same"
        ),
    )

    scheme: Literal["mxfp4", "mxfp4-pack-quantized"]

    def stored(self, w: Weight) -> tuple[Stored, ...]:
        """Half a byte a weight, and a byte for 32 inputs; no shape."""
        (rows, _), count = sizes(w), groups(w, MX_GROUP)
        if self.scheme == "mxfp4":
            return (
                Stored(f"{w.suffix}_blocks", "uint8", (rows, count, MX_GROUP // 2)),
                Stored(f"{w.suffix}_scales", "uint8", (rows, count)),
            )
        return (
            Stored(f"{w.suffix}_packed", "uint8", (rows, count * MX_GROUP // 2)),
            Stored(f"{w.suffix}_scale", "uint8", (rows, count)),
        )


class Nvfp4(Quantized):
    """FP4 in small groups with FP8 scales, and one more scale a matrix; `input_scale` without for weights alone.

    Unproven: names and shapes of NVIDIA/Model-Optimizer, unified_export_hf.py; no byte total has been published.
    compressed-tensors' nvfp4-pack-quantized has other names and the same bytes.
    """

    about = About(
        "FP4 in small groups with FP8 scales, and one more scale a matrix",
        scheme="Which scheme this is",
        group_size="Inputs that share a scale [elements]",
        input_scale="Whether a static scale of the inputs is stored",
    )
    missing: ClassVar[str] = "no published byte total"

    scheme: Literal["nvfp4"]
    group_size: Size = 16
    input_scale: bool = True

    def stored(self, w: Weight) -> tuple[Stored, ...]:
        """Two weights a byte, an FP8 scale a group, and two scalars."""
        (rows, columns), count = sizes(w), groups(w, self.group_size)
        return (
            Stored(w.suffix, "uint8", (rows, ceil(columns, 2))),
            Stored(f"{w.suffix}_scale", "float8_e4m3fn", (rows, count)),
            Stored(f"{w.suffix}_scale_2", "float32", ()),
            *((Stored("input_scale", "float32", ()),) if self.input_scale else ()),
        )
