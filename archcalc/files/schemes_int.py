"""Schemes that keep integers of a few bits, packed into words, and bitsandbytes' tables of 16 values."""

from typing import ClassVar, Literal

from pydantic import field_validator

from archcalc.files.scheme import Quantized, ScaleDtype, ceil, groups, one_of, sizes, whole
from archcalc.section import About, Size
from archcalc.tape import Stored, Weight

BNB_BLOCKS = (32, 64, 128, 256, 512, 1024, 2048, 4096)
"""Blocks that bitsandbytes has kernels of (bitsandbytes, functional.py, quantize_4bit) [elements]."""

MLX_GROUPS = (32, 64, 128)
"""Groups that MLX has kernels of (mlx, ops.cpp, quantize) [elements]."""

WORD = 32
"""Bits of a word that numbers are packed into."""


class PackQuantized(Quantized):
    """Packed integers, a scale for each group of inputs, and the original shape (compressed-tensors).

    Without `group_size` a row has one scale. Proven to the byte with Kimi K2.5 (4 bits, groups of 32, symmetric);
    zero points are unproven.
    """

    about = About(
        "Packed integers, a scale for each group of inputs, and the original shape (compressed-tensors)",
        scheme="Which scheme this is",
        num_bits="Bits of a weight [bits]",
        group_size="Inputs that share a scale; null: a row has one [elements]",
        scale_dtype="Dtype of a scale",
        symmetric="Whether there are no zero points",
    )

    scheme: Literal["pack-quantized"]
    num_bits: Literal[4, 8]
    group_size: Size | None
    scale_dtype: ScaleDtype
    symmetric: bool = True

    @property
    def unproven(self) -> str:
        """Zero points: K2.5 has none."""
        return "" if self.symmetric else "no published byte total shows zero points"

    def stored(self, w: Weight) -> tuple[Stored, ...]:
        """Values packed into int32 words along the inputs, a scale a group, zero points packed along the outputs where
        asymmetric, and the shape as two int32."""
        (rows, columns), count = sizes(w), groups(w, self.group_size)
        zeros = Stored(f"{w.suffix}_zero_point", "int32", (ceil(rows * self.num_bits, WORD), count))
        return (
            Stored(f"{w.suffix}_packed", "int32", (rows, ceil(columns * self.num_bits, WORD))),
            Stored(f"{w.suffix}_scale", self.scale_dtype, (rows, count)),
            *(() if self.symmetric else (zeros,)),
            Stored(f"{w.suffix}_shape", "int32", (2,), about=True),
        )


class Awq(Quantized):
    """AWQ (arXiv:2306.00978) in AutoAWQ's layout `gemm`: input by input, outputs packed into words, zero points always.

    Proven to the byte with a 32B release (4 bits, groups of 128), which no test here repeats. Without `group_size`
    there is one group.
    """

    about = About(
        "AWQ (arXiv:2306.00978) in AutoAWQ's layout `gemm`: outputs packed into words, zero points always",
        scheme="Which scheme this is",
        num_bits="Bits of a weight [bits]",
        group_size="Inputs that share a scale; null: there is one group [elements]",
        scale_dtype="Dtype of a scale",
    )

    scheme: Literal["awq"]
    num_bits: Literal[4, 8]
    group_size: Size | None
    scale_dtype: ScaleDtype

    def stored(self, w: Weight) -> tuple[Stored, ...]:
        """qweight [i, o·b/32], qzeros [i/g, o·b/32], scales [i/g, o]."""
        (rows, columns), count = sizes(w), groups(w, self.group_size)
        words = whole(w, rows, "outputs", WORD // self.num_bits, f"words of {WORD // self.num_bits}")
        return (
            Stored("qweight", "int32", (columns, words)),
            Stored("qzeros", "int32", (count, words)),
            Stored("scales", self.scale_dtype, (count, rows)),
        )


class Gptq(Quantized):
    """GPTQ (arXiv:2210.17323) in AutoGPTQ's layout: inputs packed into words, zero points and a group index always.

    Unproven. Without `group_size` there is one group; the last group of AutoGPTQ may be cut short. Some releases store
    a bias of zeros for each matrix, which is not counted.
    """

    about = About(
        "GPTQ (arXiv:2210.17323) in AutoGPTQ's layout: inputs packed into words, zero points and a group index always",
        scheme="Which scheme this is",
        num_bits="Bits of a weight [bits]",
        group_size="Inputs that share a scale; null: there is one group [elements]",
        scale_dtype="Dtype of a scale",
    )
    missing: ClassVar[str] = "no published byte total; some releases store a bias of zeros for each matrix as well"

    scheme: Literal["gptq"]
    num_bits: Literal[2, 3, 4, 8]
    group_size: Size | None
    scale_dtype: ScaleDtype

    def stored(self, w: Weight) -> tuple[Stored, ...]:
        """qweight [i·b/32, o], qzeros [⌈i/g⌉, o·b/32], scales [⌈i/g⌉, o], g_idx [i]."""
        rows, columns = sizes(w)
        count = 1 if self.group_size is None else ceil(columns, self.group_size)
        for n, what in ((rows, "outputs"), (columns, "inputs")):
            whole(w, n, what, WORD, f"blocks of {WORD}")
        return (
            Stored("qweight", "int32", (columns * self.num_bits // WORD, rows)),
            Stored("qzeros", "int32", (count, rows * self.num_bits // WORD)),
            Stored("scales", self.scale_dtype, (count, rows)),
            Stored("g_idx", "int32", (columns,)),
        )


class Mlx(Quantized):
    """MLX's affine quantization: packed words, and for each group of inputs a scale and a bias.

    Embeddings are quantized too. Proven to the byte with Qwen3-14B-MLX-4bit (4 bits, groups of 64, bfloat16).
    """

    about = About(
        "MLX's affine quantization: packed words, and for each group of inputs a scale and a bias",
        scheme="Which scheme this is",
        num_bits="Bits of a weight [bits]",
        group_size="Inputs that share a scale and a bias [elements]",
        scale_dtype="Dtype of a scale and of a bias",
    )

    scheme: Literal["mlx-affine"]
    num_bits: Literal[2, 3, 4, 5, 6, 8]
    group_size: Size
    scale_dtype: ScaleDtype

    @field_validator("group_size")
    @classmethod
    def _has_a_kernel(cls, size: int) -> int:
        return one_of(size, MLX_GROUPS, "MLX quantizes groups")

    def stored(self, w: Weight) -> tuple[Stored, ...]:
        """Values packed into uint32 words along the inputs, scales and biases [o, i/g]."""
        (rows, columns), count = sizes(w), groups(w, self.group_size)
        words = whole(w, columns * self.num_bits, f"inputs of {self.num_bits} bits", WORD, f"words of {WORD}")
        return (
            Stored(w.suffix, "uint32", (rows, words)),
            Stored("scales", self.scale_dtype, (rows, count)),
            Stored("biases", self.scale_dtype, (rows, count)),
        )


class Bnb4(Quantized):
    """bitsandbytes' four bits (QLoRA, arXiv:2305.14314): a table of 16 values, and a largest value a block of numbers.

    Proven to the byte with a 7B release (nf4, blocks of 64, largest values as they are), which no test here repeats.
    `dtype` is that of the matrix before, which its quant_state names: a JSON text, stored byte by byte. With
    `double_quant` the largest values are quantized in blocks of 256, and the text holds a number that no config has,
    here of 20 digits.
    """

    about = About(
        (
            "bitsandbytes' four bits (QLoRA, arXiv:2305.14314): a table of 16 values, and a largest value a block of "
            "numbers"
        ),
        scheme="Which scheme this is",
        quant_type="The table of 16 values",
        block_size="Weights that share a largest value [elements]",
        dtype="Dtype of the matrix before it was quantized, which its quant_state names",
        double_quant="Whether the largest values are quantized too, in blocks of 256",
    )

    scheme: Literal["bitsandbytes-4bit"]
    quant_type: Literal["nf4", "fp4"]
    block_size: Size = 64
    dtype: Literal["bfloat16", "float16", "float32"]
    double_quant: bool = False

    @field_validator("block_size")
    @classmethod
    def _has_a_kernel(cls, size: int) -> int:
        return one_of(size, BNB_BLOCKS, "bitsandbytes quantizes blocks")

    @property
    def unproven(self) -> str:
        """The text with a number in it may be a few bytes longer or shorter."""
        return "a number in each matrix's quant_state is up to a few digits longer or shorter" * self.double_quant

    def stored(self, w: Weight) -> tuple[Stored, ...]:
        """Two weights a byte, the largest values of the blocks, the table, and the text that describes them."""
        import json

        rows, columns = sizes(w)
        blocks = ceil(rows * columns, self.block_size)
        text = {"quant_type": self.quant_type, "blocksize": self.block_size, "dtype": self.dtype}
        state: dict[str, object] = {**text, "shape": [rows, columns]}
        nested: tuple[Stored, ...] = ()
        if self.double_quant:
            state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.0}
            nested = (
                Stored(f"{w.suffix}.nested_absmax", "float32", (ceil(blocks, 256),)),
                Stored(f"{w.suffix}.nested_quant_map", "float32", (256,), about=True),
            )
        length = len(json.dumps(state)) + (20 - len("0.0")) * self.double_quant
        return (
            Stored(w.suffix, "uint8", (ceil(rows * columns, 2), 1)),
            Stored(f"{w.suffix}.absmax", "uint8" if self.double_quant else "float32", (blocks,)),
            *nested,
            Stored(f"{w.suffix}.quant_map", "float32", (16,), about=True),
            Stored(f"{w.suffix}.quant_state.bitsandbytes__{self.quant_type}", "uint8", (length,), about=True),
        )


class Bnb8(Quantized):
    """bitsandbytes' LLM.int8() (arXiv:2208.07339): a row's numbers in int8 with its largest value. Unproven."""

    about = About(
        "bitsandbytes' LLM.int8() (arXiv:2208.07339): a row's numbers in int8 with its largest value",
        scheme="Which scheme this is",
    )
    missing: ClassVar[str] = "no published byte total"

    scheme: Literal["bitsandbytes-int8"]

    def stored(self, w: Weight) -> tuple[Stored, ...]:
        """The matrix, SCB [o], and a byte that names the layout."""
        rows, columns = sizes(w)
        return (
            Stored(w.suffix, "int8", (rows, columns)),
            Stored("SCB", "float32", (rows,)),
            Stored("weight_format", "uint8", (), about=True),
        )
