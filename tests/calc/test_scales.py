"""A scale belongs to a block of numbers; the last block may be cut short, and has one like any other."""

from __future__ import annotations

import pytest

from archcalc.calc.kv_cache import cache_rows, sequence_cache
from archcalc.files.schemes import Fp8Block, PackQuantized
from archcalc.tape import Cache, Dim, Op, Tape, Weight
from archcalc.workload import Workload


def matrix(rows: int, columns: int) -> Weight:
    sizes = (Dim("rows", rows),), (Dim("columns", columns),)
    return Weight("a", "weight", *sizes, role="attention", part="backbone", dtype="bfloat16")


@pytest.mark.parametrize(
    ("rows", "columns", "scales"),
    [
        (128, 256, (1, 2)),
        (129, 256, (2, 2)),  # a second row of blocks for one row of numbers
        (128, 257, (1, 3)),  # a third column of blocks
        (1, 1, (1, 1)),
    ],
)
def test_a_block_that_is_cut_short_on_either_side_has_its_scale(
    rows: int, columns: int, scales: tuple[int, int]
) -> None:
    scheme = Fp8Block(scheme="fp8-block", block_size=[128, 128], scale_dtype="float32")
    assert [t.shape for t in scheme.stored(matrix(rows, columns))] == [(rows, columns), scales]


@pytest.mark.parametrize(("bits", "columns", "words"), [(4, 8, 1), (4, 12, 2), (8, 4, 1), (8, 12, 3), (8, 6, 2)])
def test_a_row_of_packed_numbers_ends_with_a_whole_word(bits: int, columns: int, words: int) -> None:
    """Eight numbers of 4 bits fill a word of 32, or four of 8; each row begins a new one."""
    scheme = PackQuantized.model_validate(
        {"scheme": "pack-quantized", "num_bits": bits, "group_size": 2, "scale_dtype": "bfloat16"}
    )
    packed, scale, _ = scheme.stored(matrix(3, columns))
    assert packed.shape == (3, words)
    assert scale.shape == (3, columns // 2)


@pytest.mark.parametrize(("features", "nbytes"), [(128, 132), (129, 137), (256, 264), (300, 312)])
def test_a_cached_latent_has_a_scale_of_four_bytes_for_each_128_numbers_begun(features: int, nbytes: int) -> None:
    """vLLM's fp8_ds_mla: 128 + 4, 129 + 2·4, 256 + 2·4, 300 + 3·4."""
    tape = Tape(Workload())
    latent = Cache("latent", (Dim("rank", features),))
    with tape.segment("layer", "backbone", indices=(0,)):
        tape.record(Op(kind="any", path="layer.core", site="core_attn", inputs=(), outputs=(), caches=(latent,)))
    assert [row.nbytes for row in cache_rows(tape, "fp8_ds_mla")] == [nbytes]
    assert sequence_cache(tape, "fp8_ds_mla").at(10) == 10 * nbytes
