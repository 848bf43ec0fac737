"""Linears that multiply in FP8: copies of their weights that stay, and of tensors that live while they run.

Facts of TransformerEngine and of Megatron-LM's use of it (`--fp8-format`, `--fp8-recipe`, `--fp8-param-gather`).
"""

from __future__ import annotations

from collections.abc import Set
from typing import NamedTuple

from archcalc.calc.sharding import Shards, local_bytes, local_elements, local_weight
from archcalc.hardware import Hardware
from archcalc.tape import Op, Storage, Tape, product
from archcalc.tape.op import Variant
from archcalc.tape.ops.linear import COPIES
from archcalc.tape.sites import FP8_LINEARS
from archcalc.training.misfit import misfit
from archcalc.training.placement import Held

MULTIPLY_FP8 = {"ada": False, "hopper": False, "blackwell": True}
"""Architectures with FP8 products, and whether these read operands in either order (TransformerEngine pytorch/utils.py,
is_non_tn_fp8_gemm_supported: compute capability 10 and 11; the RTX cards of 12 are not told apart here)."""

RECIPES = {"delayed": "tensorwise"}
"""Recipes that hold the same bytes as another one."""


class Quantized(NamedTuple):
    """Weights of a rank's linears in FP8: their elements, and all that is held of them in FP8 [bytes]."""

    elements: int
    nbytes: int


def check_device(hardware: Hardware, recipe: str) -> None:
    """Raises Misfit for a device that a recipe does not run on, or that does not tell; `none` is no recipe."""
    if recipe == "none":
        return
    known = hardware.architecture
    if known not in MULTIPLY_FP8:
        why = "has no products in FP8 that are modelled" if known else "does not say its architecture"
        raise misfit(
            f"precision.fp8 {recipe}: {hardware.name} {why}",
            *("precision", "fp8"),
            value=hardware.name,
            hint=f"architectures: {', '.join(MULTIPLY_FP8)}",
        )
    if recipe == "mxfp8" and known != "blackwell":
        raise misfit(
            f"precision.fp8 mxfp8: {hardware.name} is of {known}, and MXFP8 needs blackwell",
            *("precision", "fp8"),
            value=hardware.name,
            hint="use tensorwise or blockwise",
        )


def quantized_weights(tape: Tape, held: Held, shards: Shards, recipe: str, hardware: Hardware) -> Quantized:
    """The weights of a rank whose linears multiply in FP8. Raises Misfit for a device that can't.

    Forward reads them by rows, the gradient of the input by columns. Scaled per tensor they need a transposed copy for
    that unless products read either order (pytorch/csrc/quantizer.cpp, Float8Quantizer::create_tensor); scaled by
    blocks of 128x128 or of 32 in a row they are two tensors always (pytorch/tensor/float8_blockwise_tensor.py,
    mxfp8_tensor.py). They stay from the first micro-batch on: as the weight itself, or as a cached workspace beside it
    (pytorch/module/base.py, get_weight_workspace; Megatron-LM core/extensions/transformer_engine.py, TELinear.forward).
    """
    check_device(hardware, recipe)
    either = MULTIPLY_FP8[hardware.architecture or ""]
    own = {id(op.weights[0]) for segment in tape.segments for op in segment.ops if multiplies(op)}
    elements = nbytes = 0
    for w, layers in held:
        if id(w) in own:
            local = local_weight(w, shards)
            shape = product(local.out), product(local.into)
            elements += layers * local_elements(w, shards)
            nbytes += layers * product(local.stack) * matrix_bytes(*shape, RECIPES.get(recipe, recipe), either=either)
    return Quantized(elements, nbytes)


def multiplies(op: Op) -> bool:
    """Whether an operation is such a linear. A frozen one is too, unless its matrix is packed; an adapter is not."""
    if op.site not in FP8_LINEARS or not op.weights:
        return False
    w = op.weights[0]
    adapter = w.trained and not any(save.copies for save in op.saves)
    return bool(w.into) and w.flat and w.packed is None and not adapter


def matrix_bytes(out: int, into: int, recipe: str, *, either: bool) -> int:
    """One matrix in FP8 in the orders that products read, with its scales but what pads them [bytes].

    Args:
        either: whether products read an operand in either order.
    """
    if recipe == "tensorwise":
        return out * into * (1 if either else 2) + 4
    if recipe == "blockwise":
        return 2 * (out * into + 4 * -(-out // 128) * -(-into // 128))
    return 2 * out * into + out * -(-into // 32) + -(-out // 32) * into


def input_copy(op: Op, shards: Shards, variants: Set[Variant]) -> int:
    """The copy of a linear's input that its forward reads and drops, beside the one that it may keep [bytes]."""
    copy = _copy(op, variants)
    return 0 if copy is None else local_bytes(copy, shards)


def gradient_copies(op: Op, shards: Shards, variants: Set[Variant]) -> int:
    """Copies of the gradient of a linear's output, by rows and by columns, beside the gradient itself [bytes]."""
    copy = _copy(op, variants)
    if copy is None:
        return 0
    made = op.outputs[0]
    return 2 * local_bytes(Storage(made.rows, made.features, copy.dtype), shards)


def _copy(op: Op, variants: Set[Variant]) -> Storage | None:
    """A linear's input in FP8: where its weight is frozen it is not kept, and made all the same."""
    kept = next((copy for save in op.saves if (copy := save.taken(variants)) is not None), None)
    if kept is not None or not multiplies(op):
        return kept
    dtype = next((dtype for variant, dtype in COPIES if variant in variants), None)
    return None if dtype is None else Storage(op.inputs[0].rows, op.inputs[0].features, dtype)
